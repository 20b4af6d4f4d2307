"""A pretend CUDA device: tensors stay on the CPU and carry a tag that follows their data.

    with PretendDevice() as device:
        policy.to(device.cuda)
        ...
    device.host_copies  # Counter of the source lines that copied from the device to the host

Mixing tagged and untagged tensors raises DeviceError where CUDA would raise; reading a tagged tensor with `numpy()`
raises TypeError, as it does there. What no CPU can show (kernels, streams, memory) is not pretended.
"""

from __future__ import annotations

import traceback
from collections import Counter
from contextlib import ExitStack
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from tests import ROOT

CUDA = torch.device("cuda", 0)
COPIES = {"aten::copy_", "aten::_to_copy", "aten::set_"}
INDEXING = {
    *("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"),
    *("aten::_unsafe_index", "aten::_unsafe_index_put"),
}
# Operators beside torch's pointwise ones that accept a zero-dimensional tensor of the host
TAKES_SCALARS = {"aten::where", "aten::masked_fill", "aten::masked_fill_", "aten::fill_", "aten::clamp"}
FACTORIES = ("new_", "zeros", "ones", "full", "empty", "rand", "arange", "tensor", "as_tensor")


class DeviceError(RuntimeError):
    """Tensors of the device and of the host met in one operation."""


class PretendDevice:
    """Installs both modes while it is entered; `host_copies` counts copies to the host by the line that asked."""

    cuda = CUDA

    def __init__(self) -> None:
        self._tags: dict[int, StorageWeakRef] = {}
        self.host_copies: Counter[str] = Counter()
        self._entered = ExitStack()

    def __enter__(self) -> PretendDevice:
        self._entered.enter_context(_Functions(self))
        self._entered.enter_context(_Operators(self))
        return self

    def __exit__(self, *error: Any) -> None:
        self._entered.close()

    def holds(self, tensor: torch.Tensor) -> bool:
        """Whether the tensor's data are on the pretend device."""
        tag = self._tags.get(_storage(tensor))
        return tag is not None and not tag.expired()

    def put(self, tensor: torch.Tensor, on: bool) -> None:
        if on:
            self._tags[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage())
        else:
            self._tags.pop(_storage(tensor), None)

    def moved(self, tensor: torch.Tensor, on: bool) -> torch.Tensor:
        """A copy on the other side, or the tensor itself where it is there already."""
        if self.holds(tensor) == on:
            return tensor
        if not on:
            self.copied_to_host()
        copy = tensor.clone()
        self.put(copy, on)
        return copy

    def copied_to_host(self) -> None:
        self.host_copies[_asked_by()] += 1


def _storage(tensor: torch.Tensor) -> int:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # a tensor without storage (meta, sparse) is on no device
        return 0


def _asked_by() -> str:
    """The innermost line of the packages that is running."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT))]
    ours = [frame for frame in frames if "/tests/" not in frame.filename and "/.venv/" not in frame.filename]
    return f"{ours[-1].filename.removeprefix(f'{ROOT}/')}:{ours[-1].lineno}" if ours else "a test"


def _tensors(values: Any) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class _Operators(TorchDispatchMode):
    """Carries the tag through every operator, and refuses operators whose inputs lie on both sides."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.pretended = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = _tensors((args, kwargs or {}))
        name = func._schema.name
        tags = [self.pretended.holds(tensor) for tensor in inputs]
        if any(tags) and not all(tags) and not _allowed(func, name, inputs, tags):
            sides = ", ".join(
                f"{tuple(t.shape)} on {'cuda' if on else 'cpu'}" for t, on in zip(inputs, tags, strict=True)
            )
            raise DeviceError(f"{name}: tensors on cuda and cpu ({sides}) at {_asked_by()}")
        if any(tags) and "mkldnn" in name:
            raise DeviceError(f"{name}: a product of the CPU's library on tensors of the device at {_asked_by()}")
        if any(tags) and name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"):
            self.pretended.copied_to_host()
        result = func(*args, **(kwargs or {}))
        if name == "aten::copy_":
            return result
        given = {_storage(tensor) for tensor in inputs}
        for tensor in _tensors(result):
            if _storage(tensor) not in given:
                self.pretended.put(tensor, any(tags))
        return result


def _allowed(func: Any, name: str, inputs: list[torch.Tensor], tags: list[bool]) -> bool:
    """Whether CUDA accepts this mixture: copies, index tensors of the host, scalars of the host."""
    host = [tensor for tensor, on in zip(inputs, tags, strict=True) if not on]
    if name in COPIES:
        return True
    if name in INDEXING:
        return tags[0] and (name == "aten::index" or tags[-1] or inputs[-1].dim() == 0)
    if torch.Tag.pointwise in func.tags or name in TAKES_SCALARS or "_foreach" in name or "fused_adam" in name:
        return all(tensor.dim() == 0 for tensor in host)
    return False


class _Functions(TorchFunctionMode):
    """Answers `tensor.device`, and moves and makes tensors with `device=`, as if the device existed."""

    def __init__(self, device: PretendDevice) -> None:
        super().__init__()
        self.pretended = device

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name, tensor = getattr(func, "__name__", ""), args[0] if args else None
        on = isinstance(tensor, torch.Tensor) and self.pretended.holds(tensor)
        if name == "__get__":
            owner = getattr(func, "__self__", None)
            if owner is torch.Tensor.device:  # type: ignore[comparison-overlap]
                return CUDA if on else func(*args)
            if owner is torch.Tensor.is_cuda:
                return on
            if owner is torch.Tensor.is_cpu:
                return not on
        if name in ("numpy", "__array__") and on:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy at {_asked_by()}")
        if name == "pin_memory":
            return tensor
        if name == "cpu" and isinstance(tensor, torch.Tensor):
            return self.pretended.moved(tensor, on=False)
        if name == "tolist" and on:
            self.pretended.copied_to_host()
        if name == "to" and isinstance(tensor, torch.Tensor):
            return self._to(func, tensor, list(args[1:]), kwargs)
        if name == "one_hot":  # reads its input's values on the way, which no mode can follow
            with _disable_current_modes():
                result = func(*args, **kwargs)
            self.pretended.put(result, on)
            return result
        return self._made(func, name, args, kwargs)

    def _to(self, func: Any, tensor: torch.Tensor, rest: list[Any], kwargs: dict[str, Any]) -> Any:
        goal = kwargs.pop("device", None)
        if goal is None and rest and isinstance(rest[0], (torch.device, str)):
            goal, rest = rest[0], rest[1:]
        if goal is None and rest and isinstance(rest[0], torch.Tensor):
            goal, rest = (CUDA if self.pretended.holds(rest[0]) else "cpu"), [rest[0].dtype, *rest[1:]]
        if goal is None:
            return func(tensor, *rest, **kwargs)
        moved = self.pretended.moved(tensor, on=torch.device(goal).type == "cuda")
        dtypes = [value for value in (*rest, kwargs.get("dtype")) if isinstance(value, torch.dtype)]
        return func(moved, dtypes[0]) if dtypes else moved

    def _made(self, func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        goal = kwargs.get("device")
        on = goal is not None and torch.device(goal).type == "cuda"
        if on:
            kwargs["device"] = "cpu"
        result = func(*args, **kwargs)
        if goal is None and name == "new_tensor":  # the one factory of a tensor that no operator makes
            goal, on = args[0], self.pretended.holds(args[0])
        for tensor in _tensors(result):
            if on or (goal is not None and name.startswith(FACTORIES)):
                self.pretended.put(tensor, on)
        return result

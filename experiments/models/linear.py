"""Faster linear layers on a CPU while a model is trained: oneDNN's float32 product, forward and backward.

For the reason that `packed_linear` gives: MKL, which torch takes, leaves half of an AMD processor idle. Weights stay
where they are, since training moves them. Everywhere else (GPU, half precision, sharded weights) the layer is torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

MIN_ROWS = 32  # below, packing costs more than the faster product saves


def product(rows: Float[Tensor, "*rows n"], weight: Float[Tensor, "m n"]) -> Float[Tensor, "*rows m"]:
    """rows · weightᵀ, with gradients to both."""
    if not _is_eligible(rows, weight):
        return F.linear(rows, weight)
    result: Tensor = _Product.apply(rows, weight)  # type: ignore[no-untyped-call]
    return result


class Linear(nn.Linear):
    """torch's layer with oneDNN's product. An existing layer becomes one by its class: it has no state of its own."""

    def forward(self, input: Tensor) -> Tensor:
        if not _is_eligible(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        result = product(input, self.weight)
        return result if self.bias is None else result + self.bias


def use_onednn(model: nn.Module) -> None:
    """Turn the linear layers of `model` into ours; `state_dict`, names and parameters stay the same."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for layer in model.modules():
        if type(layer) is nn.Linear:
            layer.__class__ = Linear


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _onednn(rows, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        to_rows = _onednn(grad, weight.T) if ctx.needs_input_grad[0] else None
        return to_rows, outer(grad, rows) if ctx.needs_input_grad[1] else None


def outer(left: Float[Tensor, "*rows m"], right: Float[Tensor, "*rows n"]) -> Float[Tensor, "m n"]:
    """leftᵀ · right, the gradient of a weight; the larger side last, which oneDNN lays out faster."""
    left, right = left.flatten(0, -2), right.flatten(0, -2)
    if left.shape[-1] > right.shape[-1]:
        return _onednn(right.T, left.T).T
    return _onednn(left.T, right.T)


def _onednn(rows: Tensor, weight: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, None, "none", [], "")
    return result


def _is_eligible(rows: Tensor, weight: Tensor) -> bool:
    plain = rows.device.type == weight.device.type == "cpu" and rows.dtype == weight.dtype == torch.float32
    enough = rows.numel() >= MIN_ROWS * rows.shape[-1]
    return plain and enough and type(weight) in (nn.Parameter, Tensor) and not torch.is_autocast_enabled("cpu")

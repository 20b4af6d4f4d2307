"""Faster linear layers on a CPU while nothing is trained: oneDNN's float32 product instead of MKL's.

torch sends float32 products to MKL, which on AMD processors leaves half of the machine idle: one core of an EPYC made
95 GFLOP/s with it and 220 with oneDNN, and at 16 rows, where decoding spends its time, 75 and 150. Results agree
within float error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from experiments.models.linear import Linear

NUM_ROWS = 16  # what weights are laid out for; other numbers of rows work as well
MAX_COPY = 2**31  # bytes of a second, packed copy of the weights; larger models go unpacked (a quarter slower)


@contextmanager
def packed_linears(model: nn.Module) -> Iterator[None]:
    """While this context lasts, the float32 linear layers of `model` on a CPU run through oneDNN.

    Without gradients, which oneDNN's product does not have: use it under `torch.no_grad`. The weights must not change.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        yield
        return
    layers = [
        m
        for m in model.modules()
        if isinstance(m, nn.Linear) and type(m) in (nn.Linear, Linear) and _is_eligible(m.weight)
    ]
    copy = sum(layer.weight.numel() * layer.weight.element_size() for layer in layers) <= MAX_COPY
    try:
        for layer in layers:
            vars(layer)["forward"] = _product(layer.weight, layer.bias, copy=copy)  # hides the method of the class
        yield
    finally:
        for layer in layers:
            vars(layer).pop("forward", None)


def _is_eligible(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and type(weight) is nn.Parameter


def _product(weight: Tensor, bias: Tensor | None, *, copy: bool) -> Callable[[Tensor], Tensor]:
    weight = weight.detach()
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, NUM_ROWS) if copy else weight

    def product(rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
        return result

    return product

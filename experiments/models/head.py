"""Log-probabilities of given tokens without the logits of the whole vocabulary ever standing in memory at once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from experiments.models.linear import product

CHUNK = 1024  # tokens whose logits exist at a time


class _TokenLogps(torch.autograd.Function):
    """log softmax(cap(h Wᵀ))[target], in chunks; the backward makes each chunk's logits again."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, cap: float | None, scale: float) -> Tensor:
        logps = hidden.new_empty(len(hidden), dtype=_precise(hidden.dtype))
        normalizers = torch.empty_like(logps)
        for i in range(0, len(hidden), CHUNK):
            part = slice(i, i + CHUNK)
            logits = _logits(hidden[part], weight, cap, scale)
            normalizers[part] = logits.logsumexp(-1)
            logps[part] = logits.gather(-1, targets[part, None]).squeeze(-1) - normalizers[part]
        ctx.save_for_backward(hidden, weight, targets, normalizers)
        ctx.cap, ctx.scale = cap, scale
        return logps

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, normalizers = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        to_weight = torch.zeros_like(weight, dtype=_precise(weight.dtype)) if ctx.needs_input_grad[1] else None
        for i in range(0, len(hidden), CHUNK):
            part = slice(i, i + CHUNK)
            logits = _logits(hidden[part], weight, ctx.cap, ctx.scale)
            grad = grads[0][part, None] * ctx.scale
            slope = None if ctx.cap is None else 1 - (logits / ctx.cap).square()
            to_logits = logits.sub_(normalizers[part, None]).exp_().mul_(-grad)
            to_logits.scatter_add_(-1, targets[part, None], grad)
            if slope is not None:
                to_logits *= slope
            to_logits = to_logits.to(weight.dtype)
            if to_hidden is not None:
                to_hidden[part] = product(to_logits, weight.T)
            if to_weight is not None:
                to_weight += to_logits.T @ hidden[part]
        return to_hidden, None if to_weight is None else to_weight.to(weight.dtype), None, None, None


def token_logps(
    hidden: Float[Tensor, "m d"],
    weight: Float[Tensor, "v d"],
    targets: Int[Tensor, " m"],
    *,
    cap: float | None = None,
    scale: float = 1.0,
) -> Float[Tensor, " m"]:
    """log π(target | hidden) in nats; `cap` is Gemma-2's soft cap of the logits, `scale` a factor before it."""
    logps: Tensor = _TokenLogps.apply(hidden, weight, targets, cap, scale)  # type: ignore[no-untyped-call]
    return logps


def next_token_logps(
    hidden: Float[Tensor, "m d"], weight: Float[Tensor, "v d"], *, cap: float | None = None, scale: float = 1.0
) -> Float[Tensor, "m v"]:
    """log π(· | hidden) in nats over the whole vocabulary: for few tokens at a time."""
    return _logits(hidden, weight, cap, scale).log_softmax(-1)


def _logits(hidden: Tensor, weight: Tensor, cap: float | None, scale: float) -> Tensor:
    logits = product(hidden, weight).to(_precise(hidden.dtype))
    if scale != 1:
        logits = logits * scale
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _precise(dtype: torch.dtype) -> torch.dtype:
    """float32, or what is finer."""
    return torch.promote_types(dtype, torch.float32)

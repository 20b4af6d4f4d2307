"""What a step logs, and when it must stop: sums over micro-batches, and the search for the first bad tensor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.data import Example
from experiments.sharding import local
from methods.types import Batch, Loss, mean_over_ranks


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names the tensor and the file that holds the batch."""


class Logs:
    """Weighted sums over the micro-batches of a step, kept on the device until the step ends."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, prefix: str, loss: Loss, weight: float) -> None:
        for name, value in {"loss": loss.value.detach(), **loss.metrics}.items():
            key = f"{prefix}/{name}" if prefix else name
            self._sums[key] = self._sums.get(key, torch.zeros((), device=value.device)) + weight * value

    def put(self, key: str, value: Tensor) -> None:
        self._sums[key] = value.detach()

    def means(self) -> dict[str, float]:
        """Over all processes, in one transfer from the device."""
        device = next(iter(self._sums.values())).device
        values = mean_over_ranks(torch.stack([value.float().to(device) for value in self._sums.values()]))
        return dict(zip(self._sums, values.tolist(), strict=True))


def check_finite(
    value: Tensor, what: str, *, policy: nn.Module, rows: Sequence[Example], batch: Batch, step: int, keep: Path | None
) -> None:
    """NonFiniteError if `value` is not; the batch is then written to `keep`."""
    if torch.isfinite(value).all():
        return
    names = [n for n, p in policy.named_parameters() if not torch.isfinite(local(p)).all()]
    names += [
        f"gradient of {n}"
        for n, p in policy.named_parameters()
        if p.grad is not None and not torch.isfinite(local(p.grad)).all()
    ]
    where = ""
    if keep is not None:
        from safetensors.torch import save_file

        blocks = batch.blocks
        save_file({f"{role}/{k}": v.contiguous() for role, b in blocks.items() for k, v in vars(b).items()}, keep)
        where = f"; its batch is in {keep}"
    raise NonFiniteError(
        f"{what} is {value.item()} at step {step}; first bad tensor: {names[0] if names else what};"
        f" rows {', '.join(str(row.row) for row in rows)}{where}. A lower learning rate is the usual remedy"
    )

"""Logs of a step (sums over micro-batches), and the search for the first tensor that is not finite."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.disk import DiskFull, num_bytes, writing
from experiments.models.sharding import local
from experiments.training.batches import Micro
from methods.types import Loss, mean_over_ranks

QUANTILES = (0.1, 0.5, 0.9)  # of a distribution; named _p10, _p50, _p90


class NonFiniteError(RuntimeError):
    """A loss or gradient is NaN or infinite; the message names the tensor and the file that holds the batch."""


class Logs:
    """Weighted sums over the micro-batches of a step, kept on the device until the step ends."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._values: dict[str, list[Tensor]] = {}

    def add(self, prefix: str, loss: Loss, weight: float) -> None:
        for name, value in {"loss": loss.value.detach(), **loss.metrics}.items():
            key = f"{prefix}/{name}" if prefix else name
            self._sums[key] = self._sums.get(key, torch.zeros((), device=value.device)) + weight * value
        for name, values in loss.distributions.items():
            self._values.setdefault(f"{prefix}/{name}", []).append(values.float())

    def put(self, key: str, value: Tensor) -> None:
        self._sums[key] = value.detach()

    def means(self) -> dict[str, float]:
        """Over all processes, in one transfer from the device; of a distribution each process's own quantiles."""
        for key, parts in self._values.items():
            values = torch.cat(parts)
            found = values.quantile(torch.tensor(QUANTILES, device=values.device))
            self._sums |= {f"{key}_p{100 * q:.0f}": value for q, value in zip(QUANTILES, found, strict=True)}
        device = next(iter(self._sums.values())).device
        values = mean_over_ranks(torch.stack([value.float().to(device) for value in self._sums.values()]))
        return dict(zip(self._sums, values.tolist(), strict=True))


def check_finite(
    value: Tensor, what: str, *, nets: Sequence[nn.Module], micros: Sequence[Micro], step: int, keep: Path | None
) -> None:
    """NonFiniteError if `value`, to which these micro-batches led, is not; they are then written to `keep`."""
    if torch.isfinite(value).all():
        return
    named = [pair for net in nets for pair in net.named_parameters()]
    names = [n for n, p in named if not torch.isfinite(local(p)).all()]
    names += [f"gradient of {n}" for n, p in named if p.grad is not None and not torch.isfinite(local(p.grad)).all()]
    where = ""
    if keep is not None:
        from safetensors.torch import save_file

        tensors = {
            (f"{i}/" if len(micros) > 1 else "") + f"{role}/{key}": value.contiguous()
            for i, micro in enumerate(micros)
            for role, block in micro.batch.blocks.items()
            for key, value in vars(block).items()
        }
        try:
            with writing(keep, num_bytes(tensors), discard=True):
                save_file(tensors, keep)
            where = f"; its batch is in {keep}"
        except DiskFull as error:
            where = f"; its batch is not kept ({error})"
    rows = ", ".join(str(row.row) for micro in micros for row in micro.rows)
    raise NonFiniteError(
        f"{what} is {value.item()} at step {step}; first bad tensor: {names[0] if names else what};"
        f" rows {rows}{where}. A lower learning rate is the usual remedy"
    )

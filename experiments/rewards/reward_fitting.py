"""A reward model in training: pairs or labels in, a better network out; exact to the bit when it is interrupted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import AdamW

from experiments.data.tokens import TokenPair
from experiments.rewards.calibration import calibration_of_margins, preferred
from experiments.rewards.reward_models import RewardModel, score_rows, scores
from experiments.training.players import private_randomness
from methods.reward_losses import (
    RewardLoss,
    classification_loss,
    ranking_loss,
    weighted_mean,
    wgan_loss,
)

MICRO = 16  # sequences of one forward in training
LOSSES = {"ranking": ranking_loss, "wgan": wgan_loss}


@dataclass(frozen=True)
class RankedItem:
    """The better response must score above each of the worse ones; `given` is what all of them are compared with.

    Its loss is the mean over the worse ones, so that a golden response with four samples counts as one.
    """

    better: TokenPair
    worse: tuple[TokenPair, ...]
    weight: float = 1.0
    given: TokenPair | None = None

    @property
    def sequences(self) -> tuple[TokenPair, ...]:
        return (self.better, *self.worse)


@dataclass(frozen=True)
class Labelled:
    """A response that is accepted (label 1) or not (0)."""

    sequence: TokenPair
    label: float
    weight: float = 1.0
    given: TokenPair | None = None

    @property
    def sequences(self) -> tuple[TokenPair, ...]:
        return (self.sequence,)


Item = RankedItem | Labelled


class Fitting:
    """One training of a reward model, a step at a time.

    Its state is the number of steps, the network and the optimizer: order and dropout come from seed and step.
    """

    def __init__(
        self,
        model: RewardModel,
        items: Sequence[Item],
        *,
        seed: int,
        loss: RewardLoss = "ranking",
        lr: float | None = None,
        batch_size: int = 64,
        epochs: int = 1,
        max_grad_norm: float = 1.0,
    ) -> None:
        """`loss` is that of comparisons; labelled items have cross-entropy. `lr`: None is what suits the network."""
        if not items:
            raise ValueError("a reward model has nothing to learn from: no preference pairs and no golden responses")
        self.model, self.items, self.seed, self.loss = model, items, seed, LOSSES[loss]
        self.batch_size, self.epochs, self.max_grad_norm = batch_size, epochs, max_grad_norm
        self.mean_weight = sum(item.weight for item in items) / len(items)
        parameters = list(model.parameters())
        self.optimizer = AdamW(parameters, lr=lr or model.default_lr, weight_decay=0.0) if parameters else None
        self.step_number = 0

    @property
    def steps(self) -> int:
        return self.epochs * math.ceil(len(self.items) / self.batch_size) if self.optimizer else 0

    @property
    def done(self) -> bool:
        return self.step_number >= self.steps

    def step(self) -> float:
        """One update; the loss before it."""
        assert self.optimizer is not None
        epoch, place = divmod(self.step_number, self.steps // self.epochs)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.items))
        batch = [self.items[i] for i in order[place * self.batch_size : (place + 1) * self.batch_size]]
        total = 0.0
        self.model.train()
        with private_randomness(self.seed, "fit", self.step_number):
            for part in _parts(batch):
                losses = self._losses(part)
                weights = torch.tensor([item.weight for item in part], device=losses.device)
                loss = weighted_mean(losses, weights, self.mean_weight) * (len(part) / len(batch))
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.item()
        self.model.eval()
        if not math.isfinite(total):
            raise ValueError(f"the reward model's loss is {total} at its step {self.step_number + 1}; lower its lr")
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        return total

    def state(self) -> dict[str, Tensor]:
        tensors = {f"net/{key}": value for key, value in self.model.state_dict().items()}
        moments = self.optimizer.state_dict()["state"] if self.optimizer else {}
        tensors |= {f"optimizer/{i}/{key}": value for i, entry in moments.items() for key, value in entry.items()}
        return tensors | {"step": torch.tensor(self.step_number)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state` returned; the network stays as it is if it is not among the tensors."""
        if net := {key.removeprefix("net/"): v for key, v in tensors.items() if key.startswith("net/")}:
            self.model.load_state_dict(net)
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, i, name = key.split("/")
                moments.setdefault(int(i), {})[name] = value.clone()
        if self.optimizer:
            groups = self.optimizer.state_dict()["param_groups"]
            self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.step_number = int(tensors["step"])

    def _losses(self, part: Sequence[Item]) -> Float[Tensor, " b"]:
        rows = [(sequence, item.given) for item in part for sequence in item.sequences]
        scored = torch.split(score_rows(self.model, rows), [len(item.sequences) for item in part])
        if isinstance(part[0], Labelled):
            labels = torch.tensor([item.label for item in part if isinstance(item, Labelled)], device=scored[0].device)
            return classification_loss(torch.cat(scored), labels)
        return torch.stack([self.loss(score[0] - score[1:]).mean() for score in scored])


def fit(model: RewardModel, items: Sequence[Item], *, seed: int, **settings: Any) -> float:
    """Train `model` in place to the end; the mean loss of its steps. Settings as those of `Fitting`."""
    fitting, losses = Fitting(model, items, seed=seed, **settings), list[float]()
    while not fitting.done:
        losses.append(fitting.step())
    return sum(losses) / max(1, len(losses))


def quality(model: RewardModel, pairs: Sequence[RankedItem]) -> dict[str, float]:
    """`{"accuracy": 0.67, "ece": 0.03}` on held-out pairs (the first of the worse ones); nothing without pairs."""
    if not pairs:
        return {}
    better = scores(model, [(pair.better, pair.given) for pair in pairs])
    worse = scores(model, [(pair.worse[0], pair.given) for pair in pairs])
    margins = (better - worse).double().cpu().numpy()
    return {"accuracy": float(preferred(margins).mean()), "ece": calibration_of_margins(margins).error}


def _parts(batch: Sequence[Item]) -> list[list[Item]]:
    """Items of like length together, as many as a forward takes: at least one, at most `MICRO` sequences."""
    ordered = sorted(batch, key=lambda item: max(map(len, item.sequences)))
    parts: list[list[Item]] = []
    for item in ordered:
        if not parts or sum(len(other.sequences) for other in (*parts[-1], item)) > MICRO:
            parts.append([])
        parts[-1].append(item)
    return parts

"""Sample, fit the reward model, score, give the policy its batches: an alternation as a source of batches.

Everything is done when a round's first batch is asked for, so one trainer serves these methods and the offline ones.
The weights of the reward model are a player's and lie in the checkpoint as any player's; what a checkpoint in the
middle of a round holds besides is here: the round, the phase, the half-made fit, and the responses it learns from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.tokens import Example, TokenizedData, TokenPair
from experiments.rewards.pools import comparisons
from experiments.rewards.reward_fitting import Fitting, Item, Labelled, RankedItem, fit, quality
from experiments.rewards.reward_models import RewardModel, reward_model, scores
from experiments.rewards.rollouts import RolloutSource, seed_of
from experiments.training import kept_networks
from experiments.training.samples import SampledRow
from experiments.training.sources import TrainingContext

NUM_HELD_OUT = 100  # pairs on which a reward model is judged each round, at most
NUM_LESSONS = 512  # pairs of the dev split that a judge learns from, at most
JUDGE_BATCH = 8  # pairs of an update of a judge, whatever the reward model's: a dev split is small
NUM_KEPT = 12  # rounds whose reward models are kept beside the run
JUDGE = 1_000_003  # added to the seed: a judge shares no randomness with what it judges


class Alternation(RolloutSource):
    """Rollouts that are scored by a network which is fitted before each of them; subclasses say on what.

    A round is a rollout. Its phases are fits of the same network, one after the other.
    """

    part: Any  # of the method: the rewarder whose network this is

    def __init__(
        self, examples: Sequence[Example], *, table: TokenizedData, steps: int, kept: Path | None = None, **rest: Any
    ) -> None:
        """`examples` are the rows whose prompts the policy is trained on, `table` all the data.

        `steps` are the run's updates. Fitted networks go to the folder `kept`; `rest` is as for `Rollouts`.
        """
        super().__init__(examples, **rest)
        self.table, self.steps, self.kept = table, steps, kept
        self.held_out = comparisons(table.held_out)[:NUM_HELD_OUT]
        self.judge: RewardModel | None = None
        self.tokens = 0  # that the policy has generated and that the reward model has learnt from, since the run began
        self.fitted: dict[str, float] = {}  # what to log of the round whose first step this is
        self.half: PausedFit | None = None  # a fit under way, or one that an interrupted run left

    def phases(self, number: int, count: int) -> list[Callable[[], list[Item]]]:
        """The lessons that the network is fitted on before the `count` prompts of round `number` are scored; making
        them may sample.
        """
        raise NotImplementedError

    def attach(self, stage: TrainingContext) -> None:
        super().attach(stage)
        net = stage.nets[self.part.name]
        assert isinstance(net, RewardModel)
        self.net = net

    def prompts(self, number: int) -> Sequence[Example]:
        """The prompts of a whole round, or as many as the run still has updates for."""
        sampling = self.method.sampling
        left = self.steps - number * sampling.batches * sampling.epochs
        return super().prompts(number)[: left * self.batch_size]

    def before_scoring(self, number: int, rows: Sequence[SampledRow]) -> None:
        """Fit the network, phase by phase, from where an interrupted run left off."""
        left, log = self.half, dict[str, float]()
        for phase, make in enumerate(self.phases(number, len(rows))):
            if left is not None and (left.number, left.phase) > (number, phase):
                continue
            resumed = left if left is not None and (left.number, left.phase) == (number, phase) else None
            self.half = resumed or PausedFit(number, phase, make())
            log |= self._fit(self.half)
            if self.kept is not None and number < NUM_KEPT and self.stage.accelerator.is_main_process:
                kept_networks.keep(self.kept, f"{self.part.name}-round{number}", self.net)
        self.half = None
        # a checkpoint in the middle of a fit must not hold them: a resumed run draws the rows again
        self.tokens += sum(len(sample.sequence.completion) for row in rows for sample in row.samples)
        log |= quality(self.net, self.held_out) | self._judged(rows)
        log["tokens_consumed"] = float(self.tokens)
        self.fitted = {f"{self.part.name}/{key}": value for key, value in log.items()}

    def step(self, step: int) -> Sequence[Example]:
        self.fitted = {}
        return super().step(step)

    def metrics(self, step: int) -> dict[str, float]:
        """Metrics of the rollout and, in the first step of a round, of the reward model."""
        return super().metrics(step) | self.fitted

    def state(self) -> dict[str, Tensor]:
        half = {} if self.half is None else self.half.state()
        return super().state() | half | {"rounds/tokens": torch.tensor(self.tokens)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        super().load(tensors)
        self.tokens, self.half = int(tensors["rounds/tokens"]), PausedFit.of(tensors)

    def answers(self, prompts: Sequence[Example], number: int, *, samples: int) -> list[list[TokenPair]]:
        """The policy's responses to each prompt, for the reward model to learn from."""
        drawn = self.draw(prompts, number=-1 - number, num_generations=samples)  # other draws than the rollout's
        sequences = [[sample.sequence for sample in row.samples] for row in drawn]
        self.tokens += sum(len(s.completion) for each in sequences for s in each)
        return sequences

    def fresh(self, seed: int) -> RewardModel:
        """A network as this round's was before it learnt anything, if `seed` is the run's."""
        return reward_model(
            self.part.scorer,
            policy=self.stage.policy,
            policy_tokenizer=self.tokenizer,
            seed=seed,
            max_length=self.part.rm_max_length,
            reference=self.stage.reference,
        )

    def _fit(self, half: PausedFit) -> dict[str, float]:
        part, items = self.part, half.items
        half.fitting = fitting = Fitting(
            self.net.requires_grad_(True),
            items,
            seed=seed_of(self.seed, part.name, half.number, half.phase),
            loss=getattr(part, "rm_loss", "ranking"),
            lr=part.rm_lr,
            batch_size=part.rm_batch_size,
            epochs=part.rm_epochs,
        )
        if half.saved is not None:
            fitting.load(half.saved)
        while not fitting.done:
            half.losses.append(fitting.step())
            self.on_work()
        self.net.requires_grad_(False).eval()
        self.tokens += part.rm_epochs * sum(len(s) for item in items for s in item.sequences)
        return {"loss": sum(half.losses) / max(1, len(half.losses)), "num_items": float(len(items))}

    def _judged(self, rows: Sequence[SampledRow]) -> dict[str, float]:
        """The mean score of the samples by a model that trains no policy: it learnt from the dev split's pairs."""
        lessons = comparisons(self.table.dev)[:NUM_LESSONS]
        if not lessons:
            return {}
        if self.judge is None:
            self.judge = self.fresh(self.seed + JUDGE)
            fit(self.judge, lessons, seed=self.seed + JUDGE, batch_size=JUDGE_BATCH)
        samples = [(sample.sequence, None) for row in rows for sample in row.samples]
        return {"reward/judged": scores(self.judge, samples).mean().item()}


@dataclasses.dataclass
class PausedFit:
    """A fit under way. `saved` is the state that an interrupted one left; the network is a player's, not in it."""

    number: int  # of the round
    phase: int
    items: Sequence[Item]
    losses: list[float] = dataclasses.field(default_factory=list)
    saved: Mapping[str, Tensor] | None = None
    fitting: Fitting | None = None

    def state(self) -> dict[str, Tensor]:
        content = {
            "number": self.number,
            "phase": self.phase,
            "losses": self.losses,
            "items": list(map(_plain, self.items)),
        }
        fitted = self.fitting.state() if self.fitting is not None else dict(self.saved or {})
        tensors = {f"rounds/fit/{key}": value for key, value in fitted.items() if not key.startswith("net/")}
        return tensors | {"rounds/half": torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> PausedFit | None:
        if "rounds/half" not in tensors:
            return None
        content = json.loads(tensors["rounds/half"].cpu().numpy().tobytes())
        saved = {key.removeprefix("rounds/fit/"): v for key, v in tensors.items() if key.startswith("rounds/fit/")}
        items = list(map(_item, content["items"]))
        return cls(content["number"], content["phase"], items, content["losses"], saved)


def _plain(item: Item) -> dict[str, Any]:
    sequences = [[s.prompt.tolist(), s.completion.tolist()] for s in item.sequences]
    return {"weight": item.weight, "label": getattr(item, "label", None), "sequences": sequences}


def _item(plain: Mapping[str, Any]) -> Item:
    read = [TokenPair(*(np.array(ids, dtype=np.int32) for ids in parts)) for parts in plain["sequences"]]
    if plain["label"] is not None:
        return Labelled(read[0], plain["label"], plain["weight"])
    return RankedItem(read[0], tuple(read[1:]), plain["weight"])

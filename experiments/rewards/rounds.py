"""APO and GAPO as sources of batches: what each fits its reward model on, and which prompts the policy gets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from experiments.data.tokens import TokenizedData
from experiments.rewards.alternation import Alternation
from experiments.rewards.pools import (
    Pools,
    accepted_and_rejected,
    as_prompt,
    comparisons,
    golden_over_samples,
    pools,
    portion,
    stretch,
)
from experiments.rewards.reward_fitting import Item, Labelled
from methods.protocols import Curricular, Curriculum, Method
from methods.types import Role


class GoldenRounds(Alternation):
    """APO: golden responses above samples, and preference pairs, on prompts that the policy is not trained on."""

    def __init__(self, part: Any, method: Method, table: TokenizedData, steps: int, **rest: Any) -> None:
        self.part, self.pools = part, _pools(part, table)
        # one rollout serves all updates of a round
        sampling = dataclasses.replace(method.sampling, batches=math.ceil(steps / part.rounds), epochs=1)
        method = dataclasses.replace(method, sampling=sampling)
        super().__init__(self.pools.prompts, table=table, steps=steps, method=method, **rest)

    def lr_factor(self, step: int) -> float:
        factor: float = self.part.lr_factor(step // self.method.sampling.batches)
        return factor

    def phases(self, number: int, count: int) -> list[Callable[[], list[Item]]]:
        """A sequential model's first round goes on from the baseline's: one that learnt the preference pairs alone."""
        part = self.part
        first = [lambda: self._prior(number, count)] if part.sequential and part.prior_weight and not number else []
        return [*first, lambda: self._lessons(number, count)]

    def _lessons(self, number: int, count: int) -> list[Item]:
        part = self.part
        if number and not part.sequential:
            self.net.load_state_dict(self.fresh(self.seed).state_dict())
        items = self._prior(number, count)
        if part.adversarial:
            golden = portion(self.pools.golden, self._share(count), [self.seed, number, 1])[: part.golden_prompts]
            answers = self.answers(golden, number, samples=self.method.sampling.num_generations)
            # all golden prompts together weigh 1, all preference pairs β₂
            weight = len(items) / (part.prior_weight * len(golden)) if part.prior_weight else 1.0
            items += golden_over_samples(golden, answers, weight)
        return items

    def _prior(self, number: int, count: int) -> list[Item]:
        if not self.part.prior_weight:
            return []
        rows = portion(self.pools.prior, self._share(count), [self.seed, number, 0])
        return [*comparisons(rows[: self.part.prior_pairs])]

    def _share(self, count: int) -> float:
        """The share of each pool that a round takes: its `count` prompts divided by all of the policy's."""
        return min(1.0, count / len(self.pools.prompts))


class StagedRounds(Alternation):
    """GAPO: a warm-up on pairs, then stages of accepted, rejected and generated responses."""

    def __init__(self, part: Any, method: Method, table: TokenizedData, steps: int, **rest: Any) -> None:
        self.part = part
        self.pairs = [row for row in table.train if {"chosen", "rejected"} <= row.sequences.keys()]
        if not self.pairs:
            raise ValueError(f"gapo learns from pairs of accepted and rejected responses, and {table.name} has none")
        super().__init__(table.train, table=table, steps=steps, method=method, **rest)

    def phases(self, number: int, count: int) -> list[Callable[[], list[Item]]]:
        warmup: list[Callable[[], list[Item]]] = [self._warmup] if number == 0 else []
        return [*warmup, lambda: self._stage(number)] if self.part.adversarial else warmup

    def _warmup(self) -> list[Item]:
        return [*accepted_and_rejected(stretch(self.pairs, 0, self.part.warmup_items, self.seed))]

    def _stage(self, number: int) -> list[Item]:
        part = self.part
        taken = stretch(self.pairs, part.warmup_items + number * part.stage_items, part.stage_items, self.seed)
        both = accepted_and_rejected(taken)
        accepted, rejected = ([item for item in both if item.label == label] for label in (1.0, 0.0))
        num_negative = round(len(accepted) * part.negative_share / (1 - part.negative_share))
        num_generated = round(num_negative * part.generated_share)
        random = np.random.default_rng([self.seed, number, 2])
        sides: list[Role] = ["chosen" if random.random() < 0.5 else "rejected" for _ in range(num_generated)]
        asked = [as_prompt(taken[i % len(taken)], side) for i, side in enumerate(sides)]
        generated = [Labelled(drawn, 0.0) for (drawn,) in self.answers(asked, number, samples=1)]
        order = random.permutation(len(rejected))[: num_negative - num_generated]
        return [*accepted, *generated, *(rejected[i] for i in order)]


def alternation(method: Method, **rest: Any) -> Alternation | None:
    """The source of a method whose rewards are learnt in rounds; None for any other.

    `rest` is table (all the data), steps (the run's updates), batch_size, seed, tokenizer, verifier and kept.
    """
    for part in method.regularizers:
        if isinstance(part, Curricular) and part.curriculum in CURRICULA:
            return CURRICULA[part.curriculum](part, method, **rest)
    return None


class PairRounds(Alternation):
    """The reward model learns from the data's preference pairs, once, before the first rollout is scored."""

    def __init__(self, part: Curricular, method: Method, table: TokenizedData, steps: int, **rest: Any) -> None:
        self.part, self.pairs = part, comparisons(table.train)
        if not self.pairs:
            raise ValueError(f"{part.name} learns from preference pairs, and {table.name} has none")
        super().__init__(table.train, table=table, steps=steps, method=method, **rest)

    def phases(self, number: int, count: int) -> list[Callable[[], list[Item]]]:
        return [] if number else [lambda: [*self.pairs]]


# By what a part declares; a part of the curriculum `once` is fitted before the run (`experiments.rewards.scorers`)
CURRICULA: Mapping[Curriculum, Callable[..., Alternation]] = {
    "pairs": PairRounds,
    "golden": GoldenRounds,
    "stages": StagedRounds,
}


def _pools(part: Any, table: TokenizedData) -> Pools:
    made = pools(table.train, prior_share=part.prior_share, golden_share=part.golden_share)
    if part.prior_weight and not comparisons(made.prior):
        raise ValueError(f"apo learns from preference pairs, and {table.name} has none; set apo.prior_weight=0")
    golden = tuple(row for row in made.golden if "expert" in row.sequences)
    if part.adversarial and not golden:
        raise ValueError(f"apo learns from expert responses, and {table.name} has none; set apo.adversarial=false")
    return dataclasses.replace(made, golden=golden)

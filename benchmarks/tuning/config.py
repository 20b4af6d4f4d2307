"""The configuration of a search: methods, the space of their hyperparameters, a budget, and a comparison's model and
data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.comparison.config import DataConfig, OutputConfig, TrainingConfig, validate_lists
from registry.datasets import DEFAULT_DATASET
from registry.fields import MAX_SEED, above, as_json, at_least, bounded, from_json
from registry.models import DEFAULT_MODEL

TRIALS = 20


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The same budget for every method: `trials` (None: 20), or `budget_minutes` of measured time instead.

    `space` are ranges by dotted name, `{"ganpo_dpo.latent.weight": "0.1:10:log", "*.lr": "1e-5,1e-4"}`; `settings` are
    hyperparameters that are fixed. `seeds` are those of the trials.
    """

    methods: tuple[str, ...] = ("dpo", "ganpo_dpo")
    model: str = DEFAULT_MODEL
    dataset: str = DEFAULT_DATASET
    seeds: tuple[int, ...] = bounded((1000,), low=0, high=MAX_SEED)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    space: Mapping[str, str] = dataclasses.field(default_factory=dict)
    trials: int | None = at_least(1, None)
    budget_minutes: float | None = above(0, None)
    metrics: tuple[str, ...] = ("dev/accuracy",)  # several: a Pareto front
    constraints: tuple[str, ...] = ()  # dev/length_growth<=0.1
    samplers: tuple[str, ...] = ("gp",)  # each is an arm with its own budget
    pruner: str = "none"
    storage: str | None = None  # a database that several machines share; None: a journal file in the output folder
    workers: int = at_least(1, 1)  # processes on this machine
    dev_pairs: int | None = at_least(1, None)  # None: all
    num_prompts: int = at_least(1, 32)  # of a metric of responses
    max_new_tokens: int = at_least(1, 128)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        validate_lists(self, "methods", "seeds", "metrics", "samplers")
        if self.trials is not None and self.budget_minutes is not None:
            raise ValueError("a search has either trials or budget_minutes; leave one of them out")

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values, which `from_json` reads."""
        made: dict[str, Any] = as_json(self)
        return made

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> SearchConfig:
        """ValueError for a key that a configuration has not, with the nearest, and for a value of another type."""
        return from_json(cls, document)

"""The configuration of a comparison: frozen dataclasses that the command line, notebooks, presets and
Ray tasks make.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.experiment import Precision
from registry.datasets import DEFAULT_DATASET
from registry.fields import MAX_SEED, above, as_json, at_least, bounded, from_json, validate
from registry.models import DEFAULT_MODEL


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The rows of a data set to train on, and the tokens of each row to keep. None: all, or no limit."""

    max_pairs: int | None = at_least(1, None)
    max_length: int = at_least(16, 1024)  # tokens of prompt and completion together
    max_prompt_length: int | None = at_least(1, None)  # None: what the completion leaves
    overlong: Literal["truncate", "drop"] = "truncate"
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)  # {"prompt": "question"}; others go by name
    ignore_columns: tuple[str, ...] = ()  # left out, although they seem to matter

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Training settings of every method. `max_steps`, if given, replaces `epochs`.

    `batch_size` are the rows of an update over all processes, `micro_batch_size` those of a forward.
    """

    lora_rank: int | None = at_least(1, 16)  # None: all weights
    epochs: float = above(0, 1.0)
    max_steps: int | None = at_least(1, None)
    batch_size: int = at_least(1, 8)
    micro_batch_size: int = at_least(1, 2)
    precision: Precision = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        validate(self)

    @property
    def adaptation(self) -> str:
        return "full" if self.lora_rank is None else f"lora-{self.lora_rank}"


@dataclass(frozen=True, kw_only=True)
class ExecutionConfig:
    """The place where cells run: this process, or tasks of Ray that ask for so many cores and GPUs each."""

    executor: Literal["local", "ray"] = "local"
    cpus_per_cell: float = at_least(0, 1.0)
    gpus_per_cell: float = at_least(0, 0.0)

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The outputs: runs, leaderboard and report in a folder, metrics in an MLflow store, checkpoints."""

    folder: Path = Path(".advalign")
    tracking_uri: str | None = None  # an MLflow store, or none; None: sqlite in the folder
    checkpoint_every: int | None = at_least(1, None)  # steps; None: about once a minute

    def __post_init__(self) -> None:
        validate(self)


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """Methods at seeds on one model and one data set, and the tasks that measure them.

    `settings` are hyperparameters and tasks' fields by dotted name: `{"ganpo_dpo.latent.weight": 0.3}`,
    `{"ifeval.temperature": 0.7}`. `task_settings` have no prefix: each sets the field of its name in every task of the
    comparison that has it: `{"temperature": 0.7}`.
    """

    methods: tuple[str, ...] = ("dpo", "ganpo_dpo")  # names, or formulas such as ipo+latent
    model: str = DEFAULT_MODEL  # a preset, a hub id or a folder
    init_from: str | None = None  # start from what this finished run made of the model: its id or folder
    dataset: str = DEFAULT_DATASET  # a preset, a file or folder, or owner/name[:config][@revision][#split]
    seeds: tuple[int, ...] = bounded((0,), low=0, high=MAX_SEED)
    tasks: tuple[str, ...] | None = None  # None: held_out and the data set's own
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    task_settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    held_out_pairs: int | None = at_least(0, None)  # None: all
    num_prompts: int | None = at_least(1, None)  # of every generation task; None: all
    max_new_tokens: int | None = at_least(1, None)  # of a response; None: the task's, the method's
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    output: OutputConfig = dataclasses.field(default_factory=OutputConfig)

    def __post_init__(self) -> None:
        validate_lists(self, "methods", "seeds", "tasks")

    def as_json(self) -> dict[str, Any]:
        """The configuration as JSON values, which `from_json` reads."""
        made: dict[str, Any] = as_json(self)
        return made

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> ComparisonConfig:
        """ValueError for a key that a configuration has not, with the nearest, and for a value of another type."""
        return from_json(cls, document)


def validate_lists(config: Any, *names: str) -> None:
    """`validate`, and of each of the lists every entry once. ValueError for an empty one."""
    validate(config)
    for name in names:
        given = getattr(config, name)
        if given is None:
            continue
        if not given:
            raise ValueError(f"{name} is empty; name at least one")
        object.__setattr__(config, name, tuple(dict.fromkeys(given)))

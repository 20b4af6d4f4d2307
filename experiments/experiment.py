"""The settings of one experiment: everything that decides its result, and nothing else: they are its address."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from methods.protocols import Method

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of training, the same for every method of a comparison.

    `batch_size` counts rows (pairs) an update, over all processes; `micro_batch_size` rows a forward (None: all that a
    process has), which changes no result, but where padding is looked at or something is drawn for each forward.
    `precision` is that of the matrix products while training; weights, optimizer, log-probs and evaluation are float32
    either way.
    """

    steps: int
    batch_size: int = 8
    micro_batch_size: int | None = None
    lora_rank: int | None = 16  # None: full fine-tuning
    warmup_ratio: float = 0.1
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    gradient_checkpointing: bool = False
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("micro_batch_size", "lora_rank"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise ValueError(f"{name} must be at least 1, not {given}")

    def check(self, name: str, method: Method) -> None:
        """ValueError for a method that cannot be trained so."""
        if method.on_policy and self.precision != "float32":
            raise ValueError(
                f"{name} compares its log-probs with those that its samples were drawn with, in float32:"
                f" --precision {self.precision} is for methods without sampling"
            )

    @property
    def adaptation(self) -> str:
        return "full" if self.lora_rank is None else f"lora-{self.lora_rank}"


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One cell of a comparison: a method at a seed, or the untrained model (`method=None`, `seed=None`)."""

    name: str  # as the user wrote it: "ganpo_dpo", "ipo+latent", "base"
    method: Method | None
    seed: int | None
    training: Training
    model: Mapping[str, Any]  # {"name": "smollm2_135m", "weights": sha256}
    data: Mapping[str, Any]  # {"name": "dpo_en_demo", "tokens": sha256, "num_train": 40, ...}

    @property
    def spec(self) -> dict[str, Any]:
        """The specification of the run: it is hashed and written as spec.json."""
        from registry import flatten

        return {
            "method": self.name,
            "hyperparameters": {} if self.method is None else flatten(self.method),
            "model": dict(self.model) | {"adaptation": self.training.adaptation},
            "data": dict(self.data),
            "seed": self.seed,
            "training": {key: value for key, value in dataclasses.asdict(self.training).items() if key != "lora_rank"},
        }

    @property
    def id(self) -> str:
        """16 hex digits of the sha-256 of the spec: the name of the run's folder."""
        return hashlib.sha256(json.dumps(self.spec, sort_keys=True).encode()).hexdigest()[:16]

"""Contestants of the speed benchmark: each takes the same steps on the same rows, and times them.

A contestant starts from freshly loaded weights, takes `training.steps` updates and returns the seconds of each. What it
prepares once for a whole data set (a reference store, TRL's precomputed log-probs) is not in those seconds.
"""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator

from experiments.data.tokens import Example
from experiments.experiment import Training
from experiments.models.forward import Policy, Scored, score
from experiments.models.loading import load_model
from experiments.runs.trl_baseline import dpo_trainer, own_accelerate, stream
from experiments.training.sources import Pairs
from experiments.training.trainer import Trainer
from methods import resolve
from methods.protocols import Method
from registry import override

LR = 1e-5  # equal for all; nothing is learned in a few steps
SEED = 0
Reference = Literal["online", "stored", "none"]


@dataclass(frozen=True)
class Course:
    """The course that all contestants run: so many steps of so many rows, from one model."""

    model: Any  # what load_model takes
    examples: Sequence[Example]
    training: Training

    @property
    def tokens(self) -> list[int]:
        """Tokens of each step's rows: prompt and completion of both sides, as a trainer without sharing
        computes them.
        """
        rows, size = stream(self.examples, self.training, SEED), self.training.batch_size
        lengths = [len(row.sequences["chosen"]) + len(row.sequences["rejected"]) for row in rows]
        return [sum(lengths[i : i + size]) for i in range(0, len(rows), size)]


Contestant = Callable[[Course], list[float]]


def ours(name: str, reference: Reference, **values: Any) -> Contestant:
    """Our trainer; with the reference online, its log-probs are computed in every step, as without a store."""
    method: Method = override(resolve(name).spec, {"lr": LR, **values})

    def run(course: Course) -> list[float]:
        policy = Policy(load_model(course.model), lora_rank=course.training.lora_rank, seed=SEED)
        full = not policy.has_adapter
        needs_model = reference == "online" or method.needs("hidden") or method.needs("padded_hidden")
        original = Policy(load_model(course.model)) if full and needs_model else None
        stored: dict[int, Scored] = {}
        if reference == "stored":
            stored |= _scored(original or policy, stream(course.examples, course.training, SEED), method, course)
        pairs = Pairs(course.examples, course.training.batch_size, SEED)
        accelerator = Accelerator(mixed_precision="no")
        trainer = Trainer(
            method,
            policy,
            pairs,
            course.training,
            seed=SEED,
            lr=LR,
            stored=stored,
            reference=original,
            accelerator=accelerator,
        )  # moves the models to the device
        seconds = []
        for step in range(course.training.steps):
            began = time.monotonic()
            if reference == "online":
                stored |= _scored(original or policy, pairs.step(step), method, course)
            trainer.step()
            _synchronize()
            seconds.append(time.monotonic() - began)
        return seconds

    return run


def trl(reference: Reference) -> Contestant:
    """TRL's DPOTrainer; a stored reference is its `precompute_ref_log_probs`."""

    def run(course: Course) -> list[float]:
        rows = stream(course.examples, course.training, SEED)
        with own_accelerate(), tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # TRL reads attributes that transformers has renamed
            trainer, times = dpo_trainer(
                course.model,
                rows,
                course.training,
                resolve("dpo").spec.objective,
                lr=LR,
                seed=SEED,
                folder=Path(folder),
                precompute=reference == "stored",
                on_cpu=not torch.cuda.is_available(),
            )
            trainer.train()
        return times.seconds

    return run


NO_NETWORK = {"latent.discriminator": "mse"}  # the reference forward stays, the discriminators go
CONTESTANTS: dict[str, Contestant] = {
    "trl_dpo/online": trl("online"),
    "trl_dpo/stored": trl("stored"),
    "dpo/online": ours("dpo", "online"),
    "dpo/stored": ours("dpo", "stored"),
    "ganpo_dpo": ours("ganpo_dpo", "stored"),
    "ganpo_dpo/no_network": ours("ganpo_dpo", "stored", **NO_NETWORK),
    "simpo": ours("simpo", "none"),
    "ganpo_simpo": ours("ganpo_simpo", "stored"),
    "ganpo_simpo/no_network": ours("ganpo_simpo", "stored", **NO_NETWORK),
}


def _scored(policy: Policy, rows: Sequence[Example], method: Method, course: Course) -> dict[int, Scored]:
    with policy.adapter_disabled() if policy.has_adapter else nullcontext():
        found = score(policy, rows, method.reads, precision=course.training.precision)
    return {row.row: entry for row, entry in zip(rows, found, strict=True)}


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

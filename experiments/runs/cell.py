"""One cell of a comparison, from its settings to trained weights: run once, resumed where it was interrupted."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from experiments.data.tokens import TokenizedData
from experiments.disk import num_bytes, writing
from experiments.experiment import Experiment, Training
from experiments.manifest import cost, environment, now, reset_peak_memory
from experiments.models import sharding
from experiments.models.forward import Policy, Scored
from experiments.models.loading import load_model, quiet_transformers
from experiments.models.portable import make_portable
from experiments.models.soundness import check_adapter
from experiments.rewards.rollouts import RolloutSource
from experiments.run_folder import RunFolder
from experiments.runs import assembly
from experiments.tracking import RunLog
from experiments.training import checkpoint, kept_networks
from experiments.training.trainer import Trainer

CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An experiment with its folder and what it starts from; `model` is a name or folder that `load_model` takes."""

    experiment: Experiment
    folder: Path
    model: Any
    data: TokenizedData
    stored: Mapping[int, Scored]
    checkpoint_every: int | None = None  # steps; None: about once a minute

    @property
    def files(self) -> RunFolder:
        return RunFolder(self.folder)

    @property
    def finished(self) -> bool:
        return self.files.finished


def begin(model: Any, experiment: Experiment) -> Policy:
    """The policy before its first step."""
    return Policy(load_model(model), lora_rank=experiment.training.lora_rank, seed=experiment.seed or 0)


def trained(cell: Cell, device: torch.device) -> Policy:
    """The policy of a finished cell, or the untrained model of the row `base`."""
    if cell.experiment.method is None:
        return Policy(load_model(cell.model)).to(device)
    if cell.experiment.training.lora_rank is None:
        return Policy(load_model(cell.files.policy)).to(device)
    import peft

    policy = begin(cell.model, cell.experiment)
    saved = load_file(cell.files.adapter)
    check_adapter(policy.model, saved, cell.files.policy)
    peft.set_peft_model_state_dict(policy.model, saved)
    return policy.to(device)


def register_untrained(cell: Cell) -> None:
    """The row `base`: nothing to train, only its facts."""
    if not cell.finished:
        cell.files.write_spec(cell.experiment.spec)
        facts = {"started": now(), "data_report": cell.data.report.as_dict(), **environment()}
        cell.files.write_manifest("finished", facts)


def train(
    cell: Cell,
    *,
    accelerator: Accelerator,
    log: RunLog | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[int, Policy], None] = lambda step, policy: None,
) -> Policy:
    """Train the cell to its end, from its last checkpoint if it has one. Raises NonFiniteError, ValueError.

    `watch(step, policy)` may look at the policy after a step and end the training by an exception of its own.
    """
    experiment, training, main = cell.experiment, cell.experiment.training, accelerator.is_main_process
    files = cell.files
    assert experiment.method is not None
    assert experiment.method.lr is not None
    assert experiment.seed is not None
    training.check(experiment.name, experiment.method)
    method, lr, seed = experiment.method.acting, experiment.method.lr, experiment.seed
    experiment = dataclasses.replace(experiment, method=method)  # what is trained; the run tells of its whole method
    reset_peak_memory()
    sharded = sharding.is_asked_for() and accelerator.num_processes > 1
    if sharded and method.on_policy:
        raise ValueError(f"{experiment.name} samples from its policy, which no process of FSDP has whole: use DDP")
    source = assembly.source_of(experiment, cell.model, cell.data, kept=files.players)
    policy = begin(cell.model, experiment)
    reference = assembly.reference_of(experiment, cell.model)
    discriminators = files.out / "discriminators"
    for model in (policy, reference):
        if model is not None:
            model.to(accelerator.device)
    nets = assembly.nets_of(experiment, cell.model, cell.data, policy, reference, folder=discriminators)
    if training.gradient_checkpointing:
        policy.checkpoint_activations()
    trainer = Trainer(
        method,
        policy,
        source,
        training,
        seed=seed,
        lr=lr,
        stored=cell.stored,
        reference=reference,
        accelerator=sharding.Sharding(accelerator) if sharded else accelerator,
        trouble=files.bad_batch,
        scorers=nets,
    )
    saved = checkpoint.latest(files.checkpoint)
    if saved is not None:
        trainer.load(*saved)
    facts = {
        "started": now(),
        "num_trainable": sum(p.numel() for p in policy.parameters() if p.requires_grad),
        "num_processes": accelerator.num_processes,
        "num_shards": accelerator.num_processes if sharded else 1,
        "data_report": cell.data.report.as_dict(),
        **environment(),
    }
    if marks := assembly.fixed(method, nets):
        facts["discriminators"] = marks
    if main:
        files.write_spec(cell.experiment.spec)
        files.write_manifest("running", facts)
        files.keep_steps(trainer.step_number)
    last_saved = time.monotonic()

    def save_if_due() -> None:
        nonlocal last_saved
        if main and cell.checkpoint_every is None and time.monotonic() - last_saved > CHECKPOINT_SECONDS:
            checkpoint.save(files.checkpoint, trainer.state(), trainer.step_number)
            last_saved = time.monotonic()

    if isinstance(source, RolloutSource):
        source.on_work = save_if_due
    while trainer.step_number < training.steps:
        began = time.monotonic()
        try:
            metrics = trainer.step()
        except (ValueError, RuntimeError):
            if main:
                files.write_manifest("failed", facts)
            raise
        step = trainer.step_number
        row = {"step": step, **metrics, "seconds": time.monotonic() - began}
        due = step % cell.checkpoint_every == 0 if cell.checkpoint_every else began - last_saved > CHECKPOINT_SECONDS
        if main:
            files.add_step(row)
        if (sharding.agreed(due) if sharded else due) and step < training.steps:
            state = trainer.state()  # of a sharded policy all processes must ask
            last_saved = time.monotonic()
            if main:
                checkpoint.save(files.checkpoint, state, step)
                if log is not None:  # what MLflow holds is never ahead of what a resume starts from
                    log.catch_up(files.metrics)
        progress(step, training.steps)
        watch(step, policy)
    if assembly.fixed(method, nets) != marks:
        raise RuntimeError(f"a discriminator that {experiment.name} holds fixed has moved")
    weights = sharding.whole_state(policy.model, keep=main) if sharded else None
    if main:
        with quiet_transformers(), writing(files.policy, _policy_bytes(policy, training), discard=True):
            policy.model.save_pretrained(files.policy, state_dict=weights)
            facts["base_model"] = make_portable(files.policy, cell.model).as_json()
        kept_networks.save(files.players, trainer.players)
        steps = list(files.steps())
        spent = cost(
            wall_seconds=sum(row["seconds"] for row in steps), num_tokens=int(sum(row["tokens"] for row in steps))
        )
        files.write_manifest("finished", {**facts, **spent})
        checkpoint.discard(files.checkpoint)
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    # one process cannot run what lies in shards
    return trained(cell, accelerator.device) if sharded and main else policy.eval()


def _policy_bytes(policy: Policy, training: Training) -> int:
    """Bytes of the policy's file: its adapter alone, or all of its weights."""
    named = policy.model.named_parameters()
    return num_bytes({name: p for name, p in named if training.lora_rank is None or p.requires_grad})

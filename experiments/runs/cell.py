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
from torch import nn

from experiments.data.tokens import TokenizedData
from experiments.disk import num_bytes, writing
from experiments.experiment import Experiment, Training
from experiments.manifest import cost, environment, now, reset_peak_memory
from experiments.models import sharding
from experiments.models.forward import Policy, Scored
from experiments.models.loading import load_model, quiet_transformers
from experiments.models.portable import make_portable
from experiments.models.soundness import check_adapter
from experiments.run_folder import RunFolder
from experiments.runs import assembly
from experiments.runs.cadence import Checkpoints
from experiments.tracking import RunLog
from experiments.training import kept_networks
from experiments.training.trainer import Trainer


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
    spec, files, main = cell.experiment.spec, cell.files, accelerator.is_main_process
    cell = dataclasses.replace(cell, experiment=_acting(cell.experiment))
    experiment, sharded = cell.experiment, _is_sharded(cell.experiment, accelerator)
    reset_peak_memory()
    trainer, nets = _assemble(cell, accelerator, sharded=sharded)
    checkpoints = Checkpoints(files.checkpoint, trainer, every=cell.checkpoint_every, main=main, sharded=sharded)
    checkpoints.resume()
    facts = _facts(cell, trainer, nets, accelerator, sharded=sharded)
    if main:
        files.write_spec(spec)
        files.write_manifest("running", facts)
        files.keep_steps(trainer.step_number)
    while trainer.step_number < experiment.training.steps:
        began = time.monotonic()
        try:
            metrics = trainer.step()
        except (ValueError, RuntimeError):
            if main:
                files.write_manifest("failed", facts)
            raise
        if main:
            files.add_step({"step": trainer.step_number, **metrics, "seconds": time.monotonic() - began})
        if checkpoints.save_if_due(began) and main and log is not None:
            log.catch_up(files.metrics)  # what MLflow holds is never ahead of what a resume starts from
        progress(trainer.step_number, experiment.training.steps)
        watch(trainer.step_number, trainer.policy)
    _check_fixed(experiment, nets, facts)
    _keep(cell, trainer, facts, main=main, sharded=sharded)
    if main:
        checkpoints.discard()
    accelerator.wait_for_everyone()
    accelerator.free_memory()
    # one process cannot run what lies in shards
    return trained(cell, accelerator.device) if sharded and main else trainer.policy.eval()


def _acting(experiment: Experiment) -> Experiment:
    """The experiment with the parts that act, which are trained. ValueError for settings with which they cannot be."""
    assert experiment.method is not None
    experiment.training.check(experiment.name, experiment.method)
    return dataclasses.replace(experiment, method=experiment.method.acting)


def _is_sharded(experiment: Experiment, accelerator: Accelerator) -> bool:
    """Whether the policy lies in shards, one a process. ValueError for a method that cannot be trained so."""
    assert experiment.method is not None
    sharded = sharding.is_asked_for() and accelerator.num_processes > 1
    if sharded and experiment.method.on_policy:
        raise ValueError(f"{experiment.name} samples from its policy, which no process of FSDP has whole: use DDP")
    return sharded


def _assemble(cell: Cell, accelerator: Accelerator, *, sharded: bool) -> tuple[Trainer, dict[str, nn.Module]]:
    """The trainer before its first step, and the networks that read text, by part."""
    experiment, files = cell.experiment, cell.files
    assert experiment.method is not None
    assert experiment.method.lr is not None
    assert experiment.seed is not None
    source = assembly.source_of(experiment, cell.model, cell.data, kept=files.players)
    policy = begin(cell.model, experiment)
    reference = assembly.reference_of(experiment, cell.model)
    for model in (policy, reference):
        if model is not None:
            model.to(accelerator.device)
    kept = files.out / "discriminators"  # one for all seeds and methods of a comparison
    nets = assembly.nets_of(experiment, cell.model, cell.data, policy, reference, folder=kept)
    if experiment.training.gradient_checkpointing:
        policy.checkpoint_activations()
    trainer = Trainer(
        experiment.method,
        policy,
        source,
        experiment.training,
        seed=experiment.seed,
        lr=experiment.method.lr,
        stored=cell.stored,
        reference=reference,
        accelerator=sharding.Sharding(accelerator) if sharded else accelerator,
        trouble=files.bad_batch,
        scorers=nets,
    )
    return trainer, nets


def _facts(
    cell: Cell, trainer: Trainer, nets: dict[str, nn.Module], accelerator: Accelerator, *, sharded: bool
) -> dict[str, Any]:
    """What the manifest says of the run, whatever becomes of it."""
    assert cell.experiment.method is not None
    facts = {
        "started": now(),
        "num_trainable": sum(p.numel() for p in trainer.policy.parameters() if p.requires_grad),
        "num_processes": accelerator.num_processes,
        "num_shards": accelerator.num_processes if sharded else 1,
        "data_report": cell.data.report.as_dict(),
        **environment(),
    }
    marks = assembly.fixed(cell.experiment.method, nets)
    return facts | ({"discriminators": marks} if marks else {})


def _check_fixed(experiment: Experiment, nets: dict[str, nn.Module], facts: Mapping[str, Any]) -> None:
    assert experiment.method is not None
    if assembly.fixed(experiment.method, nets) != facts.get("discriminators", {}):
        raise RuntimeError(f"a discriminator that {experiment.name} holds fixed has moved")


def _keep(cell: Cell, trainer: Trainer, facts: Mapping[str, Any], *, main: bool, sharded: bool) -> None:
    """Write the policy, the networks that were trained against it, and what the run cost."""
    files, policy = cell.files, trainer.policy
    weights = sharding.whole_state(policy.model, keep=main) if sharded else None  # all processes must ask
    if not main:
        return
    size = _policy_bytes(policy, cell.experiment.training)
    with quiet_transformers(), writing(files.policy, size, discard=True):
        policy.model.save_pretrained(files.policy, state_dict=weights)
        base_model = make_portable(files.policy, cell.model).as_json()
    kept_networks.save(files.players, trainer.players)
    steps = list(files.steps())
    spent = cost(wall_seconds=sum(row["seconds"] for row in steps), num_tokens=int(sum(row["tokens"] for row in steps)))
    files.write_manifest("finished", {**facts, "base_model": base_model, **spent})


def _policy_bytes(policy: Policy, training: Training) -> int:
    """Bytes of the policy's file: its adapter alone, or all of its weights."""
    named = policy.model.named_parameters()
    return num_bytes({name: p for name, p in named if training.lora_rank is None or p.requires_grad})

"""TRL's `DPOTrainer` on our tokens, batches and schedule: the row `trl_dpo`, and what our speed is compared with.

Whatever differs between this row and `dpo` is the trainers' doing. TRL is taken as it comes, with its fused optimizer
and its chunked head; gradient checkpointing, which it switches on by default, follows our setting. Weight decay, where
there is one, it keeps off biases and norms.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from experiments.data.tokens import Example
from experiments.disk import writing
from experiments.experiment import Training
from experiments.manifest import cost, environment, now, reset_peak_memory
from experiments.models.forward import Policy, lora_config
from experiments.models.loading import load_model, load_tokenizer, quiet_transformers
from experiments.models.portable import make_portable
from experiments.runs.cell import Cell, trained
from experiments.tracking import RunLog
from experiments.training.sources import Pairs
from experiments.training.trainer import schedule

LOGGED = {"loss": "dpo/loss", "rewards/chosen": "dpo/reward_chosen", "rewards/rejected": "dpo/reward_rejected"}
LOGGED |= {"rewards/margins": "dpo/reward_margin", "rewards/accuracies": "dpo/reward_accuracy"}
LOGGED |= {"grad_norm": "grad_norm", "learning_rate": "lr"}


@runtime_checkable
class TrlObjective(Protocol):
    """An objective that TRL's DPOTrainer has too, under the name `trl_loss`."""

    trl_loss: ClassVar[str]

    @property
    def beta(self) -> float: ...

    @property
    def label_smoothing(self) -> float: ...


class TokenTrainer(DPOTrainer):
    """TRL's trainer on rows that are tokens already, in the order in which they stand, with our schedule."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        return SequentialSampler(rows)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        moved: Any = optimizer or self.optimizer
        ratio = float(self.args.warmup_steps)  # below 1 it is a share of the steps
        self.lr_scheduler = made = LambdaLR(moved, lambda step: schedule(step, num_training_steps, ratio))
        return made


class StepTimes(TrainerCallback):
    """When training began and when each step ended, on the monotonic clock."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    @property
    def seconds(self) -> list[float]:
        return [end - begin for begin, end in zip(self.stamps, self.stamps[1:], strict=False)]

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.stamps = [time.monotonic()]

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.stamps.append(time.monotonic())


def dpo_trainer(
    model: Any,
    rows: Sequence[Example],
    training: Training,
    objective: TrlObjective,
    *,
    lr: float,
    seed: int,
    folder: Path,
    precompute: bool = False,
    on_cpu: bool = False,
) -> tuple[TokenTrainer, StepTimes]:
    """A trainer for `training.steps` updates on `rows`, all of them in their order; `model` is what load_model takes.

    `precompute`: reference log-probs are computed here, before training; else in every step. ValueError if there are
    not rows for every step.
    """
    if len(rows) != training.steps * training.batch_size:
        raise ValueError(f"{training.steps} steps of {training.batch_size} rows are not {len(rows)} rows")
    micro = min(training.micro_batch_size or training.batch_size, training.batch_size)
    if training.batch_size % micro:
        raise ValueError(f"TRL takes equal micro-batches: {training.batch_size} rows are not a multiple of {micro}")
    rank = training.lora_rank
    lora = lora_config(rank) if rank else None
    settings = DPOConfig(
        output_dir=str(folder),
        max_steps=training.steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=training.batch_size // micro,
        learning_rate=lr,
        warmup_steps=training.warmup_ratio,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        activation_checkpointing=training.gradient_checkpointing,
        loss_type=[objective.trl_loss],
        beta=objective.beta,
        label_smoothing=objective.label_smoothing,
        max_length=None,
        precompute_ref_log_probs=precompute,
        seed=seed,
        bf16=training.precision == "bfloat16",
        use_cpu=on_cpu,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    times = StepTimes()
    with quiet_transformers():
        trainer = TokenTrainer(
            model=load_model(model),
            ref_model=None if rank or precompute else load_model(model),
            args=settings,
            train_dataset=Dataset.from_list([_as_row(example) for example in rows]),
            processing_class=load_tokenizer(model),
            peft_config=lora,
            callbacks=[times],
        )
    trainer.remove_callback(PrinterCallback)
    return trainer, times


@contextmanager
def own_accelerate() -> Iterator[None]:
    """Restores accelerate's process-wide settings (precision, accumulation), which TRL changes, when the
    context ends.
    """
    states = (PartialState, AcceleratorState, GradientState)
    before = [dict(state._shared_state) for state in states]
    try:
        yield
    finally:
        for state, kept in zip(states, before, strict=True):
            state._shared_state.clear()
            state._shared_state.update(kept)


def stream(examples: Sequence[Example], training: Training, seed: int) -> list[Example]:
    """The rows of all steps, as our own trainer takes them."""
    pairs = Pairs(examples, training.batch_size, seed)
    return [row for step in range(training.steps) for row in pairs.step(step)]


def train(
    cell: Cell,
    *,
    accelerator: Accelerator,
    log: RunLog | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Policy:
    """Train the cell as `cell.train` does, by TRL; from its beginning if it was interrupted. One process."""
    experiment, training = cell.experiment, cell.experiment.training
    objective = experiment.method.objective if experiment.method else None
    if not isinstance(objective, TrlObjective):
        raise ValueError(f"{experiment.name}: TRL's DPOTrainer trains dpo, not {objective}")
    if accelerator.num_processes > 1:
        raise ValueError(f"{experiment.name} is a calibration row and runs in one process; start it without a launcher")
    assert experiment.method is not None
    assert experiment.method.lr is not None
    assert experiment.seed is not None
    reset_peak_memory()
    facts = {"started": now(), "data_report": cell.data.report.as_dict(), **environment()}
    cell.files.write_spec(experiment.spec)
    cell.files.write_manifest("running", facts)
    rows = stream(cell.data.train, training, experiment.seed)
    with own_accelerate(), quiet_transformers(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL reads attributes that transformers has renamed
        trainer, times = dpo_trainer(
            cell.model,
            rows,
            training,
            objective,
            lr=experiment.method.lr,
            seed=experiment.seed,
            folder=cell.folder / "trl",
            on_cpu=accelerator.device.type == "cpu",
        )
        model: Any = trainer.model
        facts["num_trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        trainer.train()
        with writing(cell.files.policy, discard=True):
            model.save_pretrained(cell.files.policy)
            facts["base_model"] = make_portable(cell.files.policy, cell.model).as_json()
    tokens = [_tokens(rows[i : i + training.batch_size]) for i in range(0, len(rows), training.batch_size)]
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    lines = [
        {"step": i + 1, **{ours: entry[theirs] for theirs, ours in LOGGED.items()}, "loss": entry["loss"]}
        | {"tokens": tokens[i], "seconds": seconds}
        for i, (entry, seconds) in enumerate(zip(logged, times.seconds, strict=True))
    ]
    cell.files.write_steps(lines)
    spent = cost(wall_seconds=sum(times.seconds), num_tokens=int(sum(tokens)))
    cell.files.write_manifest("finished", {**facts, **spent})
    progress(training.steps, training.steps)
    return trained(cell, accelerator.device)


def _as_row(example: Example) -> dict[str, list[int]]:
    chosen, rejected = example.sequences["chosen"], example.sequences["rejected"]
    return {
        "prompt_ids": chosen.prompt.tolist(),
        "chosen_ids": chosen.completion.tolist(),
        "rejected_ids": rejected.completion.tolist(),
    }


def _tokens(rows: Sequence[Example]) -> float:
    return float(sum(len(row.sequences["chosen"]) + len(row.sequences["rejected"]) for row in rows))

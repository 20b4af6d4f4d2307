"""Resolves a configuration: it is checked against data, model and machine before anything is trained."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.comparison.config import ComparisonConfig, DataConfig, TrainingConfig
from benchmarks.comparison.settings import Settings
from benchmarks.planning import costs, plan
from benchmarks.planning.machine import Machine, this_machine
from benchmarks.results import tuned_methods
from benchmarks.results.learning_rates import usual_rate
from benchmarks.tasks import TASKS, Task, answers_of, lacks_pairs, load_tasks
from experiments.data.columns import Columns
from experiments.data.splits import SHARE
from experiments.data.tokens import TokenizedData, prepare
from experiments.disk import free_bytes
from experiments.experiment import Training
from experiments.models import sharding
from experiments.models.limits import check_limits
from experiments.models.loading import load_tokenizer, meta_model, num_parameters, resolve_model, weights_hash
from experiments.models.staged import staged_model
from experiments.rewards.sources import check_reward, verifier_of
from experiments.studies.record import StudyRecord
from methods import resolve as resolve_method
from methods.protocols import Adversary, Method, Unpaired
from registry import flatten, nearest, override
from registry.datasets import DATASETS, DEFAULT_TASK
from registry.models import MODELS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.models.loading import ResolvedModel


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """Methods at seeds on one model and one data set. Without weights at hand (a plan of a gated model) `data` and
    `tokenizer` may be None."""

    config: ComparisonConfig
    methods: Mapping[str, Method]
    tasks: Sequence[Task]
    model: Any  # what load_model and meta_model take
    tokenizer: PreTrainedTokenizerBase | None
    data: TokenizedData | None
    training: Training
    studies: Mapping[str, StudyRecord] = dataclasses.field(default_factory=dict)  # of the tuned methods, by name
    notes: Sequence[str] = ()  # what is possible and seldom meant

    @property
    def seeds(self) -> tuple[int, ...]:
        return self.config.seeds


def resolve(config: ComparisonConfig, *, planning: bool = False) -> RunPlan:
    """Everything a comparison needs before its weights. Raises KeyError and ValueError for a mistake in it.

    For a plan that is only shown (`planning`), a preset of a model need not be at hand.
    """
    names = config.methods
    settings = Settings(config.settings)
    load_tasks()
    chosen = config.tasks or _tasks_of(config.dataset)
    settings.check(names, chosen)
    for name in names:  # a name that is none is told before anything is read
        method_of(name, config.model, settings)
    tasks = [task_of(name, config) for name in chosen]
    unknown_model = planning and config.model in MODELS
    model = config.model if unknown_model else model_of(config)
    tokenizer = _tokenizer_at_hand(config.model) if unknown_model else load_tokenizer(model)
    data = None
    if tokenizer is not None:
        data = data_of(config.dataset, config.data, tokenizer, held_out_pairs=config.held_out_pairs)
    studies = {name: _study_of(name, config, model, tokenizer) for name in names if tuned_methods.is_tuned(name)}
    found = {name: method_of(name, config.model, settings, studies.get(name)) for name in names}
    methods = {name: _limited(method, config.max_new_tokens) for name, method in found.items()}
    if data is not None:
        check_roles(methods, data)
        tasks = _served(tasks, data, are_named=config.tasks is not None)
    notes = check_limits(
        model,
        tokenizer=tokenizer,
        data=data,
        max_length=config.data.max_length,
        lora_rank=config.training.lora_rank,
        new_tokens=max((longest for number, longest in map(answers_of, tasks) if number), default=0),
    )
    num_train = len(data.train) if data else _rows_without_tokens(config)[0]
    return RunPlan(
        config=config,
        methods=methods,
        tasks=tasks,
        model=model,
        tokenizer=tokenizer,
        data=data,
        training=training_of(config.training, num_train, methods),
        studies=studies,
        notes=notes,
    )


def _study_of(
    name: str, config: ComparisonConfig, model: Any, tokenizer: PreTrainedTokenizerBase | None
) -> StudyRecord:
    """ValueError for a plan of a model whose weights are not here: whose study it is cannot be told."""
    if tokenizer is None:
        raise ValueError(f"{name}: a search is found by the model's weights, and {config.model} is not at hand")

    @functools.cache
    def tokens_of(num_train: int, num_dev: int) -> str:
        limits = dataclasses.replace(config.data, max_pairs=num_train)
        return data_of(config.dataset, limits, tokenizer, dev_pairs=num_dev, held_out_pairs=0).digest

    start = tuned_methods.Start(
        adaptation=config.training.adaptation,
        weights=weights_hash((resolve_model(model) if isinstance(model, str) else model).folder),
        max_length=config.data.max_length,
        tokens_of=tokens_of,
    )
    return tuned_methods.find(name, start=start, out=config.output.folder, seeds=config.seeds)


def _rows_without_tokens(config: ComparisonConfig) -> tuple[int, int]:
    """Training and held-out rows of a preset that cannot be read here, by its published size and our shares.

    KeyError for an unknown data set, with the nearest.
    """
    rows = DATASETS[config.dataset].num_rows or config.training.batch_size
    train, held_out = round(SHARE["train"] * rows), round(SHARE["held_out"] * rows)
    return min(train, config.data.max_pairs or train), min(held_out, config.held_out_pairs or held_out)


def model_of(config: ComparisonConfig) -> ResolvedModel:
    """The model that training starts from: the named one, or what a run has made of it (--init-from)."""
    model = resolve_model(config.model)
    if config.init_from is None:
        return model
    given = Path(config.init_from)
    return staged_model(given if given.is_dir() else config.output.folder / "runs" / config.init_from, model)


def method_of(name: str, model: str, settings: Settings, study: StudyRecord | None = None) -> Method:
    """The method with what the study found and its overrides, and every learning rate resolved, so that the address of
    a run says all."""
    found = tuned_methods.hyperparameters(study) if study else {}
    spec: Method = override(override(resolve_method(tuned_methods.plain(name)).spec, found), settings.of(name))
    lr = usual_rate(tuned_methods.plain(name), model, spec).value if spec.lr is None else spec.lr
    regularizers = []
    for part in spec.regularizers:
        resolvable = isinstance(part, Adversary) and part.lr is None
        regularizers.append(dataclasses.replace(part, lr=lr / 2) if resolvable else part)  # type: ignore[type-var]
    return dataclasses.replace(spec, lr=lr, regularizers=tuple(regularizers))


def _tasks_of(dataset: str) -> tuple[str, ...]:
    """The default tasks, where none are named."""
    return "held_out", DATASETS[dataset].task if dataset in DATASETS else DEFAULT_TASK


def _served(tasks: Sequence[Task], data: TokenizedData, *, are_named: bool) -> list[Task]:
    """The tasks that this data has rows for. ValueError for one that it has not, if it was asked for by name."""
    missing = [task.name for task in tasks if lacks_pairs(task, data.held_out)]
    has_none = all(lacks_pairs(task, data.train) for task in tasks if task.name in missing)
    if not are_named and (data.held_out or has_none):
        return [task for task in tasks if task.name not in missing]
    if missing:
        reason = (
            "too few prompts, or --held-out-pairs 0; give more data or" if not data.held_out else "the data has none;"
        )
        raise ValueError(
            f"no held-out pairs are left in {data.name} ({data.kind}), which {' and '.join(missing)} compares: {reason}"
            f" leave {' and '.join(missing)} out of --tasks"
        )
    return list(tasks)


def _limited(method: Method, max_new_tokens: int | None) -> Method:
    """The length limit of a response holds for the samples that a method learns from, too."""
    if not method.on_policy or max_new_tokens is None:
        return method
    limit = min(method.sampling.max_new_tokens, max_new_tokens)
    return dataclasses.replace(method, sampling=dataclasses.replace(method.sampling, max_new_tokens=limit))


def task_of(name: str, config: ComparisonConfig) -> Task:
    """The task with what the configuration says of its fields.

    KeyError for an unknown task, a setting that no task has or a field that this one has not, with the nearest.
    """
    load_tasks()
    task: Task = TASKS[name].spec
    shared = {"num_prompts": config.num_prompts, "max_new_tokens": config.max_new_tokens, **config.task_settings}
    everywhere = {field for card in TASKS.values() for field in _fields(card.spec)}
    for key in shared:
        if key not in everywhere:
            raise KeyError(f"no task has a field {key!r}{nearest(key, everywhere)}")
    given = {key: value for key, value in shared.items() if key in _fields(task) and value is not None}
    made: Task = override(task, given | Settings(config.settings).of(name))
    return made


def _fields(task: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(task)}


def data_of(dataset: str, config: DataConfig, tokenizer: PreTrainedTokenizerBase, **pairs: int | None) -> TokenizedData:
    """The tokens that every method trains and is evaluated on; `pairs` says how many of dev and held_out."""
    return prepare(
        dataset,
        tokenizer,
        max_length=config.max_length,
        max_prompt_length=config.max_prompt_length,
        overlong=config.overlong,
        max_pairs=config.max_pairs,
        columns=Columns(config.columns, config.ignore_columns),
        **pairs,
    )


def training_of(config: TrainingConfig, num_train: int, methods: Mapping[str, Method]) -> Training:
    """The training settings of each method; without `max_steps`, as many steps as see the rows `epochs` times.

    ValueError for a method that cannot be trained so.
    """
    steps = config.max_steps
    if steps is None:
        steps = max(1, math.ceil(config.epochs * num_train / config.batch_size))
    training = Training(
        steps=steps,
        batch_size=config.batch_size,
        micro_batch_size=min(config.micro_batch_size, config.batch_size),
        lora_rank=config.lora_rank,
        gradient_checkpointing=config.gradient_checkpointing,
        precision=config.precision,
    )
    for name, method in methods.items():
        training.check(name, method)
    return training


def check_roles(methods: Mapping[str, Method], data: TokenizedData) -> None:
    """ValueError for a method that reads what this data does not give, before anything is trained."""
    given = {role for example in data.train for role in example.sequences}
    always = given.intersection(*(example.sequences for example in data.train))
    verifier = verifier_of(data.train) if any(method.on_policy for method in methods.values()) else None
    for name, method in methods.items():
        check_reward(name, method, dataset=data.name, verifier=verifier)
        # what the policy is run on must be in every row; a reward model may learn from those rows that have its roles
        missing = [role for role in method.offline_reads if role not in (always if role in method.forwards else given)]
        objective = method.objective
        if isinstance(objective, Unpaired) and not method.regularizers and given.intersection(objective.one_of):
            missing = [role for role in missing if role not in objective.one_of]
        if missing:
            rows = " in every row" if given.issuperset(missing) else ""
            raise ValueError(
                f"{name} reads {', '.join(missing)}, which {data.name} ({data.kind}) does not give{rows};"
                f" it gives {', '.join(sorted(always if rows else given))}{rows}"
            )


def planned(comparison: RunPlan, cells: Sequence[tuple[str, int | None, str]]) -> plan.Plan:
    """The plan of a comparison. `cells (("base", None, "to run"), ("dpo", 0, "finished"))`."""
    config, training, machine = comparison.config, comparison.training, this_machine()
    model = meta_model(comparison.model)
    facts, completion = _facts(comparison)
    plans = []
    for name, method in comparison.methods.items():
        default = flatten(resolve_method(tuned_methods.plain(name)).spec)
        longest = facts.longest_tokens
        memory = costs.memory(
            method,
            training,
            model,
            longest_row_tokens=longest,
            completion_tokens=max(1, longest // 2),
            device=machine.device,
        ).in_shards(sharding.num_shards(), costs.gathered_bytes(model))
        duration = costs.seconds(
            method,
            training,
            model,
            this_machine(training.precision),
            mean_row_tokens=facts.mean_tokens,
            mean_completion_tokens=completion,
        )
        changed = {key: value for key, value in flatten(method).items() if value != default[key] and key != "lr"}
        usual = usual_rate(tuned_methods.plain(name), config.model, method)
        origin = usual.origin if usual.value == method.lr and usual.borrowed else ""
        plans.append(
            plan.MethodPlan(name=name, lr=method.lr, borrowed=origin, memory=memory, seconds=duration, changed=changed)
        )
    return plan.Plan(
        model=config.model,
        num_parameters=num_parameters(model),
        num_trainable=costs.num_trainable(model, training.lora_rank),
        training=training,
        data=facts,
        cells=cells,
        methods=plans,
        free_bytes=machine.free_bytes,
        task_seconds=_task_seconds(comparison, facts, model, machine),
        answers=tuple(map(answers_of, comparison.tasks)),
        free_disk_bytes=free_bytes(config.output.folder),
        notes=comparison.notes,
    )


def _tokenizer_at_hand(name: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer for a plan, which needs neither weights nor a network; None where it cannot be had."""
    if MODELS[name].gated and MODELS[name].package is None:
        return None
    try:
        return load_tokenizer(name)
    except (RuntimeError, OSError):
        return None


def _facts(comparison: RunPlan) -> tuple[plan.DataFacts, float]:
    """The plan's facts about the data, and the mean number of tokens of a completion."""
    config, data = comparison.config, comparison.data
    if data is None:  # without tokens: what the limits allow
        longest = mean = float(config.data.max_length)
        completion, (num_train, num_held_out) = longest / 2, _rows_without_tokens(config)
    else:
        sequences = [s for example in data.train for s in example.sequences.values()]
        longest = float(max(map(len, sequences)))
        mean = sum(map(len, sequences)) / len(sequences)
        completion = sum(len(s.completion) for s in sequences) / len(sequences)
        num_train, num_held_out = len(data.train), len(data.held_out)
    facts = plan.DataFacts(
        name=config.dataset,
        num_train=num_train,
        num_held_out=num_held_out,
        mean_tokens=mean,
        longest_tokens=int(longest),
        train_tokens=int(mean * 2 * num_train),
    )
    return facts, completion


def _task_seconds(comparison: RunPlan, facts: plan.DataFacts, model: Any, machine: Machine) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for task in comparison.tasks:
        number, longest = answers_of(task)
        if number:
            seconds[task.name] = costs.generation_seconds(model, machine, num_prompts=number, max_new_tokens=longest)
        else:
            seconds[task.name] = costs.scoring_seconds(
                model, machine, num_sequences=2 * facts.num_held_out, mean_row_tokens=facts.mean_tokens
            )
    return seconds

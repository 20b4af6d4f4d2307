"""The options of the commands, what configuration they make, and nothing that is slow to import."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_type_hints

from benchmarks.comparison.config import ComparisonConfig
from benchmarks.tuning.config import SearchConfig
from experiments.experiment import Precision
from registry.datasets import DEFAULT_DATASET
from registry.fields import MAX_SEED, REFUSALS, check_bounds, convert, from_json
from registry.models import DEFAULT_MODEL

KINDS = ("methods", "models", "datasets", "tasks")
Config = TypeVar("Config", ComparisonConfig, SearchConfig)
COMMAND = {"config", "dry_run", "list"}  # options of the command alone, which a configuration does not hold


class Parser(argparse.ArgumentParser):
    """The parser of `python -m benchmarks.COMMAND`: a mistake is one line and exit status 2; options cannot be
    abbreviated.
    """

    def __init__(self, command: str, description: str) -> None:
        # --temp must never be read as --temperatures
        super().__init__(prog=f"python -m benchmarks.{command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{message}; see {self.prog} --help\n")


def parser() -> Parser:
    """Every option of `python -m benchmarks.run`."""
    made = Parser("run", "Train alignment methods on the same pairs from the same model, evaluate and rank them.")
    _training_options(made)
    add = made.add_argument
    add("--seeds", type=_seeds, help="0,1,2: one run a method and seed (default: 0)")
    add(
        "--tasks",
        type=_names,
        help="what to evaluate (default: held_out,ifeval; with the data set constraints held_out,constraints)",
    )
    add("--held-out-pairs", type=COUNT_OR_NONE, help="held-out rows to take (default: all)")
    add("--num-prompts", type=COUNT, help="prompts of a generation task (default: all)")
    add("--max-new-tokens", type=COUNT, help="length limit of a response (default: the task's, the method's)")
    add("--executor", choices=("local", "ray"), help="where cells run: here, or as tasks of Ray")
    add("--cpus-per-cell", type=SHARE_OF_MACHINE, metavar="N", help="cores that a task of Ray asks for (default: 1)")
    add("--gpus-per-cell", type=SHARE_OF_MACHINE, metavar="N", help="GPUs that a task of Ray asks for (default: 0)")
    _task_options(made)
    add("--init-from", metavar="RUN", help="start from what a finished run made of --model: its id or folder")
    add("--dry-run", action="store_true", help="show grid, tokens, steps, time and memory, and stop")
    add("--list", choices=KINDS, metavar="KIND", help="methods, models, datasets or tasks: what there is, and stop")
    made.set_defaults(**_flat(ComparisonConfig()))
    return made


def _task_options(made: Parser) -> None:
    """Options of single tasks: each sets the field of that name in every task that has it."""
    add = made.add_argument_group("options of tasks").add_argument
    add("--temperature", type=TEMPERATURE, metavar="T", help="of a generation task's answers (default: 0, greedy)")
    add("--judge", help="alpaca_eval: api:ANNOTATOR[@MODEL], reward:FOLDER_OR_HUB_ID or function:MODULE:FUNCTION")
    add("--baseline", help="alpaca_eval: gpt4, base (the untrained model) or the id of a run (default: gpt4)")
    add("--difficulty", metavar="FILE.csv", help="alpaca_eval against gpt4: the difficulty of each instruction")
    add("--of", metavar="TASK", help="robustness, length: the task they look at (default: ifeval, alpaca_eval)")
    add("--temperatures", type=_temperatures, metavar="T,T", help="of robustness (default: 0,0.3,0.5,0.7,1,1.3,1.5)")
    add("--edges", type=_edges, metavar="N,N", help="length: characters between buckets (default: equal shares)")
    add("--oracle", help="discriminator: constraints, ifeval or reward:FOLDER_OR_HUB_ID (default: constraints)")
    add("--sample-temperatures", type=_temperatures, metavar="T,T", help="of discriminator (default: 1.5,2)")
    add("--reward-model", metavar="FOLDER_OR_HUB_ID", help="discriminator: a reward model to correlate too")
    add("--lm-benchmarks", dest="benchmarks", type=_names, metavar="NAME,NAME", help="lm_eval (default: all four)")
    add("--lm-data", dest="data", metavar="FOLDER", help="lm_eval: its data as files (default: from the hub)")


def number_type(kind: type[int] | type[float], **bounds: float) -> Callable[[str], Any]:
    """The type of an option that takes a finite number within bounds (see `registry.fields.bounded`)."""

    def read(text: str) -> Any:
        try:
            value = convert(kind, text, text=True)
        except REFUSALS:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' if kind is int else ''}number") from None
        try:
            check_bounds("", value, bounds)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return read


COUNT, COUNT_OR_NONE = number_type(int, low=1), number_type(int, low=0)
LENGTH = number_type(int, low=16)  # less leaves no prompt and completion to learn from
POSITIVE, SHARE_OF_MACHINE = number_type(float, above=0), number_type(float, low=0)
SEED = number_type(int, low=0, high=MAX_SEED)
TEMPERATURE = number_type(float, low=0)  # 0 is greedy


def _temperatures(text: str) -> tuple[float, ...]:
    return tuple(map(TEMPERATURE, text.split(",")))


def _edges(text: str) -> tuple[float, ...]:
    return tuple(map(POSITIVE, text.split(",")))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _seeds(text: str) -> tuple[int, ...]:
    if not (names := _names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 0,1,2")
    return tuple(map(SEED, names))


class _Pair(argparse.Action):
    """`--set NAME=VALUE`, any number of times, into a mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        name, equals, value = values.partition("=")
        if not equals:
            raise argparse.ArgumentError(self, f"{values} has no value; write {self.metavar}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), name: value})


class _Columns(argparse.Action):
    """`--columns FIELD=COLUMN,…`, any number of times, into a mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        pairs = [tuple(part.strip() for part in name.partition("=")) for name in _names(values)]
        if not all(field and column for field, _, column in pairs):
            raise argparse.ArgumentError(self, f"{values} says nothing of a column; write {self.metavar}")
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **{name: column for name, _, column in pairs}})


class _Added(argparse.Action):
    """An option that may be given again, for one more."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, (*getattr(namespace, self.dest), values))


class _Epochs(argparse.Action):
    """`--epochs` takes the place of the steps that a configuration file asks for."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        namespace.epochs, namespace.max_steps = values, None


def search_parser() -> Parser:
    """Every option of `python -m benchmarks.search`."""
    made = Parser("search", "Search hyperparameters, with the same budget for every method, on the dev split.")
    _training_options(made)
    add = made.add_argument
    budget = made.add_mutually_exclusive_group()
    budget.add_argument("--trials", type=COUNT, help="trials for each method (default: 20)")
    budget.add_argument(
        "--budget-minutes", type=POSITIVE, metavar="MINUTES", help="measured time for each method instead"
    )
    add(
        "--space",
        action=_Pair,
        metavar="NAME=RANGE",
        help="ganpo_dpo.latent.weight=0.1:10:log, or *.lr=1e-5,1e-4; repeatable",
    )
    add(
        "--metric",
        dest="metrics",
        type=_names,
        help="dev/accuracy,cost/seconds: what is optimised; several give a front",
    )
    add(
        "--constraint",
        dest="constraints",
        action=_Added,
        metavar="METRIC<=NUMBER",
        help="dev/length_growth<=0.1; repeatable",
    )
    add(
        "--sampler", dest="samplers", type=_names, help="gp, tpe, random or grid; gp,random runs two arms (default: gp)"
    )
    add("--pruner", help="hyperband, wilcoxon (over seeds) or none (default: none)")
    add("--seeds", type=_seeds, help="of the trials; a tuned method is run at others (default: 1000)")
    add("--storage", metavar="URL", help="a database that several machines share (default: a journal file below --out)")
    add("--workers", type=COUNT, help="processes on this machine (default: 1)")
    add("--dev-pairs", type=COUNT, help="dev rows to take (default: all)")
    add("--num-prompts", type=COUNT, help="prompts that a metric of responses asks (default: 32)")
    add("--max-new-tokens", type=COUNT, help="length limit of a response (default: 128)")
    add("--dry-run", action="store_true", help="show space, trials and estimated time, and stop")
    made.set_defaults(**_flat(SearchConfig()))
    return made


def _training_options(made: Parser) -> None:
    """Options that a comparison and a search share: methods, model, data and training."""
    add = made.add_argument
    add("--methods", type=_names, help="names or formulas: dpo,ganpo_dpo,ipo+latent (default: dpo,ganpo_dpo)")
    add("--model", help=f"a preset, a hub id or a folder (default: {DEFAULT_MODEL})")
    add(
        "--dataset",
        help="a preset, a JSON, JSONL, CSV, Parquet or Arrow file, a folder of them, or a data set of the hub as"
        f" owner/name[:config][@revision][#split] (default: {DEFAULT_DATASET})",
    )
    add(
        "--columns",
        action=_Columns,
        metavar="FIELD=COLUMN,...",
        help="what columns are: prompt=question,system=sys (default: by name)",
    )
    add(
        "--ignore-columns",
        type=_names,
        metavar="COLUMN,...",
        help="columns to leave out although they seem to matter",
    )
    add(
        "--set",
        dest="settings",
        action=_Pair,
        metavar="NAME=VALUE",
        help="a hyperparameter or a task's field: ganpo_dpo.latent.weight=0.3, ifeval.seed=1; repeatable",
    )
    adaptation = made.add_mutually_exclusive_group()
    add_either = adaptation.add_argument
    add_either(
        "--lora", dest="lora_rank", type=COUNT, metavar="RANK", help="train an adapter of this rank (default: 16)"
    )
    add_either("--full", dest="lora_rank", action="store_const", const=None, help="train all weights")
    add("--max-pairs", type=COUNT, help="training rows to take (default: all)")
    length = made.add_mutually_exclusive_group()
    length.add_argument("--epochs", action=_Epochs, type=POSITIVE, help="passes over the training rows (default: 1)")
    length.add_argument("--max-steps", type=COUNT, help="updates of the policy, instead of epochs")
    add("--batch-size", type=COUNT, help="rows an update, over all processes (default: 8)")
    add("--micro-batch-size", type=COUNT, help="rows a forward: memory against speed (default: 2)")
    add("--precision", choices=get_args(Precision), help="of training (default: float32)")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third more time")
    add("--max-length", type=LENGTH, help="tokens of prompt and completion together (default: 1024)")
    add("--max-prompt-length", type=COUNT, help="tokens of the prompt (default: what the completion leaves)")
    add("--overlong", choices=("truncate", "drop"), help="rows over the limit (default: truncate)")
    add("--out", dest="folder", type=Path, metavar="OUT", help="the output folder (default: .advalign)")
    add("--tracking-uri", help="an MLflow store, or none (default: sqlite below the output folder)")
    add("--checkpoint-every", type=COUNT, metavar="STEPS", help="default: about once a minute")
    add(
        "--config", metavar="FILE.json", help="a configuration (- reads it from the standard input); options replace it"
    )


def config_of(cls: type[Config], options: argparse.Namespace) -> Config:
    """The configuration that the options describe. ValueError for a value that cannot be."""
    given = {key: value for key, value in vars(options).items() if key not in COMMAND}
    values: dict[str, Any] = {}
    for field in _plain_fields(cls):
        values[field] = given.pop(field)
    for name, nested in _nested(cls).items():
        values[name] = nested(**{field.name: given.pop(field.name) for field in dataclasses.fields(nested)})
    if cls is ComparisonConfig:  # each of the rest sets a field of tasks
        values["task_settings"] = {key: value for key, value in given.items() if value is not None}
    return cls(**values)


def read_config(cls: type[Config], made: Parser, arguments: Sequence[str] | None) -> Config:
    """The configuration that the arguments describe, starting from the file that `--config` names, if any.

    ValueError that names the file for one that holds no configuration.
    """
    options = made.parse_args(arguments)
    if options.config is None:
        return config_of(cls, options)
    text = sys.stdin.read() if options.config == "-" else Path(options.config).read_text(encoding="utf-8")
    try:
        config = from_json(cls, json.loads(text))
    except ValueError as error:  # what is no JSON raises one too
        raise ValueError(f"{options.config}: {error}") from None
    return beginning_from(config, made, arguments)


def beginning_from(config: Config, made: Parser, arguments: Sequence[str] | None) -> Config:
    """The configuration, but for what the arguments say otherwise."""
    made.set_defaults(**_flat(config))
    return config_of(type(config), made.parse_args(arguments))


def words_of(config: ComparisonConfig) -> list[str]:
    """The arguments of `python -m benchmarks.run` that make this configuration, without those that are the defaults."""
    words: list[str] = []
    made = parser()
    values = _flat(config)
    for action in made._actions:  # there is no public list of them
        value = values.get(action.dest, action.default)
        if not action.option_strings or value == action.default:
            continue
        option = action.option_strings[0]
        if isinstance(value, Mapping):
            words += [word for key, entry in value.items() for word in (option, f"{key}={_spelled(entry)}")]
        elif action.nargs != 0:
            words += [] if value is None else [option, _spelled(value)]
        elif value == action.const:
            words.append(option)
    return words


def _spelled(value: Any) -> str:
    return ",".join(map(_spelled, value)) if isinstance(value, (list, tuple)) else str(value)


def _flat(config: Any) -> dict[str, Any]:
    """Every value by the name of its option."""
    flat = {name: getattr(config, name) for name in _plain_fields(type(config))}
    for name in _nested(type(config)):
        flat |= vars(getattr(config, name))
    return flat | dict(getattr(config, "task_settings", {}))


def _nested(cls: Any) -> dict[str, Any]:
    """The fields that are configurations themselves, whose own fields have options."""
    return {name: hint for name, hint in get_type_hints(cls).items() if dataclasses.is_dataclass(hint)}


def _plain_fields(cls: Any) -> list[str]:
    names = (field.name for field in dataclasses.fields(cls))
    return [name for name in names if name not in _nested(cls) and name != "task_settings"]

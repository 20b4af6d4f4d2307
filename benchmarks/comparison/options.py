"""The options of the commands, and nothing that is slow to import."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, get_args

from experiments.experiment import Precision
from registry.datasets import DEFAULT_DATASET
from registry.models import DEFAULT_MODEL

KINDS = ("methods", "models", "datasets", "tasks")


class Parser(argparse.ArgumentParser):
    """That of `python -m benchmarks.COMMAND`: a mistake is one line and exit status 2, an option is written out."""

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
    add("--seeds", default="0", help="0,1,2: one run a method and seed (default: 0)")
    add(
        "--tasks",
        help="what to evaluate (default: held_out,ifeval; with the data set constraints held_out,constraints)",
    )
    add("--held-out-pairs", type=int, help="held-out rows to take (default: all)")
    add("--num-prompts", type=int, help="prompts of a generation task (default: all)")
    add("--max-new-tokens", type=int, help="length limit of a response (default: the task's, the method's)")
    add("--executor", choices=("local", "ray"), default="local", help="where cells run: here, or as tasks of Ray")
    add("--cpus-per-cell", type=float, default=1, metavar="N", help="cores that a task of Ray asks for (default: 1)")
    add("--gpus-per-cell", type=float, default=0, metavar="N", help="GPUs that a task of Ray asks for (default: 0)")
    _task_options(made)
    add("--init-from", metavar="RUN", help="start from what a finished run made of --model: its id or folder")
    add("--dry-run", action="store_true", help="show grid, tokens, steps, time and memory, and stop")
    add("--list", choices=KINDS, metavar="KIND", help="methods, models, datasets or tasks: what there is, and stop")
    return made


def _task_options(made: Parser) -> None:
    """What belongs to single tasks: each option sets the field of that name, in every task that has it."""
    add = made.add_argument_group("options of tasks").add_argument
    add("--temperature", type=_temperature, metavar="T", help="of a generation task's answers (default: 0, greedy)")
    add("--judge", help="alpaca_eval: api:ANNOTATOR[@MODEL], reward:FOLDER_OR_HUB_ID or function:MODULE:FUNCTION")
    add("--baseline", help="alpaca_eval: gpt4, base (the untrained model) or the id of a run (default: gpt4)")
    add("--difficulty", metavar="FILE.csv", help="alpaca_eval against gpt4: the difficulty of each instruction")
    add("--of", metavar="TASK", help="robustness, length: the task they look at (default: ifeval, alpaca_eval)")
    add("--temperatures", type=_numbers, metavar="T,T", help="of robustness (default: 0,0.3,0.5,0.7,1,1.3,1.5)")
    add("--edges", type=_numbers, metavar="N,N", help="length: characters between buckets (default: equal shares)")
    add("--oracle", help="discriminator: constraints, ifeval or reward:FOLDER_OR_HUB_ID (default: constraints)")
    add("--sample-temperatures", type=_numbers, metavar="T,T", help="of discriminator (default: 1.5,2)")
    add("--reward-model", metavar="FOLDER_OR_HUB_ID", help="discriminator: a reward model to correlate too")
    add("--lm-benchmarks", dest="benchmarks", type=_names, metavar="NAME,NAME", help="lm_eval (default: all four)")
    add("--lm-data", dest="data", metavar="FOLDER", help="lm_eval: its data as files (default: from the hub)")


def _temperature(text: str) -> float:
    number = _number(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no temperature; give 0, which is greedy, or a number above it")
    return number


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(map(_number, text.split(",")))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def search_parser() -> Parser:
    """Every option of `python -m benchmarks.search`."""
    made = Parser("search", "Search hyperparameters, with the same budget for every method, on the dev split.")
    _training_options(made)
    add = made.add_argument
    budget = made.add_mutually_exclusive_group()
    budget.add_argument("--trials", type=int, help="trials for each method (default: 20)")
    budget.add_argument("--budget-minutes", type=float, metavar="MINUTES", help="measured time for each method instead")
    add(
        "--space",
        action="append",
        default=[],
        metavar="NAME=RANGE",
        help="ganpo_dpo.latent.weight=0.1:10:log, or *.lr=1e-5,1e-4; repeatable",
    )
    add("--metric", default="dev/accuracy", help="dev/accuracy,cost/seconds: what is optimised; several give a front")
    add(
        "--constraint", action="append", default=[], metavar="METRIC<=NUMBER", help="dev/length_growth<=0.1; repeatable"
    )
    add("--sampler", default="gp", help="gp, tpe, random or grid; gp,random runs two arms (default: gp)")
    add("--pruner", default="none", help="hyperband, wilcoxon (over seeds) or none (default: none)")
    add("--seeds", default="1000", help="of the trials; a tuned method is run at others (default: 1000)")
    add("--storage", metavar="URL", help="a database that several machines share (default: a journal file below --out)")
    add("--workers", type=int, default=1, help="processes on this machine (default: 1)")
    add("--dev-pairs", type=int, help="dev rows to take (default: all)")
    add("--num-prompts", type=int, default=32, help="prompts that a metric of responses asks (default: 32)")
    add("--max-new-tokens", type=int, default=128, help="length limit of a response (default: 128)")
    add("--dry-run", action="store_true", help="show space, trials and estimated time, and stop")
    return made


def _training_options(made: Parser) -> None:
    """What a comparison and a search share: what is trained, on what, and how."""
    add = made.add_argument
    add("--methods", default="dpo,ganpo_dpo", help="names or formulas: dpo,ganpo_dpo,ipo+latent")
    add("--model", default=DEFAULT_MODEL, help=f"a preset, a hub id or a folder (default: {DEFAULT_MODEL})")
    add("--dataset", default=DEFAULT_DATASET, help=f"a preset or a JSON, JSONL or Parquet file ({DEFAULT_DATASET})")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="ganpo_dpo.latent.weight=0.3; repeatable")
    adaptation = made.add_mutually_exclusive_group()
    add_either = adaptation.add_argument
    add_either("--lora", type=int, default=16, metavar="RANK", help="train an adapter of this rank (default: 16)")
    add_either("--full", action="store_true", help="train all weights")
    add("--max-pairs", type=int, help="training rows to take (default: all)")
    length = made.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=float, default=1.0, help="passes over the training rows (default: 1)")
    length.add_argument("--max-steps", type=int, help="updates of the policy, instead of epochs")
    add("--batch-size", type=int, default=8, help="rows an update, over all processes (default: 8)")
    add("--micro-batch-size", type=int, default=2, help="rows a forward: memory against speed (default: 2)")
    add("--precision", choices=get_args(Precision), default="float32", help="of training (default: float32)")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third more time")
    add("--max-length", type=int, default=1024, help="tokens of prompt and completion together (default: 1024)")
    add("--max-prompt-length", type=int, help="tokens of the prompt (default: what the completion leaves)")
    add("--overlong", choices=("truncate", "drop"), default="truncate", help="rows over the limit (default: truncate)")
    add("--out", type=Path, default=Path(".advalign"), help="the output folder (default: .advalign)")
    add("--tracking-uri", help="an MLflow store, or none (default: sqlite below the output folder)")
    add("--checkpoint-every", type=int, metavar="STEPS", help="default: about once a minute")


@dataclasses.dataclass(frozen=True)
class Overrides:
    """`--set` values: `for_method("ganpo_dpo")` is what applies to it, by dotted name."""

    values: dict[str, str]

    @classmethod
    def parse(cls, texts: Sequence[str], methods: Sequence[str]) -> Overrides:
        """ValueError for text without `=` or a name that starts with none of the methods."""
        values = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals:
                raise ValueError(f"--set {text} has no value; write NAME=VALUE, as in ganpo_dpo.latent.weight=0.3")
            if not any(name.startswith(f"{method}.") for method in methods):
                raise ValueError(f"--set {name} names no method of this run; start with {' or '.join(methods)}")
            values[name] = value
        return cls(values)

    def for_method(self, method: str) -> dict[str, str]:
        prefix = f"{method}."
        return {name.removeprefix(prefix): v for name, v in self.values.items() if name.startswith(prefix)}

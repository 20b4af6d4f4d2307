"""The plan of a search: its space, its trials and about how long they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from benchmarks.planning import costs
from benchmarks.planning.machine import this_machine
from experiments.models.loading import meta_model
from registry import flatten

if TYPE_CHECKING:
    from benchmarks.tuning.trials import Trials
    from experiments.studies.study import Budget, Design
    from methods.protocols import Method


def render(
    designs: Sequence[Design], budgets: Sequence[Budget], methods: Mapping[str, Method], trials: Trials
) -> RenderableType:
    """A table of what is searched, and one of what that takes. `methods` holds the defaults by name."""
    space = Table(box=box.SIMPLE_HEAD, title="space", title_justify="left")
    for heading in ("method", "hyperparameter", "range", "default"):
        space.add_column(heading)
    shown = set()
    for design in designs:
        if design.method not in shown:
            shown.add(design.method)
            default = flatten(methods[design.method])
            for name, distribution in design.space.items():
                space.add_row(
                    design.method,
                    name,
                    spell(distribution),
                    f"{default[name]:g}" if isinstance(default[name], float) else str(default[name]),
                )
    effort = Table(box=box.SIMPLE_HEAD, title="trials", title_justify="left")
    for heading in ("study", "metric", "budget", "a trial", "in all"):
        effort.add_column(heading)
    total = 0.0
    for design, budget in zip(designs, budgets, strict=True):
        seconds = estimate(methods[design.method], trials)
        whole = budget.seconds if budget.trials is None else seconds * budget.trials
        assert whole is not None
        total += whole
        effort.add_row(design.name, ", ".join(design.metrics), str(budget), f"{seconds:.0f} s", f"{whole / 60:.0f} min")
    bench = trials.bench
    size = f"{len(bench.data.train)} training pairs, {len(bench.data.dev)} dev pairs, {bench.training.steps} steps"
    return Group(space, effort, Text(f"{size}, seeds {', '.join(map(str, trials.seeds))}; about {total / 60:.0f} min"))


def spell(distribution: BaseDistribution) -> str:
    """`0.1 … 10, log`, or the values of a list."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(f"{choice:g}" if isinstance(choice, float) else str(choice) for choice in distribution.choices)
    ends: Any = distribution
    return f"{ends.low:g} … {ends.high:g}{', log' if ends.log else ''}"


def estimate(method: Method, trials: Trials) -> float:
    """Seconds of one trial, by the rough rules of a comparison's plan; answers to prompts are not counted."""
    machine, model, data = (
        this_machine(trials.bench.training.precision),
        meta_model(trials.bench.model),
        trials.bench.data,
    )
    sequences = [s for example in data.train for s in example.sequences.values()]
    mean = sum(map(len, sequences)) / len(sequences)
    completion = sum(len(s.completion) for s in sequences) / len(sequences)
    seconds = costs.seconds(
        method, trials.bench.training, model, machine, mean_row_tokens=mean, mean_completion_tokens=completion
    )
    seconds += costs.scoring_seconds(model, machine, num_sequences=2 * len(data.dev), mean_row_tokens=mean)
    return seconds * len(trials.seeds)

"""The output of `--list`: the registry, with each entry's paper and what a user needs to choose.

Reads catalogues only, so that it needs neither weights nor the libraries that would load them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from rich import box
from rich.table import Table

from registry import Card, flatten, nearest, search_space
from registry.datasets import DATASETS, DEFAULT_DATASET, DatasetPreset
from registry.models import DEFAULT_MODEL, MODELS, ModelPreset

COPIED = ("paper", "search space")  # columns of names that a user copies: not folded


def listing(kind: str) -> Table:
    """A table of the `methods`, `models`, `datasets` or `tasks`. KeyError for any other kind, with the nearest."""
    try:
        build = LISTINGS[kind]
    except KeyError:
        raise KeyError(f"nothing to list by the name {kind!r}{nearest(kind, LISTINGS)}") from None
    return build()


def spell_range(distribution: BaseDistribution) -> str:
    """`0.01 to 1 (log)` of a number, `mlp | mse` of a choice."""
    if isinstance(distribution, (FloatDistribution, IntDistribution)):
        scale = " (log)" if distribution.log else ""
        step = f" in steps of {distribution.step:g}" if distribution.step not in (None, 1) else ""
        return f"{distribution.low:g} to {distribution.high:g}{scale}{step}"
    if isinstance(distribution, CategoricalDistribution):
        return " | ".join(map(str, distribution.choices))
    return str(distribution)


def _methods() -> Table:
    from methods import METHODS, OBJECTIVES, REGULARIZERS

    table = _table("methods", "method", "paper", "reads and needs", "lr", "search space", "note")
    for card in METHODS.values():
        use = f"reads {', '.join(card.spec.reads)}\nneeds {_needs(card)}"
        table.add_row(card.name, _paper(card), use, f"{card.lr:g}", _space(search_space(card.spec)), card.note)
    table.caption = (
        f"Free compositions: an objective ({', '.join(OBJECTIVES)}) + any of {', '.join(REGULARIZERS)}, such as "
        "\"ipo+latent\". lr is the paper's; a composition takes its objective's, and a model may have its own."
    )
    return table


def _models() -> Table:
    table = _table("models", "model", "paper", "hub id", "parameters", "licence", "learning rates of its own", "note")
    for preset in MODELS.values():
        own = [(name, lr, "") for name, lr in sorted(preset.lr.items())]
        own += [(f"any on {kind}s", lr, " (borrowed)") for kind, lr in sorted(preset.borrowed_lr.items())]
        rates = "\n".join(f"{name} {lr:g}{note}" for name, lr, note in own)
        notes = (_if(preset.name == DEFAULT_MODEL, "the default"), _origin(preset), preset.note)
        licence = preset.licence + _if(preset.gated, " (gated: accept it on the hub)")
        name = f"[link={preset.paper.url}]{preset.paper.arxiv}[/link]"
        count = f"{preset.num_parameters:,}"
        table.add_row(preset.name, name, preset.hub, count, licence, rates, _join(notes))
    table.caption = "Any other hub id or local folder works as --model too."
    return table


def _datasets() -> Table:
    table = _table("datasets", "data set", "paper", "hub id", "rows", "layout", "licence", "note")
    for preset in DATASETS.values():
        rows = "" if preset.num_rows is None else f"{preset.num_rows:,}"
        spoiled = _if(bool(preset.contaminates), f"contaminates {', '.join(preset.contaminates)}")
        notes = (_if(preset.name == DEFAULT_DATASET, "the default"), spoiled, _origin(preset), preset.note)
        layout = f"{preset.kind}, {preset.layout}"
        paper = f"[link={preset.paper.url}]{preset.paper.arxiv}[/link]"
        table.add_row(preset.name, paper, preset.hub or "", rows, layout, preset.licence, _join(notes))
    table.caption = "Any JSON, JSONL or Parquet file in these layouts works as --dataset too."
    return table


def _tasks() -> Table:
    from benchmarks.tasks import TASKS, load_tasks

    load_tasks()
    table = _table("tasks", "task", "paper", "ranks by", "settings", "note")
    for card in TASKS.values():
        settings = "\n".join(f"{key} = {value}" for key, value in flatten(card.spec).items())
        table.add_row(card.name, _paper(card), ", ".join(card.spec.columns), settings, card.note)
    return table


LISTINGS: Mapping[str, Callable[[], Table]] = {
    "methods": _methods,
    "models": _models,
    "datasets": _datasets,
    "tasks": _tasks,
}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, show_lines=True, caption_justify="left", title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, no_wrap=index == 0 or column in COPIED, overflow="fold")
    return table


def _needs(card: Card) -> str:
    """The reference only as log-probs, or its hidden states too; and networks of its own."""
    from methods.protocols import Adversary

    spec = card.spec
    hidden = spec.needs("hidden") or spec.needs("padded_hidden")
    learners = [name for name, part in spec.parts.items() if isinstance(part, Adversary) and part.learns]
    needs = (
        _if(spec.needs("reference") and not hidden, "reference"),
        _if(hidden, "reference's hidden states"),
        _if(bool(learners), f"a network that learns ({', '.join(learners)})"),
        _if(spec.on_policy, "samples of the policy"),
    )
    return _join(needs) or "nothing"


def _space(space: Mapping[str, BaseDistribution]) -> str:
    return "\n".join(f"{name}: {spell_range(distribution)}" for name, distribution in space.items())


def _paper(card: Card) -> str:
    return f"[link={card.paper.url}]{card.paper.arxiv}[/link]"


def _origin(preset: ModelPreset | DatasetPreset) -> str:
    if isinstance(preset, DatasetPreset) and preset.file is not None:
        return "in this repository"
    return "" if preset.package is None else f"in the package {preset.package.package}"


def _if(condition: bool, text: str) -> str:
    return text if condition else ""


def _join(texts: Iterable[str]) -> str:
    return "; ".join(filter(None, texts))

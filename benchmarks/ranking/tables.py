"""A leaderboard as data: everything that was ever run in a store, in tables whose rows may be compared.

Rows share weights, adaptation, tokens and budget; columns share task, revision, settings and items. What differs in
any of them stands in a table of its own and is never ranked together.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.ranking.board import Cost, Leaderboard, Row, Table, machines
from benchmarks.ranking.columns import Column, compare_rows, mean
from benchmarks.ranking.descriptions import changed, control, describe, label, rewards_of, shared_settings
from benchmarks.ranking.gains import with_gains
from benchmarks.results import declared_runs, learning_rates, tuned_methods
from benchmarks.results.evaluations import Evaluation
from benchmarks.results.results import BASE, Run, Store, load
from benchmarks.results.tuned_methods import SUFFIX, is_tuned, untuned
from benchmarks.statistics.significance import FEWEST_SEEDS
from benchmarks.tasks import load_tasks
from registry.datasets import DATASETS

CONTAMINATED = 0.01  # of a task's prompts, trained on: above, the task is left out
SEEDS_NEEDED = (
    f"Ranks and p-values need at least {FEWEST_SEEDS} seeds in both rows: fewer say too little about a method, "
    "and nothing is claimed of them. Run more (--seeds 0,1,2)."
)


def build(out: Path, only: Collection[str] | None = None) -> Leaderboard:
    """Read the store below `out` and compare what may be compared: all runs, or those whose ids are in `only`.

    An empty store makes an empty leaderboard.
    """
    load_tasks()  # they say whether they rank
    store = load(out)
    if only is not None:
        store = dataclasses.replace(store, runs=tuple(run for run in store.runs if run.id in only))
    known = declared_runs.read(out)
    tables = [table for runs in _groups(store) for table in _tables(runs)]
    told = [(table, _family_sentence(table, known)) for table in tables]
    tables = [dataclasses.replace(t, notes=(*t.notes, said)) if said else t for t, said in told]
    return Leaderboard(_distinguished(with_gains(tables)), store.skipped, store.data_reports)


def _groups(store: Store) -> list[list[Run]]:
    """Runs by setting, each group with the untrained model of its weights and tokens, the latest group first.

    Rows that a search tuned stand apart from rows at the papers' defaults: they were given a budget for it.
    """
    groups: dict[str, list[Run]] = {}
    untrained: dict[tuple[str, str], list[Run]] = {}
    for run in store.runs:
        if run.is_base:
            untrained.setdefault((run.model["weights"], run.data["tokens"]), []).append(run)
        else:
            apart = f"{SUFFIX}{run.tuning.get('budget')}" if is_tuned(run.method) else ""
            groups.setdefault(run.setting + apart, []).append(run)
    compared = [[*untrained.get((g[0].model["weights"], g[0].data["tokens"]), []), *g] for g in groups.values()]
    used = {run.id for group in compared for run in group}
    alone = [runs for runs in untrained.values() if runs[0].id not in used]
    newest = sorted(compared, key=lambda g: max(str(run.manifest.get("started", "")) for run in g), reverse=True)
    return newest + alone


def _tables(runs: Sequence[Run]) -> list[Table]:
    """One table with the version of each task that most runs have, and one for every other version.

    What only the untrained model was asked is no column, where there is anything else.
    """
    barred, notes = _contaminated(runs)
    asked = [(run, (e.task, e.version)) for run in runs for e in run.evaluations if e.task not in barred]
    found = Counter(task for run, task in asked if not run.is_base) or Counter(task for _, task in asked)
    revisions = {e.version: e.revision for run in runs for e in run.evaluations}
    by_task: dict[str, list[str]] = {}
    for (task, version), _ in sorted(found.items(), key=lambda entry: (-entry[1], -revisions[entry[0][1]])):
        by_task.setdefault(task, []).append(version)
    usual = {task: versions[0] for task, versions in sorted(by_task.items())}
    others = [{task: version} for task, versions in sorted(by_task.items()) for version in versions[1:]]
    return [_table(runs, versions, notes) for versions in (usual, *others)]


def _contaminated(runs: Sequence[Run]) -> tuple[set[str], tuple[str, ...]]:
    """The tasks whose prompts the data set holds, or that look at one of those, and the sentence that says so."""
    data = runs[0].data["name"]
    seen = set(DATASETS[data].contaminates) if data in DATASETS else set()
    evaluations = [evaluation for run in runs for evaluation in run.evaluations]
    barred = {e.task for e in evaluations if {e.task, e.settings.get("of")} & seen or e.trained_on > CONTAMINATED}
    return barred, tuple(f"{task} is left out: {data} holds its prompts" for task in sorted(barred))


def _table(runs: Sequence[Run], versions: Mapping[str, str], notes: tuple[str, ...]) -> Table:
    variants: dict[str, list[Run]] = {}
    for run in runs:
        if not versions or any(e.version in versions.values() for e in run.evaluations):
            variants.setdefault(run.variant, []).append(run)
    # Objectives before their compositions and controls before what they control for: differences read as method minus
    # what it is compared with
    groups = sorted(variants.values(), key=lambda group: _place(group[0]))
    trained = [run for group in groups for run in group if not run.is_base]
    columns, scores = [], {}
    own = [_changed(group[0], groups) for group in groups]
    common = shared_settings([(g[0].hyperparameters, mine) for g, mine in zip(groups, own, strict=True)])
    own = [{name: value for name, value in mine.items() if name not in common} for mine in own]
    names = [label(group[0].method, mine) for group, mine in zip(groups, own, strict=True)]
    for version in versions.values():
        entries = {name: _evaluations(group, version) for name, group in zip(names, groups, strict=True)}
        for column, scored in compare_rows(entries):
            columns.append(column)
            scores[column.key] = {
                name: dataclasses.replace(score, rewarded_by=_rewarded_by(column, group))
                for name, group in zip(names, groups, strict=True)
                if (score := scored.get(name)) is not None
            }
    rows = [
        Row(
            name=name,
            method=group[0].method,
            hyperparameters=group[0].hyperparameters,
            changed=mine,
            control=control(group[0].hyperparameters),
            runs=tuple(group),
            scores={key: scored[name] for key, scored in scores.items() if name in scored},
            cost=_cost(group, groups),
        )
        for name, group, mine in zip(names, groups, own, strict=True)
    ]
    facts = (trained or list(runs))[0]
    if common:
        notes += (f"Not the default, in every row that has it: {label('', common).removeprefix(', ')}.",)
    plain = [(row.name, row.method, row.hyperparameters) for row in rows if not is_tuned(row.method)]
    if sentence := learning_rates.learning_rate_note(plain, facts.model["name"]):
        notes += (sentence,)
    if sentence := _too_few_seeds(columns):
        notes += (sentence,)
    notes += tuned_methods.notes({row.name: row.runs[0].tuning for row in rows if row.runs[0].tuning})
    judging = [column for column in columns if column.ranks] or columns
    return Table(facts.model, facts.data, facts.training, tuple(columns), _ordered(rows, judging), notes)


def _rewarded_by(column: Column, runs: Sequence[Run]) -> str | None:
    """The judge of a column, where it also rewarded the row's samples in training."""
    return column.judges_by if column.judges_by in rewards_of(runs[0]) else None


def _too_few_seeds(columns: Iterable[Column]) -> str:
    """The sentence on rows that lack seeds, with the columns if not all; empty where no row lacks any."""
    judging = [column for column in columns if column.ranks]
    groups: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for column in judging:
        groups.setdefault(tuple(column.lacking.items()), []).append(column.name)
    told = []
    for lacking, names in groups.items():
        if lacking:
            rows = ", ".join(f"{name} has {number}" for name, number in lacking)
            told.append(rows + (f" in {' and '.join(names)}" if len(names) < len(judging) else ""))
    return f"{SEEDS_NEEDED} Too few: {'; '.join(told)}." if told else ""


def _distinguished(tables: Sequence[Table]) -> tuple[Table, ...]:
    """Tables that would have the same title say in it what sets them apart, and no more than that takes."""
    facts = [_facts(table) for table in tables]
    made = []
    for table, own in zip(tables, facts, strict=True):
        alike = [theirs for other, theirs in zip(tables, facts, strict=True) if other.title == table.title]
        said = []
        for key, value in own.items():
            left = [theirs for theirs in alike if theirs.get(key, value) == value]  # no setting of a task it lacks
            if len(left) < len(alike):
                said.append(f"{key} {value}")
            alike = left
        made.append(dataclasses.replace(table, distinction=", ".join(said)))
    return tuple(made)


def _facts(table: Table) -> dict[str, str]:
    hashes = {"weights": table.model["weights"][:8], "tokens": table.data["tokens"][:8]}
    training = {key: str(value) for key, value in table.training.items()}
    settings = {
        f"{column.task} {key}": str(value)
        for column in table.columns
        for key, value in {"revision": column.revision, **column.settings}.items()
    }
    budgets = [str(row.runs[0].tuning.get("budget")) for row in table.rows if is_tuned(row.method)]
    tuning = f"tuned ({budgets[0]})" if budgets else "as given"
    tasks = " and ".join(dict.fromkeys(column.task for column in table.columns))
    return training | hashes | {"hyperparameters": tuning} | settings | {"of": tasks}


def _changed(run: Run, groups: Iterable[Sequence[Run]]) -> dict[str, Any]:
    siblings = [group[0].hyperparameters for group in groups if group[0].method == run.method]
    return changed(run.method, run.hyperparameters, siblings)


def _evaluations(runs: Iterable[Run], version: str) -> list[Evaluation]:
    return [evaluation for run in runs for evaluation in run.evaluations if evaluation.version == version]


def _cost(runs: Sequence[Run], groups: Iterable[Sequence[Run]]) -> Cost:
    wall = mean(run.manifest.get("wall_seconds") for run in runs)
    peaks = [run.manifest["peak_memory_bytes"] for run in runs if run.manifest.get("peak_memory_bytes")]
    alone = next((group for group in groups if _is_objective_of(group[0], runs[0])), None)
    theirs = mean(run.manifest.get("wall_seconds") for run in alone) if alone else None
    same = alone is not None and machines(alone) == machines(runs)  # time on two machines is no overhead
    return Cost(
        wall_seconds=None if runs[0].is_base else wall,
        tokens_per_second=mean(run.manifest.get("tokens_per_second") for run in runs),
        peak_memory_bytes=None if runs[0].is_base else max(peaks, default=None),
        overhead=wall / theirs - 1 if same and wall and theirs else None,
    )


def _place(run: Run) -> tuple[bool, ...]:
    return not run.is_base, not _is_objective(run), control(run.hyperparameters) is None


def _is_objective(run: Run) -> bool:
    return describe(run.method).objective == untuned(run.method)


def _is_objective_of(alone: Run, run: Run) -> bool:
    """Whether `alone` is the objective of `run` without regularizers and with its hyperparameters."""
    objective = describe(run.method).objective
    own = {key: value for key, value in run.hyperparameters.items() if key.startswith(f"{objective}.")}
    same = all(alone.hyperparameters.get(key) == value for key, value in own.items())
    return untuned(alone.method) == objective != untuned(run.method) and same


def _ordered(rows: Iterable[Row], columns: Sequence[Column]) -> tuple[Row, ...]:
    """Rows by rank and score in the first column that ranks any; by name where nothing is ranked."""
    listed = list(rows)
    ranked = [c for c in columns if any(row.scores[c.key].rank is not None for row in listed if c.key in row.scores)]

    def place(row: Row) -> tuple[Any, ...]:
        score = row.scores.get(ranked[0].key) if ranked else None
        if score is None or score.rank is None:
            return (1, row.method != BASE, row.name)
        return (0, score.rank, -score.interval.estimate)

    return tuple(sorted(listed, key=place))


def _family_sentence(table: Table, families: Sequence[Mapping[str, Any]]) -> str:
    """The sentence about a table's family of comparisons; empty where no command named one, or nothing is ranked."""
    if not families or not any(score.rank is not None for row in table.rows for score in row.scores.values()):
        return ""
    runs = {run.id for row in table.rows for run in row.runs if not run.is_base}
    before = [family for family in families if runs <= set(family["cells"]) - set(family["measured_before"])]
    return declared_runs.NAMED if before else declared_runs.EXPLORED

"""Verdicts on a published comparison's claims, from the runs of a store.

A claim *agrees* or *disagrees* if the 95 % interval of its paired difference lies on one side of zero, and is
*undecided* where the interval holds zero or too few seeds or prompts were run to say anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.presets import Claim, Measure, Preset, ScaleName
from benchmarks.ranking.columns import Column, Score, compare_rows
from benchmarks.results.evaluations import Evaluation
from benchmarks.results.results import Run, load
from benchmarks.statistics.significance import Difference, Interval
from benchmarks.tasks import load_tasks

Verdict = Literal["agrees", "disagrees", "undecided", "not measured"]


@dataclass(frozen=True)
class Finding:
    """A claim and what was measured of it; `why` says what keeps it undecided."""

    claim: Claim
    measure: Measure
    comparison: Difference | None
    share: bool
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class Reproduction:
    preset: Preset
    scale: ScaleName
    findings: tuple[Finding, ...]
    scores: Mapping[str, Mapping[str, Interval]]  # by measure, then by arm


def read(preset: Preset, scale: ScaleName, out: Path, made: Mapping[str, Sequence[str]]) -> Reproduction:
    """The verdict on every claim from the store below `out`.

    `made` are the ids of each arm's runs, by its label; an arm without any leaves its claims unmeasured.
    """
    load_tasks()  # they say which of their values are shares
    runs = load(out).runs
    owned = {arm.label: [run for run in runs if run.id in made.get(arm.label, ())] for arm in preset.arms}
    findings: list[Finding] = []
    scores: dict[str, dict[str, Interval]] = {}
    columns: dict[str, Column] = {}
    for key, measure in preset.scales[scale].measures.items():
        entries = _entries(owned, measure)
        if entries:
            column, scored = _column_with(measure.value, compare_rows(entries))
            columns[key] = column
            scores[key] = {
                name: score.interval if measure.value == column.primary else score.others[measure.value]
                for name, score in scored.items()
                if measure.value == column.primary or measure.value in score.others
            }
    for claim in preset.claims:
        measure = preset.scales[scale].measures[claim.measure]
        comparison = None
        share = False
        if claim.measure in columns:
            column = columns[claim.measure]
            pairs = column.comparisons if measure.value == column.primary else column.others.get(measure.value, {})
            comparison = _oriented(pairs, claim)
            share = measure.value in column.shares
        findings.append(_judged(claim, measure, comparison, share))
    return Reproduction(preset, scale, tuple(findings), scores)


def _column_with(value: str, found: Sequence[tuple[Column, dict[str, Score]]]) -> tuple[Column, dict[str, Score]]:
    """The column that a value ranks, or else the one that it is shown with; the first, where no row has it."""
    ranking = [entry for entry in found if entry[0].primary == value]
    showing = [entry for entry in found if any(value in score.others for score in entry[1].values())]
    return (*ranking, *showing, *found)[0]


def _entries(owned: Mapping[str, Sequence[Run]], measure: Measure) -> dict[str, list[Evaluation]]:
    """Each arm's evaluations by seed, all on the same items: of several versions, the one that most runs have."""
    found = {
        label: [e for run in runs for e in run.evaluations if e.task == measure.task and e.result.items]
        for label, runs in owned.items()
    }
    versions = [evaluation.version for evaluations in found.values() for evaluation in evaluations]
    usual = max(versions, key=versions.count, default=None)
    return {label: kept for label, all_ in found.items() if (kept := [e for e in all_ if e.version == usual])}


def _oriented(pairs: Mapping[tuple[str, str], Difference], claim: Claim) -> Difference | None:
    if (claim.first, claim.second) in pairs:
        return pairs[claim.first, claim.second]
    other = pairs.get((claim.second, claim.first))
    if other is None:
        return None
    return other.turned


def _judged(claim: Claim, measure: Measure, comparison: Difference | None, share: bool) -> Finding:
    if comparison is None:
        return Finding(claim, measure, None, share, "not measured", f"no {measure.name} of both")
    if not comparison.claims:
        return Finding(claim, measure, comparison, share, "undecided", "too few seeds or prompts for a claim")
    if comparison.low <= 0 <= comparison.high:
        return Finding(claim, measure, comparison, share, "undecided", "the interval holds zero")
    agrees = (comparison.estimate > 0) == claim.higher
    return Finding(claim, measure, comparison, share, "agrees" if agrees else "disagrees")


def as_json(found: Reproduction) -> dict[str, object]:
    """Everything that is printed, unrounded."""
    return {
        "preset": found.preset.name,
        "paper": found.preset.paper.arxiv,
        "where": found.preset.where,
        "scale": found.scale,
        "claims": [
            {
                "first": f.claim.first,
                "second": f.claim.second,
                "higher": f.claim.higher,
                "published": f.claim.published,
                "differs_in": f.claim.differs_in,
                "task": f.measure.task,
                "value": f.measure.value,
                "measured": None if f.comparison is None else vars(f.comparison),
                "verdict": f.verdict,
                "why": f.why,
            }
            for f in found.findings
        ],
        "rows": {key: {name: vars(i) for name, i in rows.items()} for key, rows in found.scores.items()},
    }

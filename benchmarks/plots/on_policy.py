"""Pictures of on-policy training: whether a learned reward is earned, its cost, and where rollouts go."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from functools import partial

from markupsafe import Markup

from benchmarks.plots import svg
from benchmarks.plots.curves import Group, Styles
from benchmarks.ranking.board import Row, Table
from benchmarks.results.results import Run

LEARNED, VERIFIED, JUDGED, TOKENS = "/reward/learned", "/reward/verified", "/reward/judged", "/tokens_consumed"
MEDIAN = "/penalty/logp_expert_p50"  # logged by a part that draws rollouts towards experts
ROLES = {"sampled": "rollouts", "expert": "experts’ responses"}
Points = tuple[tuple[float, float], ...]
Step = Mapping[str, object]
Read = Callable[[Step], float | None]


def earned(table: Table, styles: Styles) -> Group | None:
    """The scores of a run's samples by its reward model, by a verifier, and by a model that trains no policy."""
    return _of_runs(
        table,
        styles,
        "Learned reward against verified reward",
        "One line a run, in the order of training. Upwards to the right the learned reward is earned; "
        "to the right without rising, it is gamed.",
        x=partial(_ending, LEARNED),
        across="over the learned reward of the same samples",
        sides={
            "Verified reward": partial(_ending, VERIFIED),
            "Reward by a model that trains no policy": partial(_ending, JUDGED),
        },
    )


def scaling(table: Table, styles: Styles) -> Group | None:
    """Quality over the tokens that the game has consumed (GAPO's scaling figure)."""
    return _of_runs(
        table,
        styles,
        "Quality and tokens consumed",
        "One line a run, a point a round. Tokens that the policy generated and that the reward model learnt from.",
        x=partial(_ending, TOKENS),
        across="over the tokens consumed by then",
        sides={"Verified reward": partial(_ending, VERIFIED), "Accuracy of the reward model": _accuracy},
    )


def _of_runs(
    table: Table, styles: Styles, title: str, told: str, *, x: Read, across: str, sides: Mapping[str, Read]
) -> Group | None:
    """A panel for each side that some run logged, with a line for each run; the legend names those rows only."""
    found = {name: curves for name, y in sides.items() if (curves := _one_a_run(table, styles, x, y))}
    drawn = frozenset(curve.label for curves in found.values() for curve in curves)
    made = tuple(svg.panel(name, curves, note=across, margin=0.04) for name, curves in found.items())
    return Group(title, told, made, rows=drawn) if made else None


def anchored(table: Table, styles: Styles) -> Group | None:
    """Log-probs and lengths of rollouts and of experts' responses under the policy (AAPA's analyses)."""
    made: list[Markup] = []
    for row in table.rows:
        for key in dict.fromkeys(key for run in row.runs for step in run.steps for key in step if key.endswith(MEDIAN)):
            part = key.removesuffix(MEDIAN)
            logps, lengths = [], []
            for role, name in ROLES.items():
                style = styles[row.name] if role == "sampled" else -1
                lengths.append(svg.Curve(name, _means(row, f"{part}/penalty/length_{role}"), style))
                for share in (10, 50, 90):
                    points = _means(row, f"{part}/penalty/logp_{role}_p{share}")
                    logps.append(svg.Curve(f"{name}, {share} %", points, style, faint=share != 50))
            made.append(svg.panel(f"{row.name}: log-prob a token", logps, note="median, 10 and 90 %, over updates"))
            made.append(svg.panel(f"{row.name}: length", lengths, note="tokens, mean, over updates"))
    told = (
        "In colour the rollouts, in grey the experts’ responses to the same prompts, under the policy as it was then. "
        "Of a sequence’s mean log-prob: the median, and faint what 10 and 90 % lie below. Means of the seeds."
    )
    return Group("Rollouts and experts", told, tuple(made), named=True) if made else None


def _one_a_run(table: Table, styles: Styles, x: Read, y: Read) -> list[svg.Curve]:
    """A line for each run, a dot for one that drew a single rollout; a row's runs after its first are faint."""
    curves = []
    for row in table.rows:
        for index, run in enumerate(row.runs):
            points = _points(run, x, y)
            if points:
                curves.append(svg.Curve(row.name, points, styles[row.name], faint=index > 0))
    return curves


def _points(run: Run, x: Read, y: Read) -> Points:
    """Points in the order of training; the updates of one rollout share a point."""
    found: list[tuple[float, float]] = []
    for step in run.steps:
        across, up = x(step), y(step)
        if across is None or up is None or not math.isfinite(across):
            continue
        if (across, up) not in found[-1:]:
            found.append((across, up))
    return tuple(found)


def _ending(ending: str, step: Step) -> float | None:
    return next((float(v) for k, v in step.items() if k.endswith(ending) and isinstance(v, (int, float))), None)


def _accuracy(step: Step) -> float | None:
    """The reward model's accuracy on held-out pairs, where its round begins."""
    part = next((key.removesuffix(TOKENS) for key in step if key.endswith(TOKENS)), None)
    return None if part is None else _ending(f"{part}/accuracy", step)


def _means(row: Row, key: str) -> Points:
    """Over the seeds that have a step."""
    seeds: dict[int, list[float]] = {}
    for run in row.runs:
        for step in run.steps:
            value = step.get(key)
            if isinstance(value, (int, float)):
                seeds.setdefault(int(step["step"]), []).append(float(value))
    return tuple((float(step), statistics.fmean(values)) for step, values in sorted(seeds.items()))

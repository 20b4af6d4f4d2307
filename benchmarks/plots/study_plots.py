"""Plots of a study: trials as points over hyperparameters, on the ranges' own (often logarithmic) axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from markupsafe import Markup

from benchmarks.plots.svg import Scale, tick_labels

Kind: TypeAlias = Literal["trial", "first", "best", "infeasible", "random"]
COLOURS: Mapping[Kind, str] = {"trial": "c0", "first": "c4", "best": "c2", "infeasible": "plain", "random": "c1"}


@dataclass(frozen=True)
class Axis:
    """Places values in per cent; of a list of values, each has its place."""

    title: str
    scale: Scale
    ticks: tuple[tuple[float, str], ...]
    log: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def linear(cls, title: str, values: Sequence[float], *, margin: float = 0.06) -> Axis:
        scale = Scale.around(values, margin=margin)
        return cls(title, scale, tuple(tick_labels(scale)))

    @classmethod
    def searched(cls, title: str, distribution: Mapping[str, Any], values: Sequence[Any]) -> Axis:
        """The axis of a hyperparameter from its distribution as JSON; a default outside the range widens it."""
        facts = distribution["attributes"]
        if "choices" in facts:
            choices = tuple(facts["choices"])
            width = max(1, len(choices) - 1)
            scale = Scale(-0.25, width + 0.25, tuple(map(float, range(len(choices)))))
            ticks = tuple((scale.per_cent(i), _short(choice)) for i, choice in enumerate(choices))
            return cls(title, scale, ticks, choices=choices)
        ends = [facts["low"], facts["high"], *values]
        if not facts["log"]:
            return cls.linear(title, ends, margin=0.03)
        powers = [math.log10(value) for value in ends]
        low, high = min(powers), max(powers)
        margin = 0.03 * ((high - low) or 1.0)
        inside = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
        every = max(1, math.ceil(len(inside) / 5))
        scale = Scale(low - margin, high + margin, tuple(float(power) for power in inside[::every]))
        shown = scale.ticks or (low, high)
        ticks = tuple((scale.per_cent(power), _short(10**power)) for power in shown)
        return cls(title, scale, ticks, log=True)

    def at(self, value: Any) -> float:
        if self.choices:
            return self.scale.per_cent(float(self.choices.index(value))) if value in self.choices else 0.0
        return self.scale.per_cent(math.log10(value) if self.log else float(value))


@dataclass(frozen=True)
class Point:
    """A trial in a picture; `told` is what the pointer shows."""

    x: Any
    y: Any
    told: str
    kind: Kind = "trial"
    share: float | None = None  # of the way from worst to best, where colour says so


def scatter(
    title: str, x: Axis, y: Axis, points: Sequence[Point], *, level: float | None = None, note: str = ""
) -> Markup:
    """Points, the best one last and so on top; `level` is a value of y to compare with."""
    order = sorted(points, key=lambda point: ("infeasible", "random", "trial", "first", "best").index(point.kind))
    marks = [_level(y.at(level))] if level is not None else []
    marks += [
        Markup('<path class="dots {}"{} d="M{} {}h0"><title>{}</title></path>').format(
            COLOURS[p.kind], _mixed(p.share), x.at(p.x), _down(y.at(p.y)), p.told
        )
        for p in order
    ]
    told = f"{title}: {y.title} over {x.title}, {len(points)} trials"
    return _frame(title, Markup("").join(marks), x, y, told, note)


def history(
    title: str, lines: Mapping[Kind, Sequence[tuple[float, float]]], points: Sequence[Point], y: str, *, note: str = ""
) -> Markup:
    """The best value so far over the number of trials, as steps, with the trials behind it."""
    every = [value for line in lines.values() for _, value in line] + [point.y for point in points]
    most = max([x for line in lines.values() for x, _ in line] + [point.x for point in points], default=1.0)
    x_axis, y_axis = Axis.linear("trials", [0.0, most], margin=0.0), Axis.linear(y, every)
    marks = [
        Markup('<path class="dots faint {}" d="M{} {}h0"><title>{}</title></path>').format(
            COLOURS[p.kind], x_axis.at(p.x), _down(y_axis.at(p.y)), p.told
        )
        for p in points
    ]
    for kind, line in lines.items():
        corners, last = [], None
        for spent, value in line:
            if last is not None:
                corners.append(f"{x_axis.at(spent)} {_down(y_axis.at(last))}")
            corners.append(f"{x_axis.at(spent)} {_down(y_axis.at(value))}")
            last = value
        if corners:
            marks.append(Markup('<path class="line {}" d="M{}"/>').format(COLOURS[kind], "L".join(corners)))
    ends = "; ".join(f"{kind}: from {line[0][1]:.4g} to {line[-1][1]:.4g}" for kind, line in lines.items() if line)
    return _frame(title, Markup("").join(marks), x_axis, y_axis, f"{title}. {ends}", note)


def parallel(title: str, axes: Sequence[Axis], rows: Sequence[tuple[Sequence[Any], float, str]]) -> Markup:
    """A line for each trial through all axes; `rows` hold its values, its share of the way to the best, and a text."""
    places = [100 * i / max(1, len(axes) - 1) for i in range(len(axes))]
    marks = [Markup('<path class="grid" d="M{x} 0V100"/>').format(x=round(x, 2)) for x in places]
    for values, share, told in sorted(rows, key=lambda row: row[1]):
        path = "L".join(
            f"{round(x, 2)} {_down(axis.at(value))}" for x, axis, value in zip(places, axes, values, strict=True)
        )
        marks.append(
            Markup('<path class="line thin"{} d="M{}"><title>{}</title></path>').format(_mixed(share), path, told)
        )
    texts = []
    for x, axis in zip(places, axes, strict=True):
        texts.append(Markup('<span class="name" style="left:{}%">{}</span>').format(round(x, 2), axis.title))
        texts += [
            Markup('<span class="tick" style="left:{}%;top:{}%">{}</span>').format(
                round(x, 2), round(100 - at, 2), text
            )
            for at, text in axis.ticks
        ]
    return Markup(
        '<figure class="panel parallel"><figcaption>{title}</figcaption><div class="frame">'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{label}">{marks}</svg>'
        '<div aria-hidden="true">{texts}</div></div></figure>'
    ).format(
        title=title, label=f"{title}: {len(rows)} trials", marks=Markup("").join(marks), texts=Markup("").join(texts)
    )


def bars(title: str, shares: Mapping[str, float], *, note: str = "") -> Markup:
    """Shares of 1, the largest first."""
    rows = [
        Markup(
            '<tr><th scope="row">{}</th><td class="bar"><span style="width:{}%"></span></td>'
            '<td class="number">{}</td></tr>'
        ).format(name, round(100 * share, 1), f"{share:.2f}")
        for name, share in sorted(shares.items(), key=lambda entry: -entry[1])
    ]
    return Markup('<table class="bars"><caption>{}<small>{}</small></caption><tbody>{}</tbody></table>').format(
        title, note, Markup("").join(rows)
    )


def _frame(title: str, marks: Markup, x: Axis, y: Axis, told: str, note: str) -> Markup:
    grid = [Markup('<path class="grid" d="M0 {y}H100"/>').format(y=_down(at)) for at, _ in y.ticks]
    y_texts = [Markup('<span style="top:{}%">{}</span>').format(_down(at), text) for at, text in y.ticks]
    x_texts = [Markup('<span style="left:{}%">{}</span>').format(at, text) for at, text in x.ticks]
    return Markup(
        '<figure class="panel"><figcaption>{title}<small>{note}</small></figcaption><div class="frame">'
        '<div class="ys" aria-hidden="true">{y}</div>'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{told}">{grid}{marks}</svg>'
        '<div class="xs" aria-hidden="true">{x}</div></div></figure>'
    ).format(
        title=title,
        note=note,
        told=told,
        y=Markup("").join(y_texts),
        x=Markup("").join(x_texts),
        grid=Markup("").join(grid),
        marks=marks,
    )


def _level(at: float) -> Markup:
    return Markup('<path class="level" d="M0 {}H100"/>').format(_down(at))


def _down(per_cent: float) -> float:
    return round(100 - per_cent, 2)


def _mixed(share: float | None) -> Markup:
    """A colour between the palette's second (worst) and first (best)."""
    if share is None:
        return Markup("")
    return Markup(' style="color:color-mix(in oklab, var(--c0) {}%, var(--c4))"').format(round(100 * share))


def _short(value: Any) -> str:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return str(value)
    text = f"{value:.0e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
    return text.replace("e-0", "e-").replace("e+0", "e")

"""Methods as named dots in a plot of two quantities: quality over cost, quality over drift.

So many that their names would cover each other, or names too long for their side, have numbers instead, which the note
explains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from benchmarks.plots.svg import Scale, colour, frame, whisker

TAG_HEIGHT = 7.0  # of a name beside a dot, in per cent of a plot's height
MOST_NAMED = 8  # dots
CHARACTER = 2.2  # the width of one in a name, in per cent of a plot's width


@dataclass(frozen=True)
class Dot:
    """One method in a plot of two quantities, with the interval of the second."""

    label: str
    x: float
    y: float
    low: float
    high: float
    style: int


def scatter(title: str, dots: Sequence[Dot], *, note: str = "", frontier: bool = False) -> Markup:
    """A dot for each method, named beside it. `frontier` joins those that nothing beats in less x and more y."""
    xs = Scale.around([dot.x for dot in dots], margin=0.2)
    ys = Scale.around([bound for dot in dots for bound in (dot.low, dot.y, dot.high)])
    marks = [whisker(dot.x, dot.low, dot.high, dot.style, xs, ys) for dot in dots]
    marks += [_mark(dot, xs, ys) for dot in dots]
    if frontier:
        best = [f"{xs.per_cent(dot.x)} {round(100 - ys.per_cent(dot.y), 2)}" for dot in pareto(dots)]
        marks.insert(0, Markup('<path class="level" d="M{}"/>').format("L".join(best)))
    said = "; ".join(f"{dot.label}: {dot.y:.4g} at {dot.x:.4g}" for dot in dots)
    if len(dots) > MOST_NAMED or any(
        CHARACTER * len(dot.label) > 50 for dot in dots
    ):  # a name begins beyond the middle
        note += ": " + "; ".join(f"{number} {dot.label}" for number, dot in enumerate(dots, start=1))
        dots = [replace(dot, label=str(number)) for number, dot in enumerate(dots, start=1)]
    tags = [
        Markup('<span class="tag{side}" style="left:{x}%;top:{y}%">{label}</span>').format(
            side=" left" if x > 50 else "", x=x, y=y, label=dot.label
        )
        for dot, x, y in _places(dots, xs, ys)
    ]
    return frame(title, Markup("").join(marks), xs, ys, label=f"{title}. {said}", note=note, tags=Markup("").join(tags))


def pareto(dots: Sequence[Dot]) -> list[Dot]:
    """The dots that no other beats in both, from the least x to the most."""
    best: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: (dot.x, -dot.y)):
        if not best or dot.y > best[-1].y:
            best.append(dot)
    return best


def _places(dots: Sequence[Dot], xs: Scale, ys: Scale) -> list[tuple[Dot, float, float]]:
    """The place of each dot's name: at its height, or as far below as the names above it need."""
    placed: list[tuple[Dot, float, float]] = []
    for dot in sorted(dots, key=lambda dot: -dot.y):
        x, y = xs.per_cent(dot.x), round(100 - ys.per_cent(dot.y), 2)
        near = [at for other, across, at in placed if _meet(_extent(dot.label, x), _extent(other.label, across))]
        while any(abs(y - at) < TAG_HEIGHT for at in near):
            y = round(y + TAG_HEIGHT / 4, 2)
        placed.append((dot, x, y))
    return placed


def _extent(label: str, x: float) -> tuple[float, float]:
    """The horizontal extent of a name, which stands on the side of its dot that has more room."""
    width = CHARACTER * len(label)
    return (x - width, x) if x > 50 else (x, x + width)


def _meet(first: tuple[float, float], second: tuple[float, float]) -> bool:
    return first[0] <= second[1] and second[0] <= first[1]


def _mark(dot: Dot, xs: Scale, ys: Scale) -> Markup:
    place = f"{xs.per_cent(dot.x)} {round(100 - ys.per_cent(dot.y), 2)}"
    return Markup('<path class="dots large {}" d="M{}h0"/>').format(colour(dot.style), place)

"""Plots as inline SVG in plain HTML: they follow the page's width, its colours and its text size, and need no library.

A line differs from another in colour (Okabe and Ito's, which the colour-blind tell apart) and in its dashes; numbers
stand beside every interval, so nothing is said by a picture alone.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

NUM_COLOURS = 6
DASHES = ("", "7 4", "2 4", "10 4 2 4", "4 2", "1 5")
POINTS = 240  # of a curve; more are not seen
MARKED = 12  # a curve of so few points shows them
DODGE = 0.009  # of a plot's width, between the intervals of two curves at the same place


@dataclass(frozen=True)
class Scale:
    """Maps values to per cent of an axis. `Scale.around([0.1, 0.5])` leaves a margin and has round ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]

    @classmethod
    def around(cls, values: Sequence[float], *, count: int = 4, margin: float = 0.06) -> "Scale":
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if high - low < 1e-12 * max(abs(low), abs(high)):  # equal but for the rounding of a mean
            high = low
        spread = (high - low) or abs(high) * 0.2 or 1.0
        if high == low:
            low, high = low - spread / 2, high + spread / 2
        low, high = low - margin * spread, high + margin * spread
        step = _round_step((high - low) / count)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return cls(low, high, tuple(index * step for index in range(first, last + 1)))

    def per_cent(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)


@dataclass(frozen=True)
class Curve:
    """One line. `style` picks colour and dashes; a `faint` one is a single seed behind its mean."""

    label: str
    points: tuple[tuple[float, float], ...]
    style: int
    faint: bool = False
    bounds: tuple[tuple[float, float, float], ...] = ()  # x, low, high: an interval behind a point


def tick_labels(scale: Scale) -> list[tuple[float, str]]:
    """Position in per cent and text, with as many digits as the step needs."""
    step = scale.ticks[1] - scale.ticks[0] if len(scale.ticks) > 1 else 1.0
    largest = max((abs(tick) for tick in scale.ticks), default=0.0)
    if largest >= 1e5 or (0 < largest < 1e-3):
        digits = max(0, math.floor(math.log10(largest) + 1e-9) - math.floor(math.log10(step) + 1e-9))
        texts = [re.sub(r"e([+-])0*(?=\d)", r"e\1", f"{tick:.{digits}e}").replace("e+", "e") for tick in scale.ticks]
    else:
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        texts = [f"{tick:.{decimals}f}" for tick in scale.ticks]
    shown = ["0" if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}") for text in texts]
    return [(scale.per_cent(tick), text) for tick, text in zip(scale.ticks, shown, strict=True)]


def interval(low: float, mean: float, high: float, scale: Scale, *, certain: bool, label: str) -> Markup:
    """A point with its interval, and the line of no difference; filled where the difference is significant."""
    zero, left, middle, right = (scale.per_cent(value) for value in (0.0, low, mean, high))
    return Markup(
        '<svg class="interval" role="img" aria-label="{label}" height="22" width="100%"><title>{label}</title>'
        '<line class="zero" x1="{zero}%" x2="{zero}%" y1="0" y2="22"/>'
        '<line class="whisker" x1="{left}%" x2="{right}%" y1="11" y2="11"/>'
        '<line class="whisker" x1="{left}%" x2="{left}%" y1="7" y2="15"/>'
        '<line class="whisker" x1="{right}%" x2="{right}%" y1="7" y2="15"/>'
        '<circle class="{kind}" cx="{middle}%" cy="11" r="5"/></svg>'
    ).format(label=label, zero=zero, left=left, middle=middle, right=right, kind="certain" if certain else "open")


def axis(scale: Scale) -> Markup:
    """The ticks under a column of intervals."""
    texts = [
        Markup('<text x="{at}%" y="12">{text}</text>').format(at=at, text=text)
        for at, text in tick_labels(scale)
        if 3 <= at <= 97
    ]
    return Markup('<svg class="axis" aria-hidden="true" height="16" width="100%">{}</svg>').format(
        Markup("").join(texts)
    )


def panel(
    title: str, curves: Sequence[Curve], *, level: float | None = None, note: str = "", margin: float = 0.0
) -> Markup:
    """Curves over steps, or whatever `note` says. `level` is a line to compare with (chance, no preference)."""
    curves = _dodged(curves)
    whole = [point for curve in curves for point in curve.points if math.isfinite(point[1])]
    bounds = [bound for curve in curves for _, *both in curve.bounds for bound in both]
    xs = Scale.around([x for x, _ in whole], margin=margin)
    if all(x.is_integer() for curve in curves for x, _ in curve.points):  # there is no step 1.5
        xs = replace(xs, ticks=tuple(tick for tick in xs.ticks if tick.is_integer()))
    ys = Scale.around([y for _, y in whole] + bounds + ([level] if level is not None else []))
    lines = [_level(level, ys)] if level is not None else []
    lines += [whisker(x, low, high, curve.style, xs, ys) for curve in curves for x, low, high in curve.bounds]
    lines += [_polyline(curve, xs, ys) for curve in sorted(curves, key=lambda curve: not curve.faint)]
    return frame(title, Markup("").join(lines), xs, ys, label=f"{title}. {_summary(curves)}", note=note)


def reliability(title: str, curves: Sequence[Curve], *, note: str = "") -> Markup:
    """Accuracy over confidence, both between ½ and 1 or 0 and 1; the diagonal is perfect calibration."""
    xs = Scale.around([x for curve in curves for x, _ in curve.points] + [0.5, 1.0], margin=0.0)
    ys = Scale.around([y for curve in curves for _, y in curve.points] + [0.5, 1.0], margin=0.03)
    start, end = (round(100 - ys.per_cent(x), 2) for x in (xs.low, xs.high))
    diagonal = Markup('<path class="level" d="M0 {}L100 {}"/>').format(start, end)
    lines = [diagonal, *(_polyline(curve, xs, ys) for curve in curves)]
    return frame(title, Markup("").join(lines), xs, ys, label=f"{title}. {_summary(curves)}", note=note)


def swatch(style: int) -> Markup:
    """The piece of line that a legend shows."""
    return Markup(
        '<svg class="swatch {}" aria-hidden="true" width="30" height="10"><path d="M1 5h28" {}/></svg>'
    ).format(colour(style), _dashes(style))


def colour(style: int) -> str:
    """The class that gives a style its colour: c0 … c5, or `plain` for the untrained model's (negative)."""
    return f"c{style % NUM_COLOURS}" if style >= 0 else "plain"


def frame(title: str, lines: Markup, xs: Scale, ys: Scale, *, label: str, note: str, tags: Markup | str = "") -> Markup:
    """A figure with axes around `lines`; `label` is what a reader hears who does not see it."""
    grid = [Markup('<path class="grid" d="M0 {y}H100"/>').format(y=round(100 - ys.per_cent(t), 2)) for t in ys.ticks]
    y_texts = [Markup('<span style="top:{}%">{}</span>').format(100 - at, text) for at, text in tick_labels(ys)]
    x_texts = [Markup('<span style="left:{}%">{}</span>').format(at, text) for at, text in tick_labels(xs)]
    return Markup(
        '<figure class="panel"><figcaption>{title}{note}</figcaption><div class="frame">'
        '<div class="ys" aria-hidden="true">{y}</div>'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{label}">{grid}{lines}</svg>'
        '{tags}<div class="xs" aria-hidden="true">{x}</div></div></figure>'
    ).format(
        title=title,
        note=Markup("<small>{}</small>").format(note) if note else "",
        y=Markup("").join(y_texts),
        x=Markup("").join(x_texts),
        label=label,
        grid=Markup("").join(grid),
        lines=lines,
        tags=Markup('<div class="tags" aria-hidden="true">{}</div>').format(tags) if tags else "",
    )


def _polyline(curve: Curve, xs: Scale, ys: Scale) -> Markup:
    """A curve with a gap where its value is not finite; dots on it if it is short."""
    stride = max(1, math.ceil(len(curve.points) / POINTS))
    kept = [*curve.points[:-1:stride], *curve.points[-1:]]
    pieces: list[list[str]] = [[]]
    for x, y in kept:
        if math.isfinite(y):
            pieces[-1].append(f"{xs.per_cent(x)} {round(100 - ys.per_cent(y), 2)}")
        else:
            pieces.append([])
    kind = f"line {colour(curve.style)}{' faint' if curve.faint else ''}"
    path = "".join("M" + "L".join(piece) for piece in pieces if piece)
    line = Markup('<path class="{}" d="{}" {}><title>{}</title></path>').format(
        kind, path, _dashes(curve.style), curve.label
    )
    if curve.faint or len(kept) > MARKED:
        return line
    # A stroke without length is a round dot that does not stretch
    dots = "".join(f"M{place}h0" for piece in pieces for place in piece)
    return line + Markup('<path class="dots {}" d="{}"/>').format(colour(curve.style), dots)


def _dodged(curves: Sequence[Curve]) -> list[Curve]:
    """Curves with intervals a little beside each other, so that all of them are seen."""
    with_bounds = [curve for curve in curves if curve.bounds]
    places = [x for curve in with_bounds for x, _ in curve.points]
    if len(with_bounds) < 2:
        return list(curves)
    width = DODGE * ((max(places) - min(places)) or 1.0)
    moved = {}
    for index, curve in enumerate(with_bounds):
        by = (index - (len(with_bounds) - 1) / 2) * width
        points = tuple((x + by, y) for x, y in curve.points)
        bounds = tuple((x + by, low, high) for x, low, high in curve.bounds)
        moved[id(curve)] = replace(curve, points=points, bounds=bounds)
    return [moved.get(id(curve), curve) for curve in curves]


def whisker(x: float, low: float, high: float, style: int, xs: Scale, ys: Scale) -> Markup:
    """An interval standing upright at `x`."""
    top, bottom = (round(100 - ys.per_cent(value), 2) for value in (high, low))
    return Markup('<path class="bounds {}" d="M{x} {top}V{bottom}"/>').format(
        colour(style), x=xs.per_cent(x), top=top, bottom=bottom
    )


def _level(level: float, ys: Scale) -> Markup:
    return Markup('<path class="level" d="M0 {}H100"/>').format(round(100 - ys.per_cent(level), 2))


def _dashes(style: int) -> Markup:
    dashes = DASHES[(style + style // NUM_COLOURS) % len(DASHES)] if style >= 0 else ""
    return Markup('stroke-dasharray="{}"').format(dashes) if dashes else Markup("")


def _summary(curves: Sequence[Curve]) -> str:
    """The text for a reader who does not see the picture: where each line starts and ends."""
    ends = []
    for curve in curves:
        values = [value for _, value in curve.points if math.isfinite(value)]
        if values and not curve.faint:
            ends.append(f"{curve.label}: from {values[0]:.4g} to {values[-1]:.4g}")
    return "; ".join(ends)


def _round_step(width: float) -> float:
    """The one of 1, 2, 5 times a power of ten that is nearest to `width` in proportion."""
    power = 10.0 ** math.floor(math.log10(width))
    return min((factor * power for factor in (1, 2, 5, 10)), key=lambda step: abs(math.log(step / width)))

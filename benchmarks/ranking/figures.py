"""Numbers as a reader sees them: per cent with one decimal, times and bytes in the unit that fits, a true minus."""

from benchmarks.ranking.columns import FEWEST_PROMPTS, Column
from benchmarks.statistics.significance import Interval

MINUS = "\N{MINUS SIGN}"
NONE = "–"


def value(number: float | None, *, share: bool = False, signed: bool = False, decimals: int | None = None) -> str:
    """`62.5` (of a share, in per cent), `+0.031`, `81.2`; a dash for None."""
    if number is None:
        return NONE
    shown = 100 * number if share else number
    text = f"{shown:.{_decimals(number, share=share) if decimals is None else decimals}f}"
    text = text.lstrip("-") if float(text) == 0 else text
    return ("+" + text if signed and float(text) > 0 else text).replace("-", MINUS)


def has_bounds(of: Interval) -> bool:
    """Whether its bounds are printed: from fewer prompts they mean nothing, and what is so by definition has none."""
    return of.num_prompts >= FEWEST_PROMPTS and (of.low < of.high or of.claims)


def interval(of: Interval, *, share: bool = False, signed: bool = False) -> str:
    """`62.5 [58.0, 66.9]`; `62.5` from too few prompts."""
    shown = "{} [{}, {}]" if has_bounds(of) else "{}"
    return shown.format(*_three(of, share=share, signed=signed))


def estimate(of: Interval, *, share: bool = False, signed: bool = False) -> str:
    return _three(of, share=share, signed=signed)[0]


def bounds(of: Interval, *, share: bool = False, signed: bool = False) -> str:
    """`58.0 to 66.9`; nothing from too few prompts."""
    return " to ".join(_three(of, share=share, signed=signed)[1:]) if has_bounds(of) else ""


def plus_minus(of: Interval, *, share: bool = False, signed: bool = False) -> str:
    """`62.5 ±4.4`: half of the interval; `3.1 [0.0, 9.7]` where the end of the scale cut it."""
    if not has_bounds(of):
        return estimate(of, share=share, signed=signed)
    below, above = of.estimate - of.low, of.high - of.estimate
    if abs(above - below) > 1e-9 * (1 + above + below):
        return interval(of, share=share, signed=signed)
    half = value(above, share=share, decimals=_decimals(of.estimate, of.low, of.high, share=share))
    return f"{estimate(of, share=share, signed=signed)} ±{half}"


def _three(of: Interval, *, share: bool, signed: bool) -> list[str]:
    numbers = (of.estimate, of.low, of.high)
    decimals = _decimals(*numbers, share=share)
    return [value(number, share=share, signed=signed, decimals=decimals) for number in numbers]


def _decimals(*numbers: float, share: bool) -> int:
    """The number of decimals, equal for all numbers that stand together."""
    return 1 if share or max(map(abs, numbers)) >= 10 else 3


def detectable(column: Column) -> str | None:
    """A sentence with the smallest difference that this many prompts and seeds can detect; None with one seed."""
    if not column.detectable:
        return None
    if column.share and column.detectable > 1:
        return f"{column.name}: with so many rows and so few seeds no difference between two methods would be found."
    unit = " points" if column.share else ""
    return (
        f"{column.name}: a true difference of {value(column.detectable, share=column.share)}{unit} "
        f"between two methods would be found in 80 of 100 such comparisons; smaller ones mostly stay unseen."
    )


def few(column: Column) -> str | None:
    """Why a column shows no intervals; None where it does."""
    if column.num_prompts >= FEWEST_PROMPTS:
        return None
    counted = f"{column.num_prompts} prompt" + ("" if column.num_prompts == 1 else "s")
    return (
        f"{column.name}: {counted} are too few for an interval (at least {FEWEST_PROMPTS}), "
        "so none is printed and nothing is ranked."
    )


def setting(of: object) -> str:
    """A hyperparameter's value: `0.1`, `1e-05`, `true`."""
    return f"{of:g}" if isinstance(of, float) else str(of)


def length(tokens: float | None) -> str:
    return NONE if tokens is None else f"{tokens:.0f}"


def seconds(number: float | None) -> str:
    """`48 s`, `1 min 53 s`, `2 h 31 min`."""
    if number is None:
        return NONE
    whole = round(number)
    if whole < 60:
        return f"{number:.0f} s" if number >= 10 else f"{number:.1f} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def clock(number: float | None) -> str:
    """`0:48`, `2:31:50`."""
    if number is None:
        return NONE
    minutes, rest = divmod(round(number), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def memory(number: float | None) -> str:
    return NONE if number is None else f"{number / 1e9:.2f} GB"


def per_cent(fraction: float | None) -> str:
    """`+18 %`."""
    return NONE if fraction is None else f"{100 * fraction:+.0f} %".replace("-", MINUS)

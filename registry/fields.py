"""Typed fields of frozen dataclasses: values checked against the types that are declared, and JSON both ways."""

from __future__ import annotations

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from registry.catalogue import nearest

T = TypeVar("T")
REFUSALS = (KeyError, TypeError, ValueError, OverflowError)  # what a value raises that a type does not take


MAX_SEED = 2**63 - 1
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "low": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "high": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def bounded(default: Any, **bounds: float) -> Any:
    """A dataclass field for a number within bounds, by the names in BOUNDS; None is no number and passes."""
    return dataclasses.field(default=default, metadata=bounds)


def at_least(low: float, default: Any) -> Any:
    """A dataclass field for a number that `validate` refuses below `low`; None is no number and passes."""
    return bounded(default, low=low)


def above(low: float, default: Any) -> Any:
    """A dataclass field for a number that `validate` refuses at or below `low`."""
    return bounded(default, above=low)


def check_bounds(name: str, value: Any, bounds: Mapping[str, Any]) -> None:
    """ValueError for a number, or one of a list of them, that is outside of what the field's metadata permits."""
    for number in value if isinstance(value, tuple) else (value,):
        for key, (words, holds) in BOUNDS.items():
            if key in bounds and number is not None and not holds(number, bounds[key]):
                raise ValueError(f"{name} must be {words} {bounds[key]}, not {number}".lstrip())


def validate(config: Any) -> None:
    """Converts every value of a frozen dataclass to its field's type; call it in `__post_init__`. ValueError names the
    field.

    Lists become tuples and text becomes a path, as JSON has neither; nothing else is converted.
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        given = getattr(config, field.name)
        try:
            value = convert(hints[field.name], given)
        except REFUSALS:
            raise ValueError(f"{field.name} {spell(hints[field.name])}, not {given!r}") from None
        check_bounds(field.name, value, field.metadata)
        object.__setattr__(config, field.name, value)


def as_json(value: Any) -> Any:
    """A dataclass, or anything it holds, as what `json.dumps` takes."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_json(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def from_json(cls: type[T], document: Any) -> T:
    """The dataclass that `as_json` wrote. ValueError for a key that it has not, with the nearest, or a bad value."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{cls.__name__} is read from a JSON object, not from {document!r}")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in document.items():
        if key not in names:
            raise ValueError(f"{cls.__name__} has no {key!r}{nearest(str(key), names)}")
        nested = hints[key]
        values[key] = (
            from_json(nested, value) if isinstance(nested, type) and dataclasses.is_dataclass(nested) else value
        )
    return cls(**values)


def convert(hint: Any, value: Any, *, text: bool = False) -> Any:
    """`value` as the type `hint`, or one of REFUSALS. With `text`, a text may spell a number, a truth value or None."""
    options = alternatives(hint)
    for option in sorted(options, key=lambda option: option is not type(None)):  # "None" is None, even for a str | None
        try:
            return _as_type(option, value, text)
        except REFUSALS:
            continue
    raise ValueError(f"{value!r} is not {hint}")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """`(int, None)` of `int | None`."""
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    return typing.get_args(hint) if union else (hint,)


def spell(hint: Any) -> str:
    """The end of a sentence about a value: `needs a value of type int or None`, `is one of local, ray`."""
    options = alternatives(hint)
    if any(typing.get_origin(option) is typing.Literal for option in options):
        choices = [typing.get_args(option) or ("None",) for option in options]
        return f"is one of {', '.join(str(choice) for group in choices for choice in group)}"
    return f"needs a value of type {' or '.join(map(_type_name, options))}"


def _type_name(option: Any) -> str:
    if option is type(None):
        return "None"
    if _is_sequence(option):
        return f"list of {_type_name(typing.get_args(option)[0])}"
    return str(getattr(option, "__name__", option))


def _is_sequence(option: Any) -> bool:
    return typing.get_origin(option) is tuple and typing.get_args(option)[1:] == (...,)


def _as_type(option: Any, value: Any, text: bool) -> Any:
    if option is Any:
        return value
    if typing.get_origin(option) is typing.Literal:
        return {str(choice): choice for choice in typing.get_args(option)}[str(value)]
    if option is type(None):
        return {"None": None, "none": None}[str(value)] if text else {None: None}[value]
    if option is bool:
        known: dict[Any, bool] = {"true": True, "1": True, "false": False, "0": False} if text else {}
        return value if isinstance(value, bool) else known[str(value).lower()]
    if _is_sequence(option):
        items = [entry.strip() for entry in value.split(",") if entry.strip()] if isinstance(value, str) else value
        inner = typing.get_args(option)[0]
        if not isinstance(items, (list, tuple)):
            raise TypeError(f"{value!r} is no list")
        return tuple(convert(inner, entry, text=text or isinstance(value, str)) for entry in items)
    if typing.get_origin(option) is not None and issubclass(typing.get_origin(option), Mapping):
        return dict(value)
    if option is Path and isinstance(value, str):
        return Path(value).expanduser()
    if option in (int, float):
        return _as_number(option, value, text)
    if isinstance(value, option):
        return value
    raise ValueError(f"{value!r} is no {option}")


def _as_number(option: Any, value: Any, text: bool) -> float:
    if isinstance(value, bool) or (isinstance(value, str) and not text):
        raise TypeError(f"{value!r} is no number")
    if option is int and (isinstance(value, int) or (isinstance(value, str) and value.strip().lstrip("+-").isdigit())):
        return int(value)  # a float holds whole numbers up to 2**53 only
    number = float(value)
    if not math.isfinite(number) or (option is int and not number.is_integer()):
        raise ValueError(f"{value!r} is no {option.__name__}")
    return int(number) if option is int else number

"""Hyperparameters are dataclass fields; a tunable one carries its Optuna distribution.

The command line and Optuna set them by the same dotted names, through `override`. A spec that is made of named
parts (a method) has a `parts` property and a `with_parts` method; any other frozen dataclass is a leaf.
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from optuna.distributions import BaseDistribution

from registry.catalogue import nearest
from registry.fields import REFUSALS, check_bounds, convert, spell

Spec = TypeVar("Spec")


@runtime_checkable
class Composite(Protocol):
    """A spec made of other specs, each under the name that a user writes."""

    @property
    def parts(self) -> Mapping[str, Any]: ...

    def with_parts(self, parts: Mapping[str, Any]) -> Any: ...


def tunable(default: Any, distribution: BaseDistribution, **bounds: float) -> Any:
    """A dataclass field with `default` whose search range is `distribution`.

    `bounds` is what may be set by hand (see `bounded`). Without them: above 0 where the search is logarithmic, else
    at least 0 where its range is.
    """
    if not bounds and getattr(distribution, "log", False):
        bounds = {"above": 0}
    elif not bounds and getattr(distribution, "low", -1) >= 0:
        bounds = {"low": 0}
    return dataclasses.field(default=default, metadata={"distribution": distribution, **bounds})


def search_space(spec: Any) -> dict[str, BaseDistribution]:
    """`{"latent.weight": FloatDistribution(...), ...}` for every tunable field of the spec and of its parts."""
    space = {f.name: f.metadata["distribution"] for f in dataclasses.fields(spec) if "distribution" in f.metadata}
    for name, part in _parts(spec).items():
        space |= {f"{name}.{key}": distribution for key, distribution in search_space(part).items()}
    return space


def flatten(spec: Any) -> dict[str, Any]:
    """Every hyperparameter by its dotted name: `{"lr": 5e-7, "dpo.beta": 0.1, ...}`."""
    flat = {name: getattr(spec, name) for name in sorted(_own(spec))}
    for name, part in _parts(spec).items():
        flat |= {f"{name}.{key}": value for key, value in flatten(part).items()}
    return flat


def override(spec: Spec, values: Mapping[str, Any]) -> Spec:
    """A copy of `spec` with the dotted `values` set; text is converted to the field's type.

    A name without a part's prefix means the spec's own field or, in a method, its first part's (the objective's).
    Raises KeyError for an unknown name (with the nearest one) and ValueError for a value of the wrong type or a
    hyperparameter that is set under both of its names.
    """
    parts, own = _parts(spec), _own(spec)
    first = next(iter(parts), "")
    mine: dict[str, Any] = {}
    theirs: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        head, _, rest = name.partition(".")
        if name in own:
            mine[name] = _convert(spec, name, value)
            continue
        if not (rest and head in parts):
            if not (parts and name in _own(parts[first])):
                raise KeyError(f"{_title(spec)} has no hyperparameter {name!r}{nearest(name, flatten(spec))}")
            head, rest = first, name
        if rest in theirs.setdefault(head, {}):
            raise ValueError(f"{_title(spec)} gets {head}.{rest} twice: as {rest!r} and as '{head}.{rest}'")
        theirs[head][rest] = value
    if theirs:
        spec = spec.with_parts({name: override(part, theirs.get(name, {})) for name, part in parts.items()})  # type: ignore[attr-defined]
    return dataclasses.replace(spec, **mine) if mine else spec  # type: ignore[type-var]


def _parts(spec: Any) -> Mapping[str, Any]:
    return spec.parts if isinstance(spec, Composite) else {}


def _own(spec: Any) -> set[str]:
    """The names of the fields that hold values: all of a leaf's, and those of a composite that hold no parts."""
    names = {field.name for field in dataclasses.fields(spec)}
    if not isinstance(spec, Composite):
        return names
    return {n for n in names if not (isinstance(v := getattr(spec, n), tuple) or dataclasses.is_dataclass(v))}


def _title(spec: Any) -> str:
    """`latent` for a part, `dpo+latent` for a method made of parts."""
    return "+".join(_parts(spec)) or str(getattr(spec, "name", type(spec).__name__))


def _convert(spec: Any, name: str, value: Any) -> Any:
    """`value` as the type that the field declares; text comes from a command line."""
    hint = typing.get_type_hints(type(spec))[name]
    (field,) = (field for field in dataclasses.fields(spec) if field.name == name)
    try:
        converted = convert(hint, value, text=True)
    except REFUSALS:
        raise ValueError(f"{_title(spec)}.{name} {spell(hint)}, not {value!r}") from None
    check_bounds(f"{_title(spec)}.{name}", converted, field.metadata)
    return converted

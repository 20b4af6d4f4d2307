"""The space of a study: every tunable hyperparameter of a method, narrowed or fixed as the user says."""

from __future__ import annotations

import fnmatch
import itertools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from registry import flatten, nearest, override, search_space

FORM = "write NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C"


@dataclass(frozen=True)
class Range:
    """One `--space`: `Range("ganpo_dpo", "latent.weight", "0.1:10:log")`; a `method` may be a pattern such as `*`."""

    method: str
    name: str
    text: str

    @classmethod
    def parse(cls, text: str, methods: Sequence[str]) -> Range:
        """ValueError for a text of another form or one that names none of the methods."""
        name, equals, value = text.partition("=")
        method, dot, rest = name.partition(".")
        if not (equals and value and dot and rest):
            raise ValueError(f"--space {text} is no range; {FORM}, with a name such as ganpo_dpo.latent.weight")
        if not fnmatch.filter(methods, method):
            raise ValueError(f"--space {name} names no method of this search; start with {' or '.join(methods)} or *")
        return cls(method, rest, value)


def space_of(
    method: str, spec: Any, *, fixed: Sequence[str] = (), ranges: Sequence[Range] = (), tunables: bool = True
) -> dict[str, BaseDistribution]:
    """The distributions of `spec` by dotted name, without the `fixed` ones; a `Range` replaces one or adds one.

    Without `tunables`, the ranges are all there is.
    A range for a pattern of methods passes over a method that has no such hyperparameter. KeyError for an unknown name,
    ValueError for a range that cannot be or a hyperparameter that is both fixed and searched.
    """
    held = {canonical(spec, name) for name in fixed}
    space = {name: found for name, found in search_space(spec).items() if tunables and name not in held}
    for wanted in ranges:
        if not fnmatch.fnmatch(method, wanted.method):
            continue
        try:
            name = canonical(spec, wanted.name)
        except KeyError:
            if wanted.method != method:
                continue
            raise
        if name in held:
            raise ValueError(f"{method}.{name} is both fixed by --set and searched by --space; leave one of them out")
        space[name] = _distribution(spec, name, wanted.text)
    return space


def grid_of(space: Mapping[str, BaseDistribution], method: str) -> list[dict[str, Any]]:
    """Every combination of the listed values, in the order of the lists. ValueError where nothing is listed."""
    listed = {name: d.choices for name, d in space.items() if isinstance(d, CategoricalDistribution)}
    if not listed:
        raise ValueError(f"--sampler grid needs lists, and {method} has none; write --space '{method}.lr=1e-5,1e-4'")
    return [dict(zip(listed, values, strict=True)) for values in itertools.product(*listed.values())]


def canonical(spec: Any, name: str) -> str:
    """The full name of a hyperparameter: `beta` of DPO is `dpo.beta`. KeyError for one that there is not."""
    known = flatten(spec)
    for candidate in (name, f"{next(iter(spec.parts))}.{name}"):
        if candidate in known:
            return candidate
    raise KeyError(f"{'+'.join(spec.parts)} has no hyperparameter {name!r}{nearest(name, known)}")


def _distribution(spec: Any, name: str, text: str) -> BaseDistribution:
    if ":" not in text:
        values = [_typed(spec, name, value) for value in text.split(",")]
        return CategoricalDistribution(list(dict.fromkeys(values)))
    low, high, *rest = text.split(":")
    if rest not in ([], ["log"]):
        raise ValueError(f"{name}={text} is no range; {FORM}")
    ends = [_typed(spec, name, end) for end in (low, high)]
    if any(isinstance(end, bool) or not isinstance(end, (int, float)) for end in ends):
        raise ValueError(f"{name} is no number, so it has no range; list its values: NAME=A,B,C")
    whole = _holds(spec, name, int)
    kind: type[Any] = IntDistribution if whole else FloatDistribution
    try:
        made: BaseDistribution = kind(*ends, log=bool(rest))
    except ValueError as error:
        raise ValueError(f"{name}={text} is no range: {error}") from None
    return made


def _typed(spec: Any, name: str, text: str) -> Any:
    """`text` as the field's type, by way of the rules for `--set`."""
    return flatten(override(spec, {name: text.strip()}))[name]


def _holds(spec: Any, name: str, kind: type) -> bool:
    head, _, field = name.rpartition(".")
    owner = spec.parts[head] if head else spec
    hint = typing.get_type_hints(type(owner))[field]
    return kind in (typing.get_args(hint) or (hint,))

"""Hyperparameters by dotted name: what is searched, what is written down, what a command line may set."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from registry import flatten, override, search_space, tunable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    name = "base"

    beta: float = tunable(0.1, FloatDistribution(0.01, 1.0, log=True))
    rounds: int = tunable(3, IntDistribution(1, 10))
    betas: tuple[float, float] = (0.9, 0.99)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extra:
    name = "extra"

    weight: float = tunable(1.0, FloatDistribution(0.0, 10.0))
    lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-3, log=True))
    kind: Literal["small", "large"] = "small"
    size: Literal[2, 4] = 2
    active: bool = True
    path: str | None = None


@dataclasses.dataclass(frozen=True)
class Whole:
    base: Base = Base()
    extras: tuple[Extra, ...] = ()
    lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-3, log=True))

    @property
    def parts(self) -> Mapping[str, Any]:
        return {part.name: part for part in (self.base, *self.extras)}

    def with_parts(self, parts: Mapping[str, Any]) -> "Whole":
        base, *extras = parts.values()
        return dataclasses.replace(self, base=base, extras=tuple(extras))


PLAIN, FULL = Whole(), Whole(Base(), (Extra(),))


def test_the_search_space_names_tunable_fields_under_their_parts():
    assert set(search_space(FULL)) == {"lr", "base.beta", "base.rounds", "extra.weight", "extra.lr"}
    assert search_space(FULL)["base.rounds"] == IntDistribution(1, 10)
    assert set(search_space(Extra())) == {"weight", "lr"}


def test_flatten_lists_every_value_and_no_part():
    assert flatten(PLAIN) == {"lr": None, "base.beta": 0.1, "base.betas": (0.9, 0.99), "base.rounds": 3}
    assert set(flatten(FULL)) - set(flatten(PLAIN)) == {
        f"extra.{name}" for name in ("active", "kind", "lr", "path", "size", "weight")
    }


def test_override_changes_only_what_it_names_and_leaves_the_original():
    changed = override(FULL, {"lr": 1e-5, "extra.weight": 0.3})
    assert (changed.lr, changed.extras[0].weight, changed.base) == (1e-5, 0.3, FULL.base)
    assert FULL.extras == (Extra(),)
    assert override(FULL, {}) == FULL


def test_a_short_name_means_the_first_parts_hyperparameter():
    assert override(FULL, {"beta": 0.5}) == override(FULL, {"base.beta": 0.5})
    assert override(FULL, {"lr": 1e-4}).extras[0].lr is None


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("base.beta", "5e-2", 0.05),
        ("base.beta", "1", 1.0),
        ("base.rounds", "7", 7),
        ("base.rounds", "1e1", 10),
        ("base.rounds", 4.0, 4),
        ("extra.lr", "none", None),
        ("extra.lr", "None", None),
        ("extra.lr", "2e-6", 2e-6),
        ("extra.kind", "large", "large"),
        ("extra.size", "4", 4),
        ("extra.active", "False", False),
        ("extra.active", "1", True),
        ("extra.path", "some/where", "some/where"),
        ("extra.path", "None", None),
    ],
)
def test_text_becomes_the_type_of_its_field(name, text, value):
    changed = flatten(override(FULL, {name: text}))[name]
    assert changed == value
    assert type(changed) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("base.beta", "much", "base.beta needs a value of type float, not 'much'"),
        ("base.beta", None, "base.beta needs a value of type float, not None"),
        ("base.beta", "nan", "base.beta needs a value of type float, not 'nan'"),
        ("base.beta", True, "base.beta needs a value of type float, not True"),
        ("base.rounds", "2.5", "base.rounds needs a value of type int, not '2.5'"),
        ("base.rounds", "inf", "base.rounds needs a value of type int, not 'inf'"),
        ("extra.lr", "high", "extra.lr needs a value of type float or None, not 'high'"),
        ("extra.kind", "huge", "extra.kind is one of small, large, not 'huge'"),
        ("extra.size", "3", "extra.size is one of 2, 4, not '3'"),
        ("extra.active", "maybe", "extra.active needs a value of type bool, not 'maybe'"),
        ("extra.weight", "-1", "extra.weight must be at least 0, not -1.0"),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_value_error_that_names_it(name, value, message):
    with pytest.raises(ValueError, match=message):
        override(FULL, {name: value})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("extra.weigth", "extra has no hyperparameter 'weigth'; did you mean weight"),
        ("bta", "base\\+extra has no hyperparameter 'bta'"),
        ("extre.weight", "base\\+extra has no hyperparameter 'extre.weight'; did you mean extra.weight"),
        ("extra", "has no hyperparameter 'extra'"),
        ("extras", "has no hyperparameter 'extras'"),
        ("weight", "has no hyperparameter 'weight'; did you mean extra.weight"),
    ],
)
def test_an_unknown_name_is_a_key_error_that_suggests_the_nearest(name, message):
    with pytest.raises(KeyError, match=message):
        override(FULL, {name: 1})


def test_one_hyperparameter_under_two_names_is_refused():
    with pytest.raises(ValueError, match=r"gets base\.beta twice"):
        override(FULL, {"beta": 0.1, "base.beta": 0.2})


def test_a_leaf_is_overridden_by_its_own_names():
    assert override(Base(), {"beta": "0.2"}) == Base(beta=0.2)
    with pytest.raises(KeyError, match=r"base has no hyperparameter 'base\.beta'; did you mean beta"):
        override(Base(), {"base.beta": 0.2})

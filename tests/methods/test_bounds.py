"""Every hyperparameter of every method says what it permits; 0, -1, nan and inf never pass unnoticed."""

import dataclasses
import typing

import pytest

from methods import METHODS, REGULARIZERS
from methods.protocols import Sampling
from registry import flatten, override
from registry.fields import BOUNDS, alternatives

PARTS = {
    type(part): part
    for spec in (card.spec for card in METHODS.values())
    for part in (*spec.parts.values(), Sampling(), spec)
} | {type(card.spec): card.spec for card in REGULARIZERS.values()}


def numbers(part):
    hints = typing.get_type_hints(type(part))
    return [field for field in dataclasses.fields(part) if {int, float} & set(alternatives(hints[field.name]))]


FIELDS = [(part, field) for part in PARTS.values() for field in numbers(part)]
by_field = pytest.mark.parametrize(
    ("part", "field"), FIELDS, ids=[f"{type(part).__name__}.{field.name}" for part, field in FIELDS]
)


@by_field
def test_a_number_says_what_it_permits_and_its_default_is_permitted(part, field):
    assert BOUNDS.keys() & field.metadata.keys(), "give it bounds: tunable(…, low=0) or bounded(…, low=1)"
    default = getattr(part, field.name)
    if default is not None:
        override(part, {field.name: default})


@by_field
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1"])
def test_what_is_no_number_or_negative_is_refused(part, field, value):
    with pytest.raises(ValueError, match=rf"\.?{field.name} (needs a value of type|must be)"):
        override(part, {field.name: value})


@by_field
def test_zero_is_refused_where_only_more_is_permitted(part, field):
    needs_more = field.metadata.get("above") == 0 or field.metadata.get("low", 0) > 0
    if needs_more:
        with pytest.raises(ValueError, match=f"{field.name} must be"):
            override(part, {field.name: "0"})
    elif field.metadata.get("above", -1) < 0:
        assert getattr(override(part, {field.name: "0"}), field.name) == 0


@pytest.mark.parametrize(
    ("method", "name", "value", "said"),
    [
        ("dpo", "dpo.beta", "0", r"dpo\.beta must be above 0, not 0\.0"),
        ("dpo", "label_smoothing", "0.5", r"dpo\.label_smoothing must be below 0\.5"),
        ("ganpo_dpo", "latent.decay", "1", r"latent\.decay must be below 1"),
        ("chord", "mu_start", "1.5", r"chord\.mu_start must be at most 1"),
        ("grpo", "sampling.top_p", "1.01", r"sampling\.top_p must be at most 1"),
    ],
)
def test_a_hyperparameter_out_of_range_is_named_with_its_bound(method, name, value, said):
    with pytest.raises(ValueError, match=said):
        override(METHODS[method].spec, {name: value})


def test_a_weight_of_zero_is_permitted_for_controls():
    assert flatten(override(METHODS["ganpo_dpo"].spec, {"latent.weight": "0"}))["latent.weight"] == 0

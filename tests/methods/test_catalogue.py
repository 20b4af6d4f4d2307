"""What every registered method promises, and the algebra over their names."""

import dataclasses
import json
import re
from itertools import product

import pytest
from optuna.distributions import FloatDistribution

from methods import METHODS, OBJECTIVES, REGULARIZERS, resolve
from methods.catalogue import objective
from methods.protocols import Adversary, Critic, Method, Objective, Penalizer, Rewarder
from registry import Paper, flatten, override, search_space

ON_POLICY = {"raft", "rrhf", "grpo", "ppo", "chord"}
OFFLINE = {"sft", "dpo", "ipo", "simpo", "cpo", "orpo", "kto"}
GANPO = {"ganpo_dpo", "ganpo_simpo", "ganpo_dpo_saturating", "ganpo_dpo_code", "ganpo_dpo_frozen", "ganpo_dpo_shuffled"}
COMPOSED = ["ipo+latent", "kto+latent", "dpo+nll", "simpo+nll+latent"]
ALL = [*METHODS, *COMPOSED]


def test_the_objectives_and_ganpo_are_registered():
    assert set(METHODS) >= OFFLINE | ON_POLICY | GANPO | {"chord_phi"}
    assert set(OBJECTIVES) >= OFFLINE | ON_POLICY
    assert set(REGULARIZERS) >= {"latent", "nll"}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_cites_its_paper_and_its_learning_rate(name):
    card = METHODS[name]
    assert len(card.paper.title) > 10
    assert re.fullmatch(r"\d{4}\.\d{5}", card.paper.arxiv)
    # An arXiv id begins with the year of its first version
    assert 2000 + int(card.paper.arxiv[:2]) == card.paper.year
    assert 1e-8 < card.lr < 1e-3


@pytest.mark.parametrize("name", ALL)
def test_every_method_serialises_and_is_restored_from_values_and_from_text(name):
    method = resolve(name).spec
    flat = flatten(method)
    assert json.loads(json.dumps(flat)) == flat
    assert override(method, flat) == method
    assert override(method, {key: str(value) for key, value in flat.items()}) == method
    hash(method)


@pytest.mark.parametrize("name", ALL)
def test_every_default_lies_inside_its_search_range(name):
    method = resolve(name).spec
    flat, space = flatten(method), search_space(method)
    assert set(space) <= set(flat)
    for key, distribution in space.items():
        # A learning rate of None is derived: the preset's, or half the policy's
        if not (flat[key] is None and key.endswith("lr")):
            assert distribution._contains(distribution.to_internal_repr(flat[key])), key


@pytest.mark.parametrize("name", ALL)
def test_every_part_is_what_the_trainer_will_ask_it_to_be(name):
    method = resolve(name).spec
    assert isinstance(method, Method)
    assert isinstance(method.objective, Objective)
    assert method.on_policy == any("sampled" in part.reads for part in method.parts.values())
    assert set(method.reads) == {role for part in method.parts.values() for role in part.reads}
    assert set(method.forwards) <= set(method.reads)
    assert set(method.offline_reads) <= set(method.reads) - {"sampled"}
    for part in method.regularizers:
        assert isinstance(part, (Penalizer, Rewarder))
        assert isinstance(part, Adversary) == hasattr(part, "adversary_loss")
    assert isinstance(method.objective, Critic) == hasattr(method.objective, "value_loss")


@pytest.mark.parametrize(("base", "extra"), list(product(OBJECTIVES, REGULARIZERS)))
def test_any_objective_takes_any_regularizer(base, extra):
    card = resolve(f"{base}+{extra}")
    assert list(card.spec.parts) == [base, extra, *(["sampling"] if card.spec.on_policy else [])]
    assert card.spec.sampling == METHODS[base].spec.sampling
    assert card.lr == OBJECTIVES[base].lr
    assert REGULARIZERS[extra].paper.title in card.note


def test_a_named_method_takes_more_regularizers_but_none_twice():
    assert resolve("ganpo_dpo+nll").spec == resolve("dpo+latent+nll").spec
    with pytest.raises(KeyError, match="names a regularizer twice"):
        resolve("ganpo_dpo+latent")


def test_ganpo_is_its_base_and_the_latent_adversary():
    assert resolve("dpo+latent").spec == METHODS["ganpo_dpo"].spec
    assert resolve("simpo+latent").spec == METHODS["ganpo_simpo"].spec


@pytest.mark.parametrize(
    ("name", "differs"),
    [
        ("ganpo_dpo_saturating", {"generator_loss": "saturating"}),
        ("ganpo_dpo_code", {"pooling": "everything", "reduction": "mean", "update_every": 16}),
        ("ganpo_dpo_frozen", {"trained": False}),
        ("ganpo_dpo_shuffled", {"labels": "shuffled"}),
    ],
)
def test_a_variant_is_ganpo_dpo_with_these_fields_and_no_other(name, differs):
    published, variant = flatten(METHODS["ganpo_dpo"].spec), flatten(METHODS[name].spec)
    assert {k: v for k, v in variant.items() if v != published[k]} == {f"latent.{k}": v for k, v in differs.items()}


def test_needs_are_the_union_of_the_parts():
    assert not any(resolve("simpo").spec.needs(what) for what in ("reference", "hidden", "padded_hidden"))
    assert resolve("ganpo_simpo").spec.needs("hidden")
    assert resolve("ganpo_simpo").spec.needs("reference")
    code = resolve("ganpo_dpo_code").spec
    assert code.needs("padded_hidden")
    assert not code.needs("hidden")


def test_every_search_of_ganpo_dpo_tunes_these():
    assert set(search_space(resolve("ganpo_dpo").spec)) == {
        "lr",
        "dpo.beta",
        "latent.weight",
        "latent.decay",
        "latent.lr",
    }
    assert search_space(resolve("simpo").spec)["simpo.gamma_beta_ratio"] == FloatDistribution(0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ganpo_dop", "no method 'ganpo_dop'; did you mean ganpo_dpo"),
        ("dpp+latent", "no method 'dpp'; did you mean"),
        ("dpo+latnt", "no regularizer 'latnt'; did you mean latent"),
        ("dpo+nll+nll", "names a regularizer twice"),
        ("zzz", "no method 'zzz'; known: "),
    ],
)
def test_an_unknown_name_is_a_key_error_that_suggests_a_known_one(name, message):
    with pytest.raises(KeyError, match=re.escape(message)):
        resolve(name)


def test_a_name_is_registered_once():
    @dataclasses.dataclass(frozen=True)
    class Again:
        name = "dpo"

    with pytest.raises(ValueError, match="objective 'dpo' is registered twice"):
        objective(Paper(title="Again", arxiv="2305.18290", year=2023), lr=1e-6)(Again)

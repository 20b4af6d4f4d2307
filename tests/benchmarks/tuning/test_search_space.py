"""What --space and --set make of a method's hyperparameters."""

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from benchmarks.tuning.space import Range, grid_of, space_of
from methods import METHODS, resolve

METHOD_NAMES = ("dpo", "ganpo_dpo", "simpo")


def made(method, *texts, fixed=(), **more):
    ranges = [Range.parse(text, METHOD_NAMES) for text in texts]
    return space_of(method, resolve(method).spec, fixed=fixed, ranges=ranges, **more)


@pytest.mark.parametrize("name", METHODS)
def test_the_learning_rate_is_in_the_space_of_every_method(name):
    assert space_of(name, METHODS[name].spec)["lr"] == FloatDistribution(1e-7, 1e-3, log=True)


def test_the_adversarys_weight_decay_and_learning_rate_are_searched_by_their_dotted_names():
    assert {"latent.weight", "latent.decay", "latent.lr"} <= made("ganpo_dpo").keys()


def test_simpos_margin_is_searched_as_a_share_of_beta():
    assert "simpo.gamma_beta_ratio" in made("simpo")


def test_a_range_narrows_what_a_field_declares():
    space = made("ganpo_dpo", "ganpo_dpo.latent.weight=0.1:2:log", "ganpo_dpo.latent.decay=0.5:0.9")
    assert space["latent.weight"] == FloatDistribution(0.1, 2, log=True)
    assert space["latent.decay"] == FloatDistribution(0.5, 0.9)


def test_a_pattern_means_the_policys_learning_rate_of_every_method_and_the_later_range_wins():
    texts = ("*.lr=3e-5,1e-4", "simpo.lr=1e-6,1e-5")
    assert made("ganpo_dpo", *texts)["lr"] == CategoricalDistribution([3e-5, 1e-4])
    assert made("ganpo_dpo", *texts)["latent.lr"] == FloatDistribution(1e-7, 1e-3, log=True)
    assert made("simpo", *texts)["lr"] == CategoricalDistribution([1e-6, 1e-5])
    assert made("dpo", "*.latent.weight=0.1:1") == made("dpo"), "dpo has no such hyperparameter and is passed over"


def test_a_field_that_declares_no_range_can_be_given_one_of_its_type():
    space = made("ganpo_dpo", "ganpo_dpo.latent.layers=1:4", "ganpo_dpo.latent.discriminator=mlp,transformer")
    assert space["latent.layers"] == IntDistribution(1, 4)
    assert space["latent.discriminator"] == CategoricalDistribution(["mlp", "transformer"])


def test_what_is_set_is_not_searched():
    assert "latent.weight" not in made("ganpo_dpo", fixed=("latent.weight",))
    assert "dpo.beta" not in made("dpo", fixed=("beta",))
    with pytest.raises(ValueError, match="both fixed"):
        made("dpo", "dpo.beta=0.1:0.2", fixed=("dpo.beta",))


def test_a_grid_is_the_product_of_its_lists_and_of_nothing_else():
    space = made("ganpo_dpo", "*.lr=1e-5,1e-4", "*.latent.weight=0.1,1", tunables=False)
    assert grid_of(space, "ganpo_dpo") == [
        {"lr": lr, "latent.weight": weight} for lr in (1e-5, 1e-4) for weight in (0.1, 1.0)
    ]
    with pytest.raises(ValueError, match="needs lists"):
        grid_of(made("dpo"), "dpo")


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("dpo.lr", ValueError, "is no range; write"),
        ("kto.lr=1:2", ValueError, "names no method of this search"),
        ("dpo.betta=0.1:0.2", KeyError, "did you mean"),
        ("dpo.beta=0.2:0.1", ValueError, "is no range"),
        ("dpo.beta=0:1:log", ValueError, "must be above 0"),
        ("dpo.beta=0.1:1:lin", ValueError, "is no range"),
        ("dpo.beta=a,b", ValueError, "needs a value of type float"),
        ("ganpo_dpo.latent.discriminator=mlp:mse", ValueError, "is no number"),
    ],
)
def test_a_mistake_is_named(text, error, hint):
    with pytest.raises(error, match=hint):
        made(text.partition(".")[0], text)

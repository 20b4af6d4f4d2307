"""Reward models: what they read, how they learn, and that an interruption changes no bit."""

import math

import numpy as np
import pytest
import torch

from experiments.data.tokens import TokenPair
from experiments.models.forward import Policy
from experiments.models.loading import load_tokenizer
from experiments.rewards.reward_fitting import Fitting, Labelled, RankedItem, fit, quality
from experiments.rewards.reward_models import block_of, reward_model, scores
from methods.reward_losses import classification_loss, ranking_loss, wgan_loss
from tests.experiments.rewards.tiny_encoder import save_tiny_encoder
from tests.tiny import save_tiny, tiny_model

KINDS = ["encoder", "backbone"]
GOOD, BAD = "the quick brown fox jumps", "afraid of the water and the story"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"policy": save_tiny("llama3", root / "policy"), "encoder": save_tiny_encoder(root / "encoder")}


@pytest.fixture(scope="module")
def tokenizer(folders):
    return load_tokenizer(folders["policy"])


@pytest.fixture(scope="module")
def policy():
    return Policy(tiny_model("llama3"), lora_rank=4)


@pytest.fixture
def build(folders, tokenizer, policy):
    def made(kind, *, seed=0, **extra):
        name = str(folders["encoder"]) if kind == "encoder" else kind
        return reward_model(name, policy=policy, policy_tokenizer=tokenizer, seed=seed, **extra)

    return made


@pytest.fixture
def said(tokenizer):
    def sequence(response, prompt="what is the capital of France?"):
        ids = [np.array(tokenizer.encode(text, add_special_tokens=False), np.int32) for text in (prompt, response)]
        return TokenPair(ids[0], np.append(ids[1], tokenizer.eos_token_id).astype(np.int32))

    return sequence


@pytest.fixture
def pairs(said):
    prompts = [f"write {i} lines" for i in range(6)]
    return [RankedItem(said(f"{GOOD} {i}", p), (said(f"{BAD} {i}", p),)) for i, p in enumerate(prompts)]


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[key]) for key, value in a.items())


def test_losses_at_four_numbers():
    margin = torch.tensor([0.0, 2.0])
    assert ranking_loss(margin).tolist() == pytest.approx([math.log(2), math.log1p(math.exp(-2))])
    assert wgan_loss(margin).tolist() == [0.0, -2.0]
    assert classification_loss(margin, torch.tensor([1.0, 0.0]))[1].item() == pytest.approx(
        2 + math.log1p(math.exp(-2))
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["ranking", "wgan"])
def test_it_learns_which_response_is_better(kind, loss, build, pairs):
    model = build(kind)
    fit(model, pairs, seed=0, loss=loss, lr=1e-2 if kind == "backbone" else 1e-3, batch_size=3, epochs=12)
    assert quality(model, pairs)["accuracy"] == 1.0


def test_labels_are_learnt_by_cross_entropy(build, said):
    model = build("encoder")
    items = [Labelled(said(f"{text} {i}"), label) for i in range(4) for text, label in ((GOOD, 1.0), (BAD, 0.0))]
    fit(model, items, seed=0, lr=1e-3, batch_size=4, epochs=10)
    logits = scores(model, [(item.sequence, None) for item in items])
    assert torch.equal(logits > 0, torch.tensor([item.label for item in items]) > 0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(kind, build, pairs):
    models = [build(kind, seed=seed) for seed in (0, 0, 1)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.rand(3)  # the global generator has no say
        fit(model, pairs, seed=seed, batch_size=2, epochs=2)
    first, second, third = map(weights, models)
    assert same(first, second)
    assert not same(first, third)


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_fit_ends_with_the_same_bits(kind, build, pairs):
    settings = {"seed": 3, "batch_size": 2, "epochs": 2}
    straight, cut = Fitting(build(kind), pairs, **settings), Fitting(build(kind), pairs, **settings)
    while not straight.done:
        straight.step()
    for _ in range(4):
        cut.step()
    resumed = Fitting(build(kind, seed=9), pairs, **settings)
    resumed.load(cut.state())
    while not resumed.done:
        resumed.step()
    assert same(straight.state(), resumed.state())


def test_the_backbone_is_neither_trained_nor_saved(build, pairs, policy):
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    model = build("backbone")
    fit(model, pairs, seed=0, batch_size=3)
    assert set(model.state_dict()) == {"head.weight", "head.bias"}
    assert all(torch.equal(before[name], p) for name, p in policy.named_parameters())
    assert all(p.grad is None for p in policy.parameters())


def test_the_backbone_scores_without_the_adapter(tokenizer, said):
    policy = Policy(tiny_model("llama3"), lora_rank=4)
    frozen = reward_model("backbone", policy=policy, policy_tokenizer=tokenizer, seed=0)
    before = scores(frozen, [(said(GOOD), None)])
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.5)
    assert torch.equal(scores(frozen, [(said(GOOD), None)]), before)


def test_a_fully_trained_policy_needs_its_reference_for_the_backbone(tokenizer):
    with pytest.raises(ValueError, match="needs the frozen reference model"):
        reward_model("backbone", policy=Policy(tiny_model("llama3")), policy_tokenizer=tokenizer, seed=0)


def test_the_encoder_reads_text_and_not_the_policys_ids(build, said):
    model = build("encoder")
    sequence = said(GOOD)
    split = [model.policy_tokenizer.convert_tokens_to_ids(c.replace(" ", "Ġ")) for c in GOOD]
    spelt = TokenPair(sequence.prompt, np.append(np.array(split), sequence.completion[-1]).astype(np.int32))
    assert len(spelt) > len(sequence)
    a, b = scores(model, [(sequence, None), (spelt, None)]).tolist()
    assert a == pytest.approx(b, abs=1e-5)


def test_a_score_does_not_depend_on_the_rows_beside_it(build, said):
    rows = [(said(f"{GOOD} {'and ' * i}"), None) for i in range(40)]
    for kind in KINDS:
        model = build(kind)
        together = scores(model, rows)
        alone = torch.cat([scores(model, [row]) for row in rows[:3]])
        assert torch.allclose(together[:3], alone, atol=1e-4)
        with torch.no_grad():
            assert torch.allclose(model(block_of([row for row, _ in rows])), together, atol=1e-4)


def test_a_long_prompt_loses_its_beginning(build, said):
    model = build("encoder", max_length=32)
    a, b = (said(GOOD, prompt=start + "the capital of France is Paris " * 20) for start in ("fox ", "dog "))
    assert scores(model, [(a, None)]).item() == pytest.approx(scores(model, [(b, None)]).item(), abs=1e-6)


@pytest.mark.parametrize("kind", [*KINDS, "lexical"])
def test_a_conditional_score_depends_on_what_it_is_given(kind, build, said):
    model = build(kind, conditional=True)
    near, far = scores(model, [(said(GOOD), said(GOOD + " dog")), (said(GOOD), said(BAD))]).tolist()
    assert near != far
    if kind == "lexical":
        assert 0 <= far < near < 1


def test_lexical_overlap_is_one_for_the_same_words_and_needs_something_given(build, said):
    model = build("lexical")
    assert scores(model, [(said(GOOD), said(GOOD))]).item() == 1.0
    with pytest.raises(ValueError, match="is given none"):
        scores(model, [(said(GOOD), None)])


def test_a_golden_response_with_many_samples_counts_as_one(build, said):
    model = build("backbone")
    worse = [said(f"{BAD} {i}") for i in range(4)]
    grouped = Fitting(model, [RankedItem(said(GOOD), tuple(worse))], seed=0).step()
    single = [Fitting(build("backbone"), [RankedItem(said(GOOD), (w,))], seed=0).step() for w in worse]
    assert grouped == pytest.approx(sum(single) / 4, rel=1e-5)


def test_weights_scale_what_an_item_says(build, pairs, said):
    odd = RankedItem(said(BAD), (said(GOOD),))
    light = [RankedItem(p.better, p.worse, 10.0) for p in pairs] + [odd]
    model = build("backbone")
    losses = [Fitting(build("backbone"), [item], seed=0).step() for item in light]
    expected = (10 * sum(losses[:-1]) + losses[-1]) / 61
    assert Fitting(model, light, seed=0).step() == pytest.approx(expected, rel=1e-5)


def test_errors_name_the_nearest_and_the_remedy(build, policy, tokenizer):
    with pytest.raises(KeyError, match="did you mean minilm"):
        reward_model("minilmm", policy=policy, policy_tokenizer=tokenizer, seed=0)
    with pytest.raises(ValueError, match="nothing to learn from"):
        Fitting(build("backbone"), [], seed=0)
    broken = build("backbone")
    with torch.no_grad():
        broken.head.weight.fill_(float("nan"))
    sequence = TokenPair(np.arange(3, 6, dtype=np.int32), np.arange(6, 9, dtype=np.int32))
    with pytest.raises(ValueError, match="lower its lr"):
        Fitting(broken, [Labelled(sequence, 1.0)], seed=0).step()

"""APO, GAPO and AAPA: what their fields mean, what they read, and AAPA's term on four numbers."""

import dataclasses

import pytest
import torch

from methods import METHODS, resolve
from methods.aapa import Anchor
from methods.apo import AdversarialReward
from methods.gapo import EncoderAdversary
from methods.protocols import Penalizer, Rewarder, TextLearner
from methods.types import Batch, Outputs, Samples
from tests.methods.conftest import tokens

APO = ["apo_rjs", "apo_rrhf", "apo_dpo", "rjs_base", "rrhf_base", "dpo_base"]
AAPA = ["aapa_sft", "aapa_grpo", "aapa_chord"]


class Counting(torch.nn.Module):
    """Scores a response by its length; given another, by how much longer than that it is."""

    def forward(self, block, given=None):
        lengths = block.completion.sum(-1).float()
        return lengths if given is None else lengths - given.completion.sum(-1)


def sampled(lengths=(4, 2, 3, 6), group=(0, 0, 1, 1), scores=None):
    block = tokens([[1, 2]] * len(lengths), [list(range(3, 3 + n)) for n in lengths])
    expert = tokens([[1, 2]] * 2, [[5, 6, 7], [5, 6]])
    b, c = len(lengths), max(lengths)
    mask = torch.arange(c) < torch.tensor(lengths)[:, None]
    samples = Samples(
        group=torch.tensor(group),
        rewards=torch.zeros(b),
        logps=torch.zeros(b, c),
        mask=mask,
        mean_length=sum(lengths) / b,
        finished=torch.ones(b, dtype=torch.bool),
        terms={} if scores is None else {"aapa": torch.tensor(scores)},
    )
    return Batch({"sampled": block, "expert": expert}, samples)


def outputs(batch, logp=-1.0):
    made = {}
    for role, block in batch.blocks.items():
        lengths = block.completion.sum(-1)
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        made[role] = Outputs((logp * mask).requires_grad_(), mask)
    return made


@pytest.mark.parametrize("name", [*APO, *AAPA, "gapo", "ppo_base"])
def test_they_sample_reward_and_are_judged_by_a_network_that_reads_text(name):
    method = resolve(name).spec
    (part,) = method.regularizers
    assert method.on_policy
    assert isinstance(part, Rewarder)
    assert isinstance(part, TextLearner)
    assert isinstance(part, Penalizer) is (name in AAPA)
    assert method.sampling.verifier_weight == (1.0 if name in ("aapa_grpo", "aapa_chord") else 0.0)
    assert METHODS[name].paper.arxiv in ("2311.08045", "2503.20194", "2509.25148")


def test_the_baselines_differ_from_apo_in_the_reward_model_alone():
    for ours, base in (("apo_rjs", "rjs_base"), ("apo_rrhf", "rrhf_base"), ("apo_dpo", "dpo_base")):
        one, other = resolve(ours).spec, resolve(base).spec
        assert (one.objective, one.sampling) == (other.objective, other.sampling)
        assert one.regularizers == (AdversarialReward(),)
        assert other.regularizers == (AdversarialReward(adversarial=False),)
        assert METHODS[ours].lr == METHODS[base].lr


def test_what_apo_reads_follows_its_variant():
    assert set(AdversarialReward().reads) == {"sampled", "chosen", "rejected", "expert"}
    assert set(AdversarialReward(prior_weight=0.0).reads) == {"sampled", "expert"}
    assert set(AdversarialReward(adversarial=False).reads) == {"sampled", "chosen", "rejected"}


def test_apo_and_gapo_score_the_samples():
    batch = sampled()
    for part in (AdversarialReward(), EncoderAdversary()):
        assert part.reward(Counting(), batch).tolist() == [4.0, 2.0, 3.0, 6.0]


def test_the_rounds_of_apo_slow_down_as_the_paper_did():
    rates = [5e-6 * AdversarialReward().lr_factor(number) for number in range(4)]
    assert rates == pytest.approx([5e-6, 2e-6, 9e-7, 9e-7])
    assert AdversarialReward(lr_by_round="constant").lr_factor(2) == 1.0


def test_aapa_scores_a_sample_given_the_expert_of_its_prompt():
    assert Anchor().reward(Counting(), sampled()).tolist() == [1.0, -1.0, 1.0, 4.0]


def test_aapa_pulls_towards_what_scores_above_its_group_and_pushes_from_the_rest():
    batch = sampled(scores=[3.0, 1.0, 0.0, 10.0])
    policy = outputs(batch)
    Anchor().penalty(None, batch, policy, {}).value.backward()
    slopes = policy["sampled"].logps.grad[:, 0] * policy["sampled"].lengths
    assert slopes.tolist() == pytest.approx([-(2**-0.5) / 4, 2**-0.5 / 4, 2**-0.5 / 4, -(2**-0.5) / 4], rel=1e-3)


def test_a_group_of_equal_scores_and_the_reward_mode_have_no_gradient():
    for part, scores in ((Anchor(), [2.0] * 4), (Anchor(mode="reward"), [3.0, 1.0, 0.0, 9.0])):
        batch = sampled(scores=scores)
        policy = outputs(batch)
        value = part.penalty(None, batch, policy, {}).value
        assert value.item() == 0
        if value.requires_grad:
            value.backward()
            assert not policy["sampled"].logps.grad.any()
    assert Anchor(mode="reward", weight=0.3).reward_weight == 0.3
    assert Anchor(weight=0.3).reward_weight == 0.0


def test_aapa_describes_lengths_and_log_probs_of_rollouts_and_experts():
    batch = sampled(scores=[3.0, 1.0, 0.0, 10.0])
    loss = Anchor().penalty(None, batch, outputs(batch, logp=-2.0), {})
    assert loss.metrics["length_sampled"] == 3.75
    assert loss.metrics["length_expert"] == 2.5
    assert loss.metrics["logp_sampled"] == loss.metrics["logp_expert"] == -2.0
    assert {name: len(values) for name, values in loss.distributions.items()} == {"logp_sampled": 4, "logp_expert": 2}


@pytest.mark.parametrize(
    ("part", "values", "message"),
    [
        (AdversarialReward, {"prior_share": 0.7, "golden_share": 0.3}, "leave no prompts"),
        (AdversarialReward, {"rounds": 0}, "at least 1"),
        (AdversarialReward, {"golden_prompts": 0}, "at least 1"),
        (AdversarialReward, {"adversarial": False, "prior_weight": 0.0}, "nothing to learn"),
        (EncoderAdversary, {"negative_share": 1.0}, "inside"),
        (EncoderAdversary, {"warmup_items": 0}, "at least one pair"),
        (Anchor, {"copy_share": 0.0}, "copy_share"),
    ],
)
def test_settings_that_mean_nothing_are_refused(part, values, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(part(), **values)


@pytest.mark.parametrize("name", ["grpo+apo", "grpo+gapo", "sft+aapa", "dpo+aapa", "grpo+aapa+nll"])
def test_they_compose_with_other_objectives(name):
    parts = resolve(name).spec.parts
    assert list(parts)[:-1] == name.split("+")

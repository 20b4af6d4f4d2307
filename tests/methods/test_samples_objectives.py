"""Objectives on samples, against their formulas written out sample by sample."""

import dataclasses
import math

import pytest
import torch

from methods import METHODS, resolve
from methods.chord import CHORD
from methods.grpo import GRPO, clipped_loss, group_advantages, k3
from methods.ppo import PPO, generalized_advantages
from methods.protocols import Sampling
from methods.raft import RAFT
from methods.rloo import RLOO
from methods.rrhf import RRHF
from methods.types import Batch, Outputs, Samples, Tokens
from registry import flatten, override

LENGTHS = (3, 5, 2, 4, 1, 5)
GROUPS = (0, 0, 0, 1, 1, 1)
REWARDS = (0.2, 0.9, 0.5, 0.1, 0.1, 0.7)


def outputs(seed: int, lengths=LENGTHS) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    logps = -2 * torch.rand(mask.shape, generator=generator) * mask
    states = torch.randn(*mask.shape, 4, generator=generator)
    return Outputs(logps.requires_grad_(), mask, states=states)


def samples(drawn: Outputs, rewards=REWARDS, groups=GROUPS, **more) -> Samples:
    return Samples(
        group=torch.tensor(groups),
        rewards=torch.tensor(rewards),
        logps=drawn.logps.detach(),
        mask=drawn.mask,
        mean_length=drawn.mask.sum().item() / len(drawn.mask),
        finished=torch.ones(len(drawn.mask), dtype=torch.bool),
        **more,
    )


def batch(known: Samples, step: int = 0) -> Batch:
    block = torch.zeros(len(known), 1)
    return Batch({"sampled": Tokens(block.long(), block.bool(), block.bool())}, known, step)


def loss(objective, now, known, reference=None, **rest):
    return objective.loss(batch(known, **rest), {"sampled": now}, {} if reference is None else {"sampled": reference})


def test_raft_learns_the_best_sample_of_each_prompt_and_no_other():
    now = outputs(0)
    value = loss(RAFT(), now, samples(now)).value
    expected = -(now.logps[1].sum() / 5 + now.logps[5].sum() / 5) / 2
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value, now.logps)
    assert gradient.abs().sum(-1).nonzero().flatten().tolist() == [1, 5]


def test_rrhf_is_its_formula():
    now = outputs(1)
    p = [now.logps[i].sum() / LENGTHS[i] for i in range(6)]
    ranking = sum(
        torch.relu(p[i] - p[j])
        for i in range(6)
        for j in range(6)
        if GROUPS[i] == GROUPS[j] and REWARDS[i] < REWARDS[j]
    )
    expected = (3.0 * ranking - p[1] - p[5]) / 2
    assert ranking > 0
    torch.testing.assert_close(loss(RRHF(weight=3.0), now, samples(now)).value, expected)


def test_rrhf_orders_nothing_among_equals():
    now = outputs(1)
    known = samples(now, rewards=(1.0,) * 6)
    assert loss(RRHF(), now, known).metrics["ranking"] == 0


def test_grpo_before_the_policy_moves_is_minus_the_mean_advantage_of_a_token():
    now = outputs(2)
    known = samples(now)
    advantages = group_advantages(known)
    expected = -(advantages * torch.tensor(LENGTHS)).sum() / sum(LENGTHS)
    torch.testing.assert_close(loss(GRPO(), now, known).value, expected)
    torch.testing.assert_close(
        loss(GRPO(reduction="sequence"), now, known).value, -advantages.mean(), atol=1e-6, rtol=0
    )


def test_a_group_whose_samples_are_all_alike_teaches_nothing():
    now = outputs(2)
    value = loss(GRPO(), now, samples(now, rewards=(0.4,) * 6)).value
    (gradient,) = torch.autograd.grad(value, now.logps)
    assert gradient.abs().max() < 1e-4


def test_grpo_refuses_a_group_of_one():
    now = outputs(2)
    with pytest.raises(ValueError, match="num_generations must be at least 2"):
        loss(GRPO(), now, samples(now, groups=(0, 0, 1, 1, 1, 2)))


@pytest.mark.parametrize("name", ["grpo", "raft", "rrhf", "ppo"])
def test_objectives_on_samples_refuse_a_batch_without_them(name):
    now = outputs(0)
    with pytest.raises(ValueError, match="samples of the policy"):
        METHODS[name].spec.objective.loss(Batch({}), {"sampled": now}, {"sampled": now})


def test_grpo_needs_a_reference_only_for_its_kl():
    assert not resolve("grpo").spec.needs("reference")
    assert override(resolve("grpo").spec, {"grpo.kl": "0.04"}).needs("reference")
    assert resolve("grpo+latent").spec.needs("reference")
    assert not resolve("grpo+latent").spec.needs("reference", "sampled")


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_the_parts_of_an_update_add_up_to_the_whole_of_it(reduction):
    now, old = outputs(2), outputs(3)
    known, objective = samples(old), GRPO(reduction=reduction)
    whole = loss(objective, now, known).value
    halves = []
    for rows, width in ((slice(0, 3), 5), (slice(3, 6), 5)):
        part = Outputs(now.logps[rows, :width], now.mask[rows, :width])
        own = {name: getattr(known, name)[rows] for name in ("rewards", "finished", "logps", "mask")}
        group = known.group[rows] - known.group[rows][0]
        halves.append(loss(objective, part, dataclasses.replace(known, group=group, **own)).value)
    torch.testing.assert_close(torch.stack(halves).mean(), whole)


def test_clipping_stops_the_gradient_where_the_policy_has_gone_far_enough():
    mask = torch.ones(4, 1, dtype=torch.bool)
    ratios = torch.tensor([[1.5], [0.5], [1.5], [0.5]])
    now = Outputs(ratios.log().requires_grad_(), mask)
    known = samples(Outputs(torch.zeros(4, 1), mask), rewards=(0.0,) * 4, groups=(0, 0, 0, 0))
    advantages = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    losses, metrics = clipped_loss(now, known, advantages, clip=0.2)
    assert losses.flatten().tolist() == pytest.approx([-1.2, -0.5, 1.5, 0.8])
    (gradient,) = torch.autograd.grad(losses.sum(), now.logps)
    assert (gradient.flatten() != 0).tolist() == [False, True, True, False]
    assert metrics["clipped"] == 1


def test_a_dual_clip_bounds_the_loss_of_a_bad_token():
    mask = torch.ones(2, 1, dtype=torch.bool)
    now = Outputs(torch.tensor([[10.0], [10.0]]).log(), mask)
    known = samples(Outputs(torch.zeros(2, 1), mask), rewards=(0.0, 0.0), groups=(0, 0))
    advantages = torch.tensor([[-1.0], [1.0]])
    assert clipped_loss(now, known, advantages, clip=0.2)[0].flatten().tolist() == pytest.approx([10.0, -1.2])
    bounded = clipped_loss(now, known, advantages, clip=0.2, dual_clip=3.0)[0]
    assert bounded.flatten().tolist() == pytest.approx([3.0, -1.2])


def test_k3_is_zero_at_the_reference_and_positive_elsewhere():
    p, q = -torch.rand(5, 7), -torch.rand(5, 7)
    assert k3(p, p).abs().max() == 0
    assert k3(p, q).min() > 0


def test_advantages_are_the_discounted_sum_of_temporal_differences():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(5) < torch.tensor([5, 3])[:, None]
    rewards, values = torch.randn(2, 5, generator=generator) * mask, torch.randn(2, 5, generator=generator) * mask
    got = generalized_advantages(rewards, values, mask, 0.9, 0.8)
    for i, length in enumerate((5, 3)):
        following = [*values[i, 1:length].tolist(), 0.0]
        deltas = [rewards[i, t].item() + 0.9 * following[t] - values[i, t].item() for t in range(length)]
        for t in range(length):
            expected = sum((0.9 * 0.8) ** k * deltas[t + k] for k in range(length - t))
            assert got[i, t].item() == pytest.approx(expected, rel=1e-5)
    assert not got[1, 3:].any()


def test_a_trace_of_one_makes_the_return_the_sum_of_the_rewards_to_come():
    mask = torch.ones(1, 4, dtype=torch.bool)
    rewards, values = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.randn(1, 4)
    returns = generalized_advantages(rewards, values, mask, 1.0, 1.0) + values
    torch.testing.assert_close(returns, torch.tensor([[10.0, 9.0, 7.0, 4.0]]))


def test_ppo_pays_the_reward_at_the_last_token_and_the_drift_at_every_token():
    drawn, reference = outputs(4), outputs(5)
    objective = PPO(kl=0.1, whiten=False, trace=1.0, reward_clip=0.5)
    known = samples(drawn, values=torch.zeros_like(drawn.logps), reference=reference.logps.detach())
    estimated = objective.estimate(known)
    for i, length in enumerate(LENGTHS):
        drift = (drawn.logps[i] - reference.logps[i])[:length].sum().item()
        assert estimated.returns[i, 0].item() == pytest.approx(min(REWARDS[i], 0.5) - 0.1 * drift, rel=1e-4)
    assert not estimated.advantages[~drawn.mask].any()


def test_whitened_advantages_have_mean_zero_and_standard_deviation_one():
    drawn = outputs(4)
    known = samples(drawn, values=torch.zeros_like(drawn.logps), reference=drawn.logps.detach())
    seen = PPO().estimate(known).advantages[drawn.mask]
    assert seen.mean().abs() < 1e-6
    assert seen.std().item() == pytest.approx(1.0, abs=1e-5)


def test_the_critic_starts_at_zero_learns_the_returns_and_leaves_the_policy_alone():
    objective, now = PPO(value_clip=100.0), outputs(6)
    net = objective.build(4)
    zeros = torch.zeros_like(now.logps)
    known = samples(now, values=zeros, returns=torch.ones_like(zeros) * now.mask, advantages=zeros)
    assert not objective.values(net, now).any()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        value = objective.value_loss(net, batch(known), {"sampled": now}).value
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] == pytest.approx(0.5)
    assert losses[-1] < 0.05
    assert now.logps.grad is None


def test_value_clipping_takes_the_larger_of_two_errors():
    objective, now = PPO(value_clip=0.2), outputs(6)
    net = objective.build(4)
    torch.nn.init.constant_(
        net.head.bias, 1.0
    )  # every value is 1, was 0 when the samples were drawn, and ought to be 1
    ones, zeros = torch.ones_like(now.logps) * now.mask, torch.zeros_like(now.logps)
    known = samples(now, values=zeros, returns=ones, advantages=zeros)
    assert objective.value_loss(net, batch(known), {"sampled": now}).value.item() == pytest.approx(0.8**2 / 2)


def test_mu_falls_on_a_cosine_and_stays():
    objective = CHORD()
    assert objective.mu(0) == pytest.approx(0.9)
    assert objective.mu(100) == pytest.approx((0.9 + 0.05) / 2)
    assert objective.mu(200) == objective.mu(10_000) == pytest.approx(0.05)
    warm = CHORD(mu_warmup=10)
    assert [warm.mu(step) for step in (0, 5)] == pytest.approx([0.0, 0.45])


@pytest.mark.parametrize("objective", [CHORD(), CHORD(mu_warmup=10)], ids=["no warm-up", "warm-up"])
def test_mu_reaches_its_end_by_the_last_update_of_a_run_that_is_shorter_than_its_schedule(objective):
    for num_steps in (2, 12, 200, 201, 500):
        run = [objective.mu(step, num_steps) for step in range(num_steps)]
        assert run[-1] == pytest.approx(0.05)
        assert run[0] == objective.mu(0)
        falling = run[run.index(max(run)) :]
        assert falling == sorted(falling, reverse=True)
    assert [objective.mu(step, 500) for step in range(500)] == [objective.mu(step) for step in range(500)]
    assert objective.mu(0, 1) == objective.mu(0)


@pytest.mark.parametrize("step", [0, 50])
def test_chord_is_the_mixture_of_its_two_losses(step):
    now, expert = outputs(2), outputs(7, lengths=(2, 4))
    known, objective = samples(outputs(3)), CHORD(dual_clip=1e9)
    made = objective.loss(batch(known, step), {"sampled": now, "expert": expert}, {})
    sft, grpo = -expert.mean_logps.mean(), loss(GRPO(), now, known).value
    mu = objective.mu(step)
    torch.testing.assert_close(made.value, mu * sft + (1 - mu) * grpo)


def test_chord_phi_weighs_a_token_by_its_uncertainty_and_not_through_the_weight():
    expert, now = outputs(7, lengths=(2, 4)), outputs(2)
    objective = resolve("chord_phi").spec.objective
    made = objective.loss(batch(samples(now)), {"sampled": now, "expert": expert}, {})
    (gradient,) = torch.autograd.grad(made.value, expert.logps)
    for i, length in enumerate((2, 4)):
        for t in range(length):
            p = math.exp(expert.logps[i, t].item())
            assert gradient[i, t].item() == pytest.approx(-0.1 * p * (1 - p) / length / 2, rel=1e-4)


def test_how_samples_are_drawn_is_hashed_with_the_methods_that_draw_any():
    assert flatten(resolve("grpo").spec)["sampling.num_generations"] == 8
    assert flatten(resolve("raft+nll").spec)["sampling.keep"] == "best"
    assert not [key for key in flatten(resolve("dpo+latent").spec) if key.startswith("sampling")]
    changed = override(resolve("grpo").spec, {"sampling.temperature": "0.7"})
    assert changed.sampling == Sampling(temperature=0.7)


@pytest.mark.parametrize(
    "values", [{"num_generations": 0}, {"temperature": 0.0}, {"top_p": 1.5}, {"keep": "pair", "num_generations": 1}]
)
def test_impossible_ways_to_sample_are_refused(values):
    with pytest.raises(ValueError, match="sampling"):
        Sampling(**values)


def test_rloo_is_its_formula():
    now, drawn, reference = outputs(0), outputs(1), outputs(2)
    known = samples(drawn)
    value = loss(RLOO(kl=0.1, clip=0.2), now, known, reference).value
    expected = []
    for i in range(6):
        own = [j for j in range(6) if GROUPS[j] == GROUPS[i]]
        paid = {j: REWARDS[j] - 0.1 * (drawn.logps[j].sum() - reference.logps[j].sum()) for j in own}
        advantage = paid[i] - sum(paid[j] for j in own if j != i) / (len(own) - 1)
        ratio = (now.logps[i].sum() - drawn.logps[i].sum()).exp()
        expected.append(-torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage))
    torch.testing.assert_close(value, torch.stack(expected).mean().detach(), check_dtype=False)


def test_rloos_first_gradient_is_reinforce_with_the_mean_of_the_others_as_baseline():
    now = outputs(0)
    (gradient,) = torch.autograd.grad(loss(RLOO(kl=0.0), now, samples(now)).value, now.logps)
    for i in range(6):
        others = [REWARDS[j] for j in range(6) if GROUPS[j] == GROUPS[i] and j != i]
        advantage = REWARDS[i] - sum(others) / len(others)
        torch.testing.assert_close(gradient[i][now.mask[i]], torch.full((LENGTHS[i],), -advantage / 6))


def test_rloo_needs_the_reference_only_for_its_penalty_and_no_group_of_one():
    assert not resolve("rloo").spec.objective.__class__(kl=0.0).needs
    now = outputs(0)
    with pytest.raises(ValueError, match="num_generations"):
        loss(RLOO(kl=0.0), now, samples(now, groups=range(6)))

"""GANPO's extensions against their formulas written out, and what they do before a verifier has said both words."""

import pytest
import torch
from torch.nn import functional as F

from methods import METHODS, resolve
from methods.ganpo import LatentAdversary
from methods.ganpo_extensions import SymbolicAdversary, verified
from methods.types import Batch, Samples
from tests.methods.conftest import HIDDEN, random_outputs

SMALL = {"width": 16, "heads": 2, "feed_forward": 32, "layers": 1, "dropout": 0.0}
LENGTHS = {"chosen": (4, 7, 3, 5), "rejected": (6, 2, 5, 4), "sampled": (3, 5, 4, 6)}


def blocks():
    policy = {role: random_outputs(lengths) for role, lengths in LENGTHS.items()}
    reference = {role: random_outputs(LENGTHS[role], shift=0.3) for role in ("chosen", "rejected")}
    return policy, reference


def judged(*scores):
    rows = len(scores)
    samples = Samples(
        group=torch.zeros(rows, dtype=torch.long),
        rewards=torch.tensor(scores),
        logps=torch.zeros(rows, 6),
        mask=torch.ones(rows, 6, dtype=torch.bool),
        mean_length=6.0,
        finished=torch.ones(rows, dtype=torch.bool),
        terms={"verifier": torch.tensor(scores)},
    )
    return Batch({}, samples)


def built(part):
    torch.manual_seed(0)
    return part.build(HIDDEN)


def on_samples(net, judge, output):
    return net.roles[judge].network(output.hidden, output.mask)


def test_with_weight_zero_it_is_ganpo():
    policy, reference = blocks()
    latent, symbolic = LatentAdversary(**SMALL), SymbolicAdversary(**SMALL, symbolic_weight=0.0)
    plain, net = built(latent), built(symbolic)
    for batch in (judged(1.0, 0.5, 1.0, 0.0), judged(0.0, 0.0, 0.0, 0.0)):
        expected = latent.adversary_loss(plain, batch, policy, reference).value
        assert torch.equal(symbolic.adversary_loss(net, batch, policy, reference).value, expected)
        for part, network in ((latent, plain), (symbolic, net)):
            part.end_step(network)
        plain.eval(), net.eval()
        penalty = latent.penalty(plain, batch, policy, reference).value
        assert torch.equal(symbolic.penalty(net, batch, policy, reference).value, penalty)
        plain.train(), net.train()


def test_the_losses_are_the_formulas_of_the_docstring():
    policy, reference = blocks()
    part, batch = SymbolicAdversary(**SMALL, symbolic_weight=2.0), judged(1.0, 0.5, 1.0, 0.0)
    net, passed = built(part), torch.tensor([True, False, True, False])
    without = LatentAdversary(**SMALL).adversary_loss(built(LatentAdversary(**SMALL)), batch, policy, reference).value
    loss = part.adversary_loss(net, batch, policy, reference).value
    expected = without.clone()
    for judge, first in (("chosen", passed), ("rejected", ~passed)):
        logits = on_samples(net, judge, policy["sampled"])
        winner, loser = logits[first], logits[~first]
        expected = expected + 2.0 * (
            -F.logsigmoid(winner - loser.mean()).mean() - F.logsigmoid(winner.mean() - loser).mean()
        )
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    part.end_step(net)
    net.eval()
    base = LatentAdversary.penalty(part, net, batch, policy, reference).value
    logits = on_samples(net, "chosen", policy["sampled"])
    lead = logits[~passed] - logits[passed].mean()  # the running mean starts at the first batch's
    told = part.penalty(net, batch, policy, reference)
    assert told.value.item() == pytest.approx((base + 2.0 * -F.logsigmoid(lead).mean()).item(), abs=1e-5)


@pytest.mark.parametrize("scores", [(0.0, 0.5, 0.2, 0.9), (1.0, 1.0, 1.0, 1.0)])
def test_a_verifier_that_has_said_one_word_only_changes_nothing(scores):
    policy, reference = blocks()
    part, batch = SymbolicAdversary(**SMALL), judged(*scores)
    net = built(part)
    plain = LatentAdversary(**SMALL)
    expected = plain.adversary_loss(built(plain), batch, policy, reference).value
    assert torch.equal(part.adversary_loss(net, batch, policy, reference).value, expected)
    part.end_step(net)
    assert all(torch.isfinite(buffer.float()).all() for buffer in net.buffers())


def test_only_shown_sets_move_their_means():
    policy, reference = blocks()
    part = SymbolicAdversary(**SMALL, decay=0.5)
    net = built(part)
    for scores in ((1.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 0.0)):
        part.adversary_loss(net, judged(*scores), policy, reference)
        part.end_step(net)
        means = dict(zip(net.roles["chosen"].sets, net.roles["chosen"].means.tolist(), strict=True))
        if scores[0]:
            first = means
    assert means["verified"] == first["verified"]
    assert means["failed"] != first["failed"]


def test_gradients_reach_failed_samples_and_no_verified_one():
    policy, reference = blocks()
    part, batch = SymbolicAdversary(**SMALL), judged(1.0, 0.0, 1.0, 0.0)
    net = built(part)
    part.adversary_loss(net, batch, policy, reference)
    part.end_step(net)
    hidden = policy["sampled"].hidden.requires_grad_()
    part.penalty(net.eval(), batch, policy, reference).value.backward()
    moved = hidden.grad.abs().sum((1, 2)) > 0
    assert moved.tolist() == [False, True, False, True]


def test_data_without_verifiers_are_refused():
    batch = judged(1.0, 0.0)
    object.__setattr__(batch.samples, "terms", {})
    with pytest.raises(ValueError, match="verifier"):
        verified(batch)
    with pytest.raises(ValueError, match="mse"):
        SymbolicAdversary(discriminator="mse")


def test_self_play_differs_from_online_dpo_in_the_adversary_alone():
    online, play = resolve("online_dpo").spec, resolve("ganpo_online").spec
    assert (online.objective, online.sampling) == (play.objective, play.sampling)
    assert online.on_policy
    assert online.offline_reads == ()
    assert [part.name for part in play.regularizers] == ["latent"]
    assert resolve("dpo").spec.on_policy is False


def test_extensions_say_that_they_are_ours():
    for name in ("ganpo_online", "ganpo_symbolic"):
        assert "extension of this project" in METHODS[name].note

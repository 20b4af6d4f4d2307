"""The maths of each objective by hand, and what holds for all of them."""

import math

import pytest
import torch
from torch.nn import functional as F

from methods import METHODS
from methods.catalogue import OBJECTIVES
from methods.cpo import CPO
from methods.dpo import DPO, dpo_loss
from methods.ipo import IPO, ipo_loss
from methods.kto import KTO, kto_loss
from methods.nll import NLL
from methods.orpo import ORPO, log_odds
from methods.protocols import ImplicitReward
from methods.sft import SFT
from methods.simpo import SimPO, simpo_loss
from methods.types import Batch, Outputs, Tokens
from tests.methods.conftest import pairs, run, tiny_model

NO_TOKENS = Batch({})
# The others need samples: tests/methods/test_samples_objectives.py
OFFLINE = [name for name, card in OBJECTIVES.items() if "sampled" not in card.spec.reads]


def block(*rows: list[float]) -> Outputs:
    """Outputs of responses with these log-probabilities per token."""
    logps = [torch.tensor(row) for row in rows]
    mask = [torch.ones(len(row), dtype=torch.bool) for row in rows]
    pad = torch.nn.utils.rnn.pad_sequence
    return Outputs(pad(logps, batch_first=True), pad(mask, batch_first=True))


def test_dpo_loss_of_no_margin_is_log_two():
    torch.testing.assert_close(dpo_loss(torch.zeros(4)), torch.full((4,), math.log(2)))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_dpo_loss_is_the_cross_entropy_of_the_smoothed_label(smoothing):
    margin = torch.linspace(-5, 5, 11)
    target = torch.full_like(margin, 1 - smoothing)
    expected = F.binary_cross_entropy_with_logits(margin, target, reduction="none")
    torch.testing.assert_close(dpo_loss(margin, label_smoothing=smoothing), expected)


def test_ipo_loss_is_zero_at_its_target_margin():
    torch.testing.assert_close(ipo_loss(torch.tensor([5.0, 0.0, 6.0]), tau=0.1), torch.tensor([0.0, 25.0, 1.0]))


def test_simpo_loss_is_log_two_when_the_margin_is_gamma():
    assert simpo_loss(torch.tensor([1.5]), gamma=1.5).item() == pytest.approx(math.log(2))


def test_kto_loss_is_a_half_on_the_drift_and_bounded():
    values = kto_loss(torch.tensor([0.0, 50.0, -50.0]))
    torch.testing.assert_close(values, torch.tensor([0.5, 0.0, 1.0]))


def test_log_odds_of_one_half_is_zero_and_of_three_quarters_log_three():
    torch.testing.assert_close(log_odds(torch.tensor([0.5, 0.75]).log()), torch.tensor([0.0, math.log(3)]))


def test_log_odds_have_a_finite_gradient_however_certain_or_unlikely_a_response_is():
    logps = torch.tensor([0.0, -1e-9, -1e-4, -1.0, -200.0], requires_grad=True)
    odds = log_odds(logps)
    odds.sum().backward()
    assert odds.isfinite().all()
    assert logps.grad.isfinite().all()


CHOSEN, REJECTED = block([-1.0, -3.0], [-0.5]), block([-2.0], [-1.0, -1.0, -1.0])
REFERENCE = {"chosen": block([-2.0, -2.5], [-1.0]), "rejected": block([-1.5], [-1.0, -0.5, -1.0])}


def test_dpo_of_four_responses_by_hand():
    margins = torch.tensor([0.1 * (0.5 - -0.5), 0.1 * (0.5 - -0.5)])
    loss = DPO().loss(NO_TOKENS, {"chosen": CHOSEN, "rejected": REJECTED}, REFERENCE)
    torch.testing.assert_close(loss.value, -F.logsigmoid(margins).mean())
    assert loss.metrics["reward_margin"].item() == pytest.approx(0.1)
    assert loss.metrics["reward_chosen"].item() == pytest.approx(0.05)
    assert loss.metrics["reward_accuracy"].item() == 1


def test_ipo_averages_each_log_ratio_over_its_own_length():
    first, second = 0.5 / 2 - -0.5 / 1, 0.5 / 1 - -0.5 / 3
    loss = IPO(tau=0.5).loss(NO_TOKENS, {"chosen": CHOSEN, "rejected": REJECTED}, REFERENCE)
    assert loss.value.item() == pytest.approx(((first - 1) ** 2 + (second - 1) ** 2) / 2)


def test_simpo_reads_no_reference():
    margins = torch.tensor([2 * (-2.0 - -2.0), 2 * (-0.5 - -1.0)])
    loss = SimPO(gamma_beta_ratio=0.25).loss(NO_TOKENS, {"chosen": CHOSEN, "rejected": REJECTED}, {})
    torch.testing.assert_close(loss.value, -F.logsigmoid(margins - 0.5).mean())


def test_a_tie_is_not_an_accurate_reward():
    same = {"chosen": CHOSEN, "rejected": CHOSEN}
    for objective in (DPO(), IPO(), SimPO(), CPO(), ORPO()):
        assert objective.loss(NO_TOKENS, same, same).metrics["reward_accuracy"] == 0, objective.name


def test_cpo_adds_the_likelihood_of_the_chosen_response_averaged_over_tokens_then_rows():
    with_nll, without = (
        CPO(alpha=alpha).loss(NO_TOKENS, {"chosen": CHOSEN, "rejected": REJECTED}, {}).value for alpha in (2.0, 0.0)
    )
    assert (with_nll - without).item() == pytest.approx(2 * (2.0 + 0.5) / 2)


def test_orpo_of_one_pair_by_hand():
    chosen, rejected = math.exp(-2.0), math.exp(-1.0)
    ratio = math.log(chosen / (1 - chosen)) - math.log(rejected / (1 - rejected))
    expected = 2.0 + 0.1 * math.log(1 + math.exp(-ratio))
    loss = ORPO().loss(NO_TOKENS, {"chosen": block([-1.0, -3.0]), "rejected": block([-1.0])}, {})
    assert loss.value.item() == pytest.approx(expected)


def test_sft_and_nll_are_the_mean_over_rows_of_the_mean_over_tokens():
    assert SFT().loss(NO_TOKENS, {"expert": CHOSEN}, {}).value.item() == pytest.approx((2.0 + 0.5) / 2)
    assert NLL().penalty(None, NO_TOKENS, {"chosen": CHOSEN}, {}).value.item() == pytest.approx((2.0 + 0.5) / 2)


def test_kto_weighs_each_side_and_averages_over_all_responses():
    policy = {"chosen": block([-1.0], [-2.0]), "rejected": block([-1.0]), "mismatched": block([-1.0], [-1.0], [0.0])}
    reference = {
        "chosen": block([-2.0], [-2.0]),
        "rejected": block([-3.0]),
        "mismatched": block([-2.0], [-2.0], [-2.0]),
    }
    drift = (1 + 1 + 2) / 3

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = 2 * (1 - sigmoid(1 - drift)) + 2 * (1 - sigmoid(0 - drift)) + 3 * (1 - sigmoid(drift - 2))
    loss = KTO(beta=1.0, desirable_weight=2.0, undesirable_weight=3.0).loss(NO_TOKENS, policy, reference)
    assert loss.value.item() == pytest.approx(expected / 3)
    assert loss.metrics["kl"].item() == pytest.approx(drift)
    assert loss.metrics["reward_margin"].item() == pytest.approx(0.5 - 2)
    assert loss.metrics["reward_accuracy"].item() == 0  # 1 and 0 below the drift, 2 above it


def test_kto_takes_no_drift_below_zero_and_sends_no_gradient_through_it():
    logps = torch.tensor([[-3.0]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    policy = {"chosen": block([-1.0]), "mismatched": Outputs(logps, mask)}
    loss = KTO().loss(NO_TOKENS, policy, {"chosen": block([-1.0]), "mismatched": block([-1.0])})
    assert loss.metrics["kl"] == 0
    assert loss.value.item() == pytest.approx(0.5)
    assert not loss.value.requires_grad


@pytest.mark.parametrize("missing", ["absent", "empty"])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_kto_trains_on_one_side_alone(side, missing):
    policy = {side: block([-1.0], [-2.0]), "mismatched": block([-1.0])}
    if missing == "empty":
        policy["rejected" if side == "chosen" else "chosen"] = Outputs(
            torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.bool)
        )
    loss = KTO().loss(NO_TOKENS, policy, policy)
    assert loss.value.item() == pytest.approx(0.5)
    assert set(loss.metrics) == {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "kl"}
    assert loss.metrics[f"reward_{side}"] == 0


def test_kto_says_what_a_batch_lacks():
    labelled = {"chosen": block([-1.0])}
    with pytest.raises(ValueError, match="mismatched rows; this batch has only chosen"):
        KTO().loss(NO_TOKENS, labelled, labelled)
    mismatched = {"mismatched": block([-1.0])}
    with pytest.raises(ValueError, match="a chosen or a rejected row"):
        KTO().loss(NO_TOKENS, mismatched, mismatched)


def slice_rows(batch: Batch, i: int) -> Batch:
    return Batch({role: Tokens(b.ids[[i]], b.attention[[i]], b.completion[[i]]) for role, b in batch.blocks.items()})


@pytest.mark.parametrize("name", [name for name in OFFLINE if name != "kto"])
def test_every_loss_is_the_mean_over_rows(name, policy_model, reference_model):
    """So that accumulation over micro-batches is exact. KTO's is too, once its drift is given."""
    objective, batch = OBJECTIVES[name].spec, pairs()

    def loss(part: Batch) -> torch.Tensor:
        return objective.loss(part, run(policy_model, part.blocks), run(reference_model, part.blocks)).value

    rows = torch.stack([loss(slice_rows(batch, i)) for i in range(3)])
    torch.testing.assert_close(loss(batch), rows.mean())


@pytest.mark.parametrize("name", OFFLINE)
def test_every_objective_learns_fixed_pairs(name, reference_model):
    objective, batch, model = OBJECTIVES[name].spec, pairs(), tiny_model(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    reads = {role: batch.blocks[role] for role in objective.reads}
    with torch.no_grad():
        reference = run(reference_model, reads)
    values = []
    for _ in range(25):
        loss = objective.loss(batch, run(model, reads), reference)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(loss.value.item())
    assert values[-1] < 0.9 * values[0]
    if "reward_accuracy" in loss.metrics:
        assert loss.metrics["reward_accuracy"] == 1
    assert all(value.shape == () and not value.requires_grad for value in loss.metrics.values())


@pytest.mark.parametrize("name", ["dpo", "ipo", "kto"])
def test_policy_equal_to_reference_has_no_margin(name, policy_model):
    objective, batch = METHODS[name].spec.objective, pairs()
    blocks = run(policy_model, batch.blocks)
    metrics = objective.loss(batch, blocks, blocks).metrics
    assert metrics["reward_margin"] == 0
    assert metrics["reward_accuracy"] == 0


REWARDING = [name for name in OFFLINE if isinstance(OBJECTIVES[name].spec, ImplicitReward)]


@pytest.mark.parametrize("name", REWARDING)
def test_the_reward_of_a_response_is_the_one_whose_margin_training_logs(name, policy_model, reference_model):
    objective, batch = OBJECTIVES[name].spec, pairs()
    policy, reference = run(policy_model, batch.blocks), run(reference_model, batch.blocks)
    kept = reference if "reference" in objective.needs else {}
    rewards = {role: objective.implicit_reward(policy[role], kept.get(role)) for role in ("chosen", "rejected")}
    logged = objective.loss(batch, policy, kept).metrics
    for role, own in rewards.items():
        torch.testing.assert_close(logged[f"reward_{role}"], own.mean())
    grown = Outputs(*(part.repeat(1, 2) for part in (policy["chosen"].logps, policy["chosen"].mask)))
    if "reference" not in objective.needs:  # a response said twice: a sum doubles, a mean stays
        factor = {"sum": 2, "mean": 1}[objective.logp_reduction]
        torch.testing.assert_close(objective.implicit_reward(grown, None), factor * rewards["chosen"])


def test_every_objective_says_what_it_makes_of_log_probs():
    sums = {name for name, card in OBJECTIVES.items() if card.spec.logp_reduction == "sum"}
    assert sums == {"dpo", "cpo", "kto", "rloo"}
    assert set(REWARDING) == {"dpo", "cpo", "kto", "ipo", "simpo", "orpo"}

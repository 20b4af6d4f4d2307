"""The relativistic average GAN and the small networks, apart from any paper that uses them."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from methods.discriminators import (
    EncoderLayer,
    MLPDiscriminator,
    Rows,
    TransformerDiscriminator,
    iterate_power,
    masked_mean,
    spectral_linear,
)
from methods.gan import (
    RelativisticDiscriminator,
    States,
    accuracy,
    adversarial_loss,
    correlation,
    join,
    relativistic_loss,
)

bce = F.binary_cross_entropy_with_logits


def small_transformer(
    hidden_size: int = 8, *, dropout: float = 0.0, max_positions: int = 16
) -> TransformerDiscriminator:
    return TransformerDiscriminator(
        hidden_size, width=16, layers=2, heads=2, feed_forward=32, dropout=dropout, max_positions=max_positions
    )


NETWORKS = {"transformer": small_transformer, "mlp": lambda: MLPDiscriminator(8, width=16)}


def test_relativistic_loss_is_two_cross_entropies_against_the_other_sets_mean():
    winner, loser = torch.randn(4), torch.randn(4)
    expected = bce(winner - 0.3, torch.ones(4)) + bce(loser - -0.2, torch.zeros(4))
    torch.testing.assert_close(relativistic_loss(winner, loser, torch.tensor(-0.2), torch.tensor(0.3)), expected)


def test_adversarial_loss_is_the_cross_entropy_of_being_real_or_minus_that_of_being_fake():
    lead = torch.randn(5)
    torch.testing.assert_close(adversarial_loss(lead), bce(lead, torch.ones(5)))
    torch.testing.assert_close(adversarial_loss(lead, saturating=True), -bce(lead, torch.zeros(5)))


def test_saturating_and_non_saturating_differ_where_the_discriminator_wins():
    """Far behind, the saturating gradient vanishes and the other does not; both push the fake's logit up."""
    gradients = []
    for saturating in (True, False):
        lead = torch.tensor([-8.0], requires_grad=True)
        adversarial_loss(lead, saturating=saturating).backward()
        gradients.append(lead.grad.item())
    assert -1e-3 < gradients[0] < 0
    assert gradients[1] == pytest.approx(-1, abs=1e-3)


def test_a_tie_is_half_right():
    torch.testing.assert_close(accuracy(torch.tensor([2.0, 0.0, -0.1])), torch.tensor([1.0, 0.5, 0.0]))


def test_correlation_is_pearsons_and_zero_without_variation():
    x, y = torch.randn(9), torch.randn(9)
    assert correlation(x, y).item() == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)
    assert correlation(x, torch.full((9,), 3.0)) == 0


def test_masked_mean_is_each_rows_own():
    values = torch.randn(2, 3, 4)
    mean = masked_mean(values, torch.tensor([[True, True, False], [True, False, False]]))
    torch.testing.assert_close(mean, torch.stack([values[0, :2].mean(0), values[1, 0]]))


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_score_depends_on_nothing_outside_the_mask(kind):
    network, hidden = NETWORKS[kind]().eval(), torch.randn(2, 6, 8)
    mask = torch.arange(6) < torch.tensor([[4], [6]])
    garbage = torch.where(mask.unsqueeze(-1), hidden, 100 * torch.randn(2, 6, 8))
    torch.testing.assert_close(network(garbage, mask), network(hidden, mask))
    torch.testing.assert_close(network(hidden[:1, :4], mask[:1, :4]), network(hidden, mask)[:1])


def test_the_transformer_sees_order_and_the_mlp_does_not():
    hidden, mask = torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool)
    for kind, sees in (("transformer", True), ("mlp", False)):
        network = NETWORKS[kind]().eval()
        turned = network(hidden.flip(1), mask)
        assert (not torch.allclose(network(hidden, mask), turned, atol=1e-6)) == sees


@pytest.mark.parametrize("kind", NETWORKS)
def test_discriminators_work_in_float32_inside_autocast(kind):
    network, hidden = NETWORKS[kind]().eval(), torch.randn(2, 6, 8).bfloat16()
    mask = torch.ones(2, 6, dtype=torch.bool)
    plain = network(hidden.float(), mask)
    with torch.autocast("cpu", torch.bfloat16):
        scores = network(hidden, mask)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, plain, rtol=0, atol=0)


@pytest.mark.parametrize("padded", [False, True], ids=["tokens alone", "in padded rows, as on a GPU"])
def test_a_layer_and_its_gradients_equal_torchs(padded):
    ours = EncoderLayer(16, 2, 32, dropout=0.0).double()
    theirs = nn.TransformerEncoderLayer(16, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).double()
    for parameter in ours.parameters():  # biases and norms away from where they start
        nn.init.normal_(parameter, std=0.3)
    names = {"attention_in": "self_attn.in_proj_", "attention_out": "self_attn.out_proj.", "attention_norm": "norm1."}
    names |= {"norm": "norm2.", "inner": "linear1.", "outer": "linear2."}
    state = {names[key.split(".")[0]] + key.split(".")[1]: value for key, value in ours.state_dict().items()}
    theirs.load_state_dict(state)
    mask = torch.arange(6) < torch.tensor([[4], [6], [1]])
    hidden, weights = torch.randn(3, 6, 16, dtype=torch.float64), torch.randn(3, 6, 16, dtype=torch.float64)
    rows = Rows(mask)
    if padded:
        rows._places = None
    mine = rows.put(ours(rows.take(hidden), rows))
    plain = theirs(hidden, src_key_padding_mask=~mask)
    torch.testing.assert_close(mine[mask], plain[mask])
    (mine * weights)[mask].sum().backward()
    (plain * weights)[mask].sum().backward()
    torch.testing.assert_close(ours.attention_in.weight.grad, theirs.self_attn.in_proj_weight.grad)
    torch.testing.assert_close(ours.inner.weight.grad, theirs.linear1.weight.grad)


def test_weights_start_xavier_uniform_biases_at_zero_and_no_two_layers_alike():
    network = small_transformer()
    first, second = network.layers
    assert not torch.equal(first.attention_in.weight, second.attention_in.weight)
    limit = (6 / (16 + 32)) ** 0.5
    assert limit * 0.9 < first.inner.weight.abs().max() <= limit
    assert all(not p.any() for name, p in network.named_parameters() if name.endswith("bias"))
    assert network.positions.std().item() == pytest.approx(0.02, rel=0.3)


def test_a_sequence_beyond_the_last_position_is_refused_by_name():
    network = small_transformer(max_positions=4)
    with pytest.raises(ValueError, match=r"5 tokens exceeds the discriminator's 4 positions; raise latent.max_pos"):
        network(torch.randn(1, 5, 8), torch.ones(1, 5, dtype=torch.bool))


def normalised_layers(network: nn.Module) -> list[nn.Linear]:
    return [m for m in network.modules() if isinstance(m, nn.Linear) and nn.utils.parametrize.is_parametrized(m)]


@pytest.mark.parametrize("kind", ["transformer", "mlp"])
def test_the_largest_singular_value_is_one_at_the_start_and_after_20_updates(kind):
    """At the published width, where power iteration is slowest, on SmolLM2's hidden size."""
    if kind == "mlp":
        network = MLPDiscriminator(576, width=512)
    else:
        network = TransformerDiscriminator(
            576, width=512, layers=1, heads=8, feed_forward=256, dropout=0.1, max_positions=8
        )

    def largest() -> list[float]:
        network.eval()
        return [torch.linalg.svdvals(layer.weight)[0].item() for layer in normalised_layers(network)]

    assert len(largest()) == 3
    assert largest() == pytest.approx([1] * 3, rel=0.05)
    before = [layer.parametrizations.weight.original.clone() for layer in normalised_layers(network)]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    for _ in range(20):
        network.train()
        scores = network(torch.randn(4, 6, 576), torch.ones(4, 6, dtype=torch.bool))
        optimizer.zero_grad()
        F.softplus(torch.tensor([1.0, -1, 1, -1]) * scores).mean().backward()
        optimizer.step()
        iterate_power(network)
    after = [layer.parametrizations.weight.original for layer in normalised_layers(network)]
    assert all((a - b).norm() > 0.01 * b.norm() for a, b in zip(after, before, strict=True))
    assert largest() == pytest.approx([1] * 3, rel=0.05)


def test_spectral_linear_in_evaluation_mode_is_a_constant_function():
    layer, x = spectral_linear(6, 5).eval(), torch.randn(3, 6)
    torch.testing.assert_close(layer(x), layer(x), rtol=0, atol=0)


class First(nn.Module):
    """Scores a sequence by the first number of its first state: known logits."""

    def forward(self, hidden, mask):
        return hidden[:, 0, 0]


def logits(*values: float) -> States:
    return States(
        torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1), torch.ones(len(values), 1, dtype=torch.bool)
    )


def test_means_start_at_the_first_batch_and_move_once_a_step():
    net = RelativisticDiscriminator(First(), ("a", "b"))
    first = net({"a": logits(1, 3), "b": logits(0, 0)})
    assert (first.means["a"], first.means["b"]) == (2, 0)
    net.end_step(0.9)
    assert net.means.tolist() == [2, 0]
    second = net({"a": logits(5, 5), "b": logits(1, 1)})
    assert (second.means["a"], second.means["b"]) == (2, 0)
    net.end_step(0.9)
    assert net.means.tolist() == pytest.approx([0.9 * 2 + 0.1 * 5, 0.1])


def test_micro_batches_of_a_step_share_the_means_from_before_it_and_count_by_rows():
    net = RelativisticDiscriminator(First(), ("a", "b"))
    net({"a": logits(1), "b": logits(1)})
    net.end_step(0.5)
    for a in (logits(2, 2, 2), logits(6)):
        assert net({"a": a, "b": logits(0)}).means["a"] == 1
    net.end_step(0.5)
    assert net.means.tolist() == [0.5 * 1 + 0.5 * 3, 0.5]


def test_the_first_step_runs_from_what_it_has_seen_so_far():
    net = RelativisticDiscriminator(First(), ("a",))
    assert net({"a": logits(1, 1)}).means["a"] == 1
    assert net({"a": logits(4)}).means["a"] == 2
    net.end_step(0.9)
    assert net.means.tolist() == [2]


def test_in_evaluation_mode_one_set_alone_is_scored_and_nothing_moves():
    net = RelativisticDiscriminator(First(), ("a", "b"))
    net({"a": logits(1), "b": logits(2)})
    net.end_step(0.9)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    scores = net.eval()({"a": logits(7)})
    assert scores.logits["a"].tolist() == [7]
    assert (scores.means["a"], scores.means["b"]) == (1, 2)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_step_in_which_nothing_was_counted_does_not_end():
    with pytest.raises(AssertionError, match="without a forward in training mode"):
        RelativisticDiscriminator(First(), ("a",)).end_step(0.9)


def test_a_checkpoint_in_the_middle_of_a_step_continues_exactly():
    halves = [{"a": logits(0.3, 1.7), "b": logits(2.0, 0.1)}, {"a": logits(5.5), "b": logits(1.1)}]
    straight, resumed = (RelativisticDiscriminator(First(), ("a", "b")) for _ in range(2))
    straight(halves[0])
    resumed.load_state_dict(straight.state_dict())
    for net in (straight, resumed):
        net(halves[1])
        net.end_step(0.9)
    assert torch.equal(straight.means, resumed.means)


def test_scores_of_joined_sets_are_those_of_each_set_alone():
    net = RelativisticDiscriminator(small_transformer(), ("short", "long")).eval()
    groups = {
        "short": States(torch.randn(3, 4, 8), torch.arange(4) < torch.tensor([[2], [4], [1]])),
        "long": States(torch.randn(2, 7, 8), torch.arange(7) < torch.tensor([[7], [3]])),
    }
    together = net(groups).logits
    for name, group in groups.items():
        torch.testing.assert_close(together[name], net.network(group.hidden, group.mask))
    assert join(list(groups.values())).mask.sum() == 17

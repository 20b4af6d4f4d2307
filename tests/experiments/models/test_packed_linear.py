"""oneDNN in place of MKL: the same numbers within float error, and nothing left behind."""

import pytest
import torch
from torch import nn

from experiments.models import packed_linear
from experiments.models.packed_linear import packed_linears


@pytest.mark.parametrize("limit", [0, 2**31])
@pytest.mark.parametrize("bias", [True, False])
def test_products_agree_within_float_error_for_any_number_of_rows(monkeypatch, limit, bias):
    monkeypatch.setattr(packed_linear, "MAX_COPY", limit)
    layer = nn.Linear(48, 80, bias=bias)
    for shape in [(1, 48), (16, 48), (3, 1, 48), (2, 37, 48)]:
        rows = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        expected = layer(rows)
        with torch.no_grad(), packed_linears(layer):
            result = layer(rows)
        assert result.shape == expected.shape
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_layers_take_oneDNNs_path_only_inside_and_only_where_it_is_the_same_product():
    class Doubled(nn.Linear):
        def forward(self, rows):
            return 2 * super().forward(rows)

    net = nn.Sequential(nn.Linear(8, 8), Doubled(8, 8), nn.Linear(8, 8).double(), nn.Linear(8, 8).bfloat16())
    with packed_linears(net):
        assert ["forward" in vars(layer) for layer in net] == [True, False, False, False]
    with pytest.raises(ZeroDivisionError), packed_linears(net):
        1 / 0  # noqa: B018
    assert not any("forward" in vars(layer) for layer in net)
    net[0](torch.randn(2, 8)).sum().backward()
    assert net[0].weight.grad is not None


def test_a_change_of_the_weights_counts_the_next_time():
    layer, rows = nn.Linear(8, 8), torch.ones(1, 8)
    with torch.no_grad():
        with packed_linears(layer):
            before = layer(rows)
        layer.weight += 1
        with packed_linears(layer):
            torch.testing.assert_close(layer(rows), before + 8)

"""oneDNN's product in training: torch's values and gradients, and torch's layer wherever ours does not apply."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.models.linear import Linear, product, use_onednn

SHAPES = [((2, 40), 24, 48), ((80,), 48, 24), ((3, 30), 16, 16)]


@pytest.mark.parametrize(("rows", "width", "out"), SHAPES)
def test_product_and_both_gradients_are_torchs(rows: tuple[int, ...], width: int, out: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(*rows, width), torch.randn(out, width)
    grad = torch.randn(*rows, out)
    made = {}
    for name, function in (("ours", product), ("torch", F.linear)):
        inputs = x.clone().requires_grad_(), weight.clone().requires_grad_()
        value = function(*inputs)
        value.backward(grad)
        made[name] = (value.detach(), inputs[0].grad, inputs[1].grad)
    for ours, torchs in zip(made["ours"], made["torch"], strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-5, atol=1e-5)


def test_frozen_weight_gets_no_gradient_and_passes_it_on() -> None:
    x, weight = torch.randn(40, 8, requires_grad=True), torch.randn(6, 8)
    product(x, weight).sum().backward()
    assert weight.grad is None
    torch.testing.assert_close(x.grad, weight.sum(0).expand(40, 8))


def test_bias_is_added() -> None:
    layer = nn.Linear(8, 6)
    x = torch.randn(50, 8)
    expected = layer(x)
    use_onednn(layer)
    assert type(layer) is Linear
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_torchs_bit_for_bit(dtype: torch.dtype) -> None:
    x, weight = torch.randn(50, 8, dtype=dtype), torch.randn(6, 8, dtype=dtype)
    assert torch.equal(product(x, weight), F.linear(x, weight))


def test_autocast_is_left_to_torch() -> None:
    x, weight = torch.randn(50, 8), torch.randn(6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert product(x, weight).dtype == torch.bfloat16


def test_layers_keep_their_parameters_and_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    before = model.state_dict()
    use_onednn(model)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

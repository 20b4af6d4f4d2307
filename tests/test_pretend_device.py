"""The pretend device refuses what CUDA refuses and lets through what it lets through."""

import pytest
import torch

from tests.pretend_device import CUDA, DeviceError, PretendDevice


@pytest.fixture
def device():
    with PretendDevice() as made:
        yield made


def test_a_tag_follows_the_data_and_its_views(device):
    made = torch.ones(2, 3, device="cuda")
    assert made.device == CUDA
    assert (made @ made.T)[0].device == CUDA
    assert made.cpu().device.type == "cpu"
    assert torch.zeros(2).to(made).device == CUDA
    assert made.new_tensor(1.0).device == made.new_zeros(2).device == CUDA
    assert torch.zeros(2).new_tensor(1.0).device.type == "cpu"
    assert torch.zeros(2).device.type == "cpu"


def test_operations_on_both_sides_are_refused(device):
    here, there = torch.ones(2, 2), torch.ones(2, 2, device="cuda")
    for mixed in (
        lambda: here + there,
        lambda: here @ there,
        lambda: torch.cat([here, there]),
        lambda: here[there > 0],
    ):
        with pytest.raises(DeviceError, match="cuda and cpu"):
            mixed()
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()


def test_what_cuda_permits_is_permitted(device):
    there = torch.ones(3, device="cuda")
    assert (there * torch.tensor(2.0)).device == CUDA
    assert there[torch.tensor([0, 1])].device == CUDA
    there.copy_(torch.zeros(3))


def test_copies_to_the_host_are_counted(device):
    there = torch.ones(3, device="cuda")
    assert not device.host_copies
    there.cpu()
    there.sum().item()
    there.tolist()
    assert sum(device.host_copies.values()) >= 3


def test_gradients_and_optimizers_stay_on_the_device(device):
    layer = torch.nn.Linear(3, 2).to("cuda")
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 3, device="cuda")).sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.device == CUDA
    optimizer.step()
    assert layer.weight.device == CUDA


def test_nothing_is_pretended_afterwards():
    with PretendDevice():
        made = torch.ones(2, device="cuda")
    assert made.device.type == "cpu"

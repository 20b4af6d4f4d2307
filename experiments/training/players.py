"""Trainable networks besides the policy, each with its optimizer and its own random state."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from experiments.models.linear import use_onednn
from experiments.models.sharding import like
from methods.protocols import Adversary, Critic, Learner, Part


@dataclass
class Player:
    """A part, the network it brought (as it is, and as accelerate wrapped it), its optimizer if it learns."""

    spec: Part
    net: nn.Module | None
    wrapped: Any
    optimizer: Any
    lr: float

    def state(self) -> dict[str, Tensor]:
        """Network, optimizer and the gradients that wait for their update, by name."""
        name = self.spec.name
        if self.net is None:
            return {}
        tensors = {f"{name}/net/{key}": value for key, value in self.net.state_dict().items()}
        if self.optimizer is not None:
            tensors |= optimizer_state(name, self.optimizer)
            grads = {key: p.grad for key, p in self.net.named_parameters() if p.grad is not None}
            tensors |= {f"{name}/grad/{key}": grad for key, grad in grads.items()}
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        if self.net is None:
            return
        prefix = f"{self.spec.name}/net/"
        self.net.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        if self.optimizer is not None:
            load_optimizer(self.spec.name, self.optimizer, tensors)
            for key, parameter in self.net.named_parameters():
                grad = tensors.get(f"{self.spec.name}/grad/{key}")
                parameter.grad = None if grad is None else grad.to(parameter.device).clone()


def make_player(
    spec: Part, scorers: Mapping[str, nn.Module], *, hidden_size: int, seed: int, policy_lr: float, accelerator: Any
) -> Player:
    """The player of a part; its network is one of `scorers` (by the part's name) or what the part builds."""
    net = scorers.get(spec.name)
    if net is None and isinstance(spec, Learner):
        with private_randomness(seed, spec.name, "build"):
            net = spec.build(hidden_size)
    rate = spec.critic_lr if isinstance(spec, Critic) else getattr(spec, "lr", None)
    lr = policy_lr / 2 if rate is None else rate
    if net is None:
        return Player(spec, None, None, None, lr)
    use_onednn(net)
    if isinstance(spec, Critic) or (isinstance(spec, Adversary) and spec.learns):
        wrapped, optimizer = accelerator.prepare(net, AdamW(net.parameters(), lr=lr, weight_decay=0.0, fused=True))
        return Player(spec, net, wrapped, optimizer, lr)
    net.requires_grad_(False).to(accelerator.device)
    return Player(spec, net, net, None, lr)


@contextmanager
def private_randomness(*source: object) -> Iterator[None]:
    """The global generator seeded from `source`, and given back as it was: one player's draws change no other's."""
    seed = int.from_bytes(hashlib.sha256(repr(source).encode()).digest()[:8], "big") >> 1
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[nn.Module | None]:
    """Let gradients pass through `module`, in evaluation mode, but not into it."""
    if module is None:
        yield None
        return
    before, training = [p.requires_grad for p in module.parameters()], module.training
    module.requires_grad_(False).eval()
    try:
        yield module
    finally:
        module.train(training)
        for parameter, flag in zip(module.parameters(), before, strict=True):
            parameter.requires_grad_(flag)


def optimizer_state(name: str, optimizer: Any) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{name}/optimizer/{i}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(name: str, optimizer: Any, tensors: Mapping[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for key, value in tensors.items():
        if key.startswith(f"{name}/optimizer/"):
            i, field = key.removeprefix(f"{name}/optimizer/").split("/")
            entry = state.setdefault(int(i), {})
            entry[field] = like(value.clone(), parameters[int(i)]) if value.dim() else value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})

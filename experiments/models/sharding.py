"""FSDP2 without accelerate's part of it: the policy's weights, gradients and optimizer lie in shards, one a process.

accelerate prepares one model, on GPUs only. Here the policy is sharded layer by layer by torch's `fully_shard`, on any
device, and what is small (discriminators, other players' networks) is replicated, its gradients averaged by DDP.
Checkpoints hold whole tensors, so that another number of processes can go on from them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from experiments.models.forward import Policy


def is_asked_for() -> bool:
    """Whether the launcher was: `accelerate launch --use_fsdp`, or ACCELERATE_USE_FSDP=true."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def num_shards() -> int:
    """Number of shards of a policy: the launcher's processes if sharding is asked for, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1")) if is_asked_for() else 1


def agreed(decision: bool) -> bool:
    """The main process's decision, on every process."""
    decisions = [decision]
    torch.distributed.broadcast_object_list(decisions, src=0)
    return decisions[0]


class Sharding:
    """Stands where a trainer has its accelerator, if policies are to be sharded."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.accelerator, name)

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The module with its gradients averaged over processes, and the optimizer on its parameters as they are now.

        A policy is changed in place; anything else is wrapped.
        """
        module.to(self.accelerator.device)
        if not isinstance(module, Policy):
            return DistributedDataParallel(module), optimizer
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        for layer in _layers(module):
            fully_shard(layer, mesh=self.mesh)
        fully_shard(module, mesh=self.mesh, reshard_after_forward=False)  # its backward begins with the head
        sharded = dict(module.named_parameters())
        for group in optimizer.param_groups:
            group["params"] = [sharded[names[id(parameter)]] for parameter in group["params"]]
        return module, optimizer

    def no_sync(self, module: nn.Module) -> contextlib.AbstractContextManager[None]:
        """Skips synchronisation of replicated models only: a sharded policy's gradients go to their shards at once,
        since whole they may not fit.
        """
        return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def clip_grad_norm_(self, parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
        return whole(nn.utils.clip_grad_norm_(parameters, limit))


def whole(tensor: Tensor, *, keep: bool = True) -> Tensor:
    """All of a sharded tensor, on the CPU of the processes that keep it (but all must ask); any other as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered = tensor.full_tensor()
    return gathered.cpu() if keep else gathered.new_empty(0)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """A whole tensor in the shards of `model`, if that has any."""
    if not isinstance(model, DTensor):
        return tensor
    return distribute_tensor(tensor.to(model.device), model.device_mesh, model.placements)


def whole_state(module: nn.Module, *, keep: bool) -> Mapping[str, Tensor]:
    """Every tensor of the module, as `whole` gives it."""
    return {name: whole(value.detach(), keep=keep) for name, value in module.state_dict().items()}


def _layers(policy: Policy) -> list[nn.Module]:
    """The decoder layers: the longest list of equal modules."""
    lists = [list(module) for module in policy.causal.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len, default=[])

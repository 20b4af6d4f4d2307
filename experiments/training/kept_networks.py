"""The networks that were trained against a policy, kept beside it: `players/<name>.safetensors` of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import load_file, save_file
from torch import nn

from experiments.disk import num_bytes, writing
from methods.protocols import Learner

if TYPE_CHECKING:
    from experiments.training.players import Player


def save(folder: Path, players: Iterable[Player]) -> None:
    """Keep every player that has a network."""
    for player in players:
        if player.net is not None:
            keep(folder, player.spec.name, player.net)


def keep(folder: Path, name: str, net: nn.Module) -> None:
    """Write `folder`/<name>.safetensors, whole or not at all. DiskFull where it has no room."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{name}.part"
    tensors = {key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()}
    with writing(temporary, num_bytes(tensors), discard=True):
        save_file(tensors, temporary)
        temporary.replace(folder / f"{name}.safetensors")


def load(folder: Path, spec: Learner, hidden_size: int) -> nn.Module | None:
    """The network of `spec` as its run left it, frozen and in evaluation mode; None if it has none by design.

    Raises ValueError for a run that kept none, or one of another architecture.
    """
    net = spec.build(hidden_size)
    if net is None:
        return None
    path = folder / f"{spec.name}.safetensors"
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: the run was made before networks were kept; train it again in a new --out"
        )
    restore(path, net)
    return net.requires_grad_(False).eval()


def restore(path: Path, net: nn.Module) -> None:
    """Give `net` the weights in `path`. ValueError for those of another architecture."""
    try:
        net.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network that its run describes: {error}") from None

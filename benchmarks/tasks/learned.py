"""The networks that a run learned to judge with: its discriminators, the reward models of each round, and the model it
started from.
"""

from __future__ import annotations

import filecmp
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from benchmarks.tasks import Subject

if TYPE_CHECKING:
    from torch import Tensor, nn

    from experiments.models.forward import Policy
    from experiments.rewards.reward_models import RewardModel
    from experiments.run_folder import RunFolder
    from methods.types import Outputs


@runtime_checkable
class SequenceScorer(Protocol):
    """A regularizer whose network says something about any response."""

    def sequence_scores(self, net: nn.Module, outputs: Outputs) -> Mapping[Any, Tensor]: ...


@runtime_checkable
class TextScorer(Protocol):
    """A part whose network reads text: the name of what it starts from, which brings its own tokenizer."""

    name: ClassVar[str]
    scorer: str
    rm_max_length: int


def untrained(subject: Subject) -> tuple[Policy, Any]:
    """The model that training started from, and the context in which it is that."""
    policy = subject.policy
    if policy.has_adapter:
        return policy, policy.adapter_disabled
    if subject.method is None:  # the untrained model is its own reference
        return policy, nullcontext
    if subject.untrained is None:
        raise ValueError("a fully trained policy is compared with the model that training started from: none was given")
    context: type[AbstractContextManager[None]] = nullcontext
    return subject.untrained(), context


def discriminators(subject: Subject) -> list[tuple[Any, nn.Module]]:
    """The parts of the run's method that score a response, each with the network that the run left."""
    from experiments.training import kept_networks

    found = []
    for part in subject.method.regularizers if subject.method is not None else ():
        if isinstance(part, SequenceScorer):
            net = kept_networks.load(subject.run.players, part, subject.policy.hidden_size)  # type: ignore[arg-type]
            if net is not None:
                found.append((part, net.to(subject.policy.device)))
    return found


def reward_models(subject: Subject, *, only_last: bool = False) -> Iterator[tuple[str, RewardModel]]:
    """`("round 1", its reward model)`, …, each until the next is asked for: one network takes the weights of all.

    A discriminator that scores a response given another (AAPA's) is no reward model. Raises ValueError for weights that
    do not fit the network that the run describes.
    """
    from experiments.rewards import reward_models
    from experiments.rewards.scorers import is_fixed
    from experiments.training.kept_networks import restore

    for part in subject.method.parts.values() if subject.method is not None else ():
        if not isinstance(part, TextScorer) or is_fixed(part):
            continue
        kept = _kept(subject.run, part.name)[-1 if only_last else 0 :]
        if not kept:
            continue
        alone = part.scorer == reward_models.BACKBONE and not subject.policy.has_adapter
        net = reward_models.reward_model(
            part.scorer,
            policy=subject.policy,
            policy_tokenizer=subject.tokenizer,
            seed=0,
            max_length=part.rm_max_length,
            reference=untrained(subject)[0] if alone else None,
        )
        for label, path in kept:
            restore(path, net)
            yield label, net


def _kept(run: RunFolder, name: str) -> list[tuple[str, Path]]:
    """`[("round 1", …/name-round0.safetensors), …]`, or the one network of a run without rounds.

    A run keeps its first rounds, and its last network by the name of the part: of a longer run that is the last entry.
    """
    folder = run.players
    last = folder / f"{name}.safetensors"
    rounds = {int(path.stem.rpartition("-round")[2]): path for path in folder.glob(f"{name}-round*.safetensors")}
    if not rounds:
        return [("reward model", last)] if last.is_file() else []
    kept = [(f"round {number + 1}", path) for number, path in sorted(rounds.items())]
    number = sum(f"{name}/tokens_consumed" in step for step in run.steps())
    if number > max(rounds) + 1 and last.is_file() and not filecmp.cmp(last, kept[-1][1], shallow=False):
        kept.append((f"round {number}", last))
    return kept

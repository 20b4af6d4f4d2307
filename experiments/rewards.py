"""What judges the text of a sample from outside the method: the verifiers that a data set brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args, runtime_checkable

from experiments.data import Example
from experiments.splits import Split
from methods.protocols import Method, Rewarder

if TYPE_CHECKING:
    from experiments.verifiers import ConstraintPrompt


@runtime_checkable
@runtime_checkable
class Reward(Protocol):
    """A number for each response; `rows[i]` is the row of the data whose prompt `responses[i]` answers."""

    def __call__(self, rows: Sequence[Example], responses: Sequence[str]) -> Sequence[float]: ...


@dataclass(frozen=True)
class Sum:
    """Several rewards as one: `Sum(((verified, 1.0), (brevity, 0.1)))`."""

    terms: tuple[tuple[Reward, float], ...]

    def __call__(self, rows: Sequence[Example], responses: Sequence[str]) -> Sequence[float]:
        given = [[weight * value for value in reward(rows, responses)] for reward, weight in self.terms]
        return [sum(values) for values in zip(*given, strict=True)]


@dataclass(frozen=True)
class Verified:
    """The share of its prompt's constraints that a response keeps, from 0 to 1."""

    prompts: Mapping[str, ConstraintPrompt]  # by prompt id

    def __call__(self, rows: Sequence[Example], responses: Sequence[str]) -> Sequence[float]:
        from experiments import verifiers

        constraints = [self.prompts[row.prompt_id].constraints for row in rows]
        return [verifiers.reward(own, text) for own, text in zip(constraints, responses, strict=True)]


def verifier_of(examples: Sequence[Example]) -> Reward | None:
    """The verifiers of these rows' prompts; None if there are none for one of them."""
    from experiments import verifiers

    known = {prompt.prompt_id: prompt for split in get_args(Split) for prompt in verifiers.load_prompts(split)}
    return Verified(known) if all(example.prompt_id in known for example in examples) else None


def check_reward(name: str, method: Method, *, dataset: str, verifier: Reward | None) -> None:
    """ValueError for a method whose samples nothing would reward, or that reads samples which it does not keep."""
    if not method.on_policy:
        return
    keep = method.sampling.keep
    if keep == "pair" and "sampled" in method.forwards:
        raise ValueError(f"{name} reads sampled, and sampling.keep=pair leaves only chosen and rejected; use keep=all")
    if keep == "all" and "sampled" not in method.forwards:
        raise ValueError(f"{name} draws samples that no part learns from; use sampling.keep=pair, or grpo or raft")
    is_rewarded = any(isinstance(part, Rewarder) and part.reward_weight for part in method.regularizers)
    if is_rewarded or (keep == "all" and "sampled" not in method.objective.reads):
        return
    if verifier is None:
        raise ValueError(
            f"{name} needs a reward for its samples, and {dataset} has no verifiers: use --dataset constraints, or a"
            " method with a reward model"
        )
    if not method.sampling.verifier_weight:
        raise ValueError(f"{name} has nothing that rewards its samples; set sampling.verifier_weight above 0")

"""What judges the text of a sample from outside the method: the verifiers that a data set brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args, runtime_checkable

from experiments.data.splits import Split
from experiments.data.tokens import Example
from methods.aapa import Anchor
from methods.apo import AdversarialReward
from methods.chord import CHORD
from methods.gapo import EncoderAdversary
from methods.grpo import GRPO
from methods.protocols import Method, Part, Rewarder

if TYPE_CHECKING:
    from experiments.verifiers.verifiers import ConstraintPrompt

FITTED = (AdversarialReward, EncoderAdversary)  # whose networks learn in rounds, beside the policy


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

    prompts: Mapping[str, ConstraintPrompt]  # by id

    def __call__(self, rows: Sequence[Example], responses: Sequence[str]) -> Sequence[float]:
        from experiments.verifiers import verifiers

        constraints = [self.prompts[row.asked_id].constraints for row in rows]
        return [verifiers.reward(own, text) for own, text in zip(constraints, responses, strict=True)]


def verifier_of(examples: Sequence[Example]) -> Reward | None:
    """The verifiers of the prompts that are answered for these rows; None if there are none for one of them."""
    from experiments.verifiers import verifiers

    known = {prompt.prompt_id: prompt for split in get_args(Split) for prompt in verifiers.load_prompts(split)}
    return Verified(known) if all(example.asked_id in known for example in examples) else None


def check_reward(name: str, method: Method, *, dataset: str, verifier: Reward | None) -> None:
    """ValueError for a method whose samples nothing would reward, whose reward nothing would read, or that reads
    samples which it does not keep."""
    if not method.on_policy:
        return
    sampling = method.sampling
    if sampling.keep == "pair" and "sampled" in method.forwards:
        raise ValueError(f"{name} reads sampled, and sampling.keep=pair leaves only chosen and rejected; use keep=all")
    if sampling.keep != "pair" and "sampled" not in method.forwards:
        raise ValueError(f"{name} draws samples that no part learns from; use sampling.keep=pair, or grpo or raft")
    learnt = [part.name for part in method.regularizers if isinstance(part, FITTED)]
    if len(learnt) > 1:
        raise ValueError(
            f"{name} has two reward models to fit, {' and '.join(learnt)}, and a run's rounds fit one: the others would"
            " reward as random networks; keep one of them"
        )
    judging = [part.name for part in (method.objective, *method.regularizers) if _judges_groups(part)]
    kept = sampling.num_generations if sampling.keep == "all" else 1
    if judging and kept < 2:
        remedy = " or aapa.mode=reward" if judging == [Anchor.name] else ""
        raise ValueError(
            f"{name} keeps one sample of a prompt (sampling.keep={sampling.keep}, num_generations"
            f" {sampling.num_generations}), and {' and '.join(judging)} judges each against the others; use keep=all"
            f" and num_generations of at least 2{remedy}"
        )
    rewarding = [part.name for part in method.regularizers if isinstance(part, Rewarder) and part.reward_weight]
    is_read = sampling.keep == "pair" or "sampled" in method.objective.reads
    if rewarding and not is_read:
        raise ValueError(
            f"{name} pays for samples and for the reward of {' and '.join(rewarding)}, which {method.objective.name}"
            " does not read; use an objective on samples such as grpo"
        )
    if rewarding or not is_read:
        return
    if verifier is None:
        raise ValueError(
            f"{name} needs a reward for its samples, and {dataset} has no verifiers: use --dataset constraints, or a"
            " method with a reward model"
        )
    if not sampling.verifier_weight:
        raise ValueError(f"{name} has nothing that rewards its samples; set sampling.verifier_weight above 0")


def _judges_groups(part: Part) -> bool:
    """Whether the part compares a sample with the others of its prompt, and cannot do with one alone."""
    return isinstance(part, GRPO | CHORD) or (isinstance(part, Anchor) and part.mode == "loss")

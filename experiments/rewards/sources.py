"""Rewards from outside the method: the verifiers that a data set brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, get_args, runtime_checkable

from experiments.data.splits import Split
from experiments.data.tokens import Example
from methods.protocols import Curricular, Method, Rewarder, SampleJudge, TextLearner

if TYPE_CHECKING:
    from experiments.verifiers.verifiers import ConstraintPrompt


@runtime_checkable
class Reward(Protocol):
    """A number for each response; `rows[i]` is the row of the data whose prompt `responses[i]` answers."""

    def __call__(self, rows: Sequence[Example], responses: Sequence[str]) -> Sequence[float]: ...


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
    parts = (method.objective, *method.regularizers)
    for part in parts:
        if isinstance(part, TextLearner) and not isinstance(part, Curricular):
            raise ValueError(
                f"{part.name} rewards by a network that nothing fits: declare its curriculum (once, pairs, golden or"
                " stages) and the fields rm_lr, rm_batch_size, rm_epochs and rm_max_length"
            )
    learnt = [part.name for part in parts if isinstance(part, Curricular) and part.curriculum != "once"]
    if len(learnt) > 1:
        raise ValueError(
            f"{name} has two reward models to fit, {' and '.join(learnt)}, and a run's rounds fit one: the others would"
            " reward as random networks; keep one of them"
        )
    judging = [part for part in parts if isinstance(part, SampleJudge) and part.compares_samples]
    kept = sampling.num_generations if sampling.keep == "all" else 1
    if judging and kept < 2:
        raise ValueError(
            f"{name} keeps one sample of a prompt (sampling.keep={sampling.keep}, num_generations"
            f" {sampling.num_generations}), and {' and '.join(part.name for part in judging)} judges each against the"
            " others; use keep=all and num_generations of at least 2"
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

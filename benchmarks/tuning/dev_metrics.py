"""The metrics that a search optimises, measured on the dev split, which no task of the leaderboard reads.

`dev/accuracy`, `dev/margin` and `dev/ece` are those of the task held_out, on the dev pairs, by one measure for every
method: relative to the untrained model, whatever reward the method trains. `dev/average_logp`, `…_margin` and `…_ece`
are by the average log-prob, likewise for every method: a search never compares two measures. The rest needs samples at
temperature 1 from the trained policy: `dev/length_growth` and `dev/kl` on the prompts of the dev pairs, `dev/strict`
and `dev/loose` on the dev prompts with verifiable constraints.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.tasks import Subject
from benchmarks.tasks.held_out import HeldOut
from experiments.data.tokens import Example, TokenPair
from experiments.studies.record import Direction
from registry import nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.models.forward import Policy
    from experiments.sampling.generate import Response

MEASURED = {  # of held_out's metrics
    "dev/accuracy": "relative",
    "dev/margin": "relative_margin",
    "dev/ece": "relative_ece",
    "dev/average_logp": "average_logp",
    "dev/average_logp_margin": "average_logp_margin",
    "dev/average_logp_ece": "average_logp_ece",
}
PAIR_METRICS: Mapping[str, Direction] = {name: "minimize" if name.endswith("ece") else "maximize" for name in MEASURED}
SAMPLE_METRICS: Mapping[str, Direction] = {
    "dev/mean_length": "minimize",  # tokens of a response
    "dev/length_growth": "minimize",  # of the mean length over the untrained model's: 0.1 is 10 % longer
    "dev/kl": "minimize",  # nats a response, from the untrained model; unbiased, so it may come out below 0
}
VERIFIED_METRICS: Mapping[str, Direction] = {"dev/strict": "maximize", "dev/loose": "maximize"}
COST_METRICS: Mapping[str, Direction] = {"cost/seconds": "minimize", "cost/peak_memory_bytes": "minimize"}
METRICS: Mapping[str, Direction] = {**PAIR_METRICS, **SAMPLE_METRICS, **VERIFIED_METRICS, **COST_METRICS}


@dataclass(frozen=True)
class Constraint:
    """`Constraint.parse("dev/length_growth<=0.1")`: a trial that breaks it is infeasible."""

    metric: str
    sign: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """KeyError for an unknown metric, ValueError for any other form."""
        for sign in ("<=", ">="):
            metric, found, bound = text.partition(sign)
            if found:
                try:
                    return cls(known(metric.strip()), sign, float(bound))
                except ValueError:
                    break
        raise ValueError(f"--constraint {text} is none; write METRIC<=NUMBER or METRIC>=NUMBER")

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:g}"

    def excess(self, metrics: Mapping[str, float]) -> float:
        """The amount by which the constraint is broken; at most 0 where it holds."""
        difference = metrics[self.metric] - self.bound
        return difference if self.sign == "<=" else -difference


def known(metric: str) -> str:
    """The name itself; KeyError with the nearest one for a metric that there is not."""
    if metric not in METRICS:
        raise KeyError(f"no metric {metric!r}{nearest(metric, METRICS)}")
    return metric


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """The number of prompts to answer, and the length limit of an answer."""

    num_prompts: int = 32
    max_new_tokens: int = 128
    seed: int = 0  # the run's is added


def needs_pairs(metrics: Iterable[str]) -> bool:
    """Whether one of `("dev/accuracy", "cost/seconds")` is measured on pairs of a chosen and a rejected answer."""
    return bool({f"dev/{name}" for name in PAIR_METRICS} & set(metrics))


def measure(
    subject: Subject, wanted: Iterable[str], *, sampled: Sampled, untrained_length: Callable[[], float]
) -> dict[str, float]:
    """The `dev/…` metrics of a policy; `subject.held_out` holds the dev pairs. Raises ValueError without pairs."""
    names = set(wanted)
    metrics: dict[str, float] = {}
    if names & set(PAIR_METRICS):
        found = HeldOut().evaluate(subject).metrics
        metrics |= {name: found[measured] for name, measured in MEASURED.items()}
    if names & set(SAMPLE_METRICS):
        prompts = [_prompt(example) for example in subject.held_out[: sampled.num_prompts]]
        responses = _answer(subject, prompts, sampled)
        metrics["dev/mean_length"] = mean_length(responses)
        if "dev/length_growth" in names:
            metrics["dev/length_growth"] = metrics["dev/mean_length"] / untrained_length() - 1
        if "dev/kl" in names:
            metrics["dev/kl"] = _divergence(subject, prompts, responses)
    if names & set(VERIFIED_METRICS):
        metrics |= _verified(subject, sampled)
    return metrics


def untrained_length(
    policy: Policy, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], sampled: Sampled
) -> float:
    """Tokens of a response of `policy` to the prompts of `examples`, on average."""
    from experiments.sampling.generate import generate

    prompts = [_prompt(example) for example in examples[: sampled.num_prompts]]
    settings = {"max_new_tokens": sampled.max_new_tokens, "temperature": 1.0, "seed": sampled.seed}
    return mean_length(generate(policy.model, tokenizer, prompts, **settings))  # type: ignore[arg-type]


def mean_length(responses: Sequence[Response]) -> float:
    return sum(response.num_tokens for response in responses) / len(responses)


def _prompt(example: Example) -> list[int]:
    sequence = example.sequences.get("chosen") or next(iter(example.sequences.values()))
    return [int(token) for token in sequence.prompt]


def _answer(subject: Subject, prompts: Sequence[Sequence[int]], sampled: Sampled) -> list[Response]:
    from experiments.sampling.generate import generate

    return generate(
        subject.policy.model,
        subject.tokenizer,
        prompts,
        max_new_tokens=sampled.max_new_tokens,
        temperature=1.0,
        seed=sampled.seed + (subject.seed or 0),
        progress=subject.progress,
    )


def _divergence(subject: Subject, prompts: Sequence[Sequence[int]], responses: Sequence[Response]) -> float:
    """Mean of log π − log π_ref over whole responses that π itself has drawn at temperature 1."""
    import numpy as np

    from experiments.models.forward import score

    drawn = [
        Example(i, str(i), {"sampled": TokenPair(np.array(prompt, np.int32), np.array(response.token_ids, np.int32))})
        for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]
    own = score(subject.policy, drawn, ["sampled"])
    if subject.policy.has_adapter:
        with subject.policy.adapter_disabled():
            theirs = score(subject.policy, drawn, ["sampled"])
    else:
        assert subject.untrained is not None
        theirs = score(subject.untrained(), drawn, ["sampled"])
    first, second = ([float(entry["sampled"].sum(dtype=np.float64)) for entry in scored] for scored in (own, theirs))
    return float(np.mean(np.subtract(first, second)))


def _verified(subject: Subject, sampled: Sampled) -> dict[str, float]:
    """The share of prompts all of whose constraints hold."""
    from experiments.sampling.generate import generate
    from experiments.verifiers.verifiers import load_prompts, verify

    asked = load_prompts("dev")[: sampled.num_prompts]
    responses = generate(
        subject.policy.model,
        subject.tokenizer,
        [[message._asdict() for message in prompt.messages] for prompt in asked],
        max_new_tokens=sampled.max_new_tokens,
        temperature=1.0,
        seed=sampled.seed + (subject.seed or 0),
        progress=subject.progress,
    )
    metrics = {}
    for mode, loose in {"strict": False, "loose": True}.items():
        passed = [all(verify(p.constraints, r.text, loose=loose)) for p, r in zip(asked, responses, strict=True)]
        metrics[f"dev/{mode}"] = sum(passed) / len(passed)
    return metrics


def settings(names: Iterable[str], sampled: Sampled) -> dict[str, object]:
    """The facts that make the address of an evaluation."""
    sampling = set(names) & (set(SAMPLE_METRICS) | set(VERIFIED_METRICS))
    pairs = HeldOut.revision if set(names) & set(PAIR_METRICS) else None
    return {"metrics": sorted(names), "pairs": pairs, "sampled": dataclasses.asdict(sampled) if sampling else None}

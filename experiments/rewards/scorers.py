"""The networks that a method's parts read text with: made afresh, or, where a part keeps its own fixed, trained once.

A fixed discriminator is trained before any policy, to rank a second expert response or a near-copy of the expert's
above a response of the untrained policy, given the expert's. It is filed under what decides it (data, model, settings),
so every method and seed of a comparison is anchored to the same one, to the bit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from experiments.data.tokens import Example, TokenizedData, TokenPair
from experiments.disk import num_bytes, writing
from experiments.manifest import write_json
from experiments.models.forward import Policy
from experiments.rewards.reward_fitting import RankedItem, fit, quality
from experiments.rewards.reward_models import RewardModel, reward_model
from experiments.sampling.generate import generate
from methods.protocols import Curricular, Method, TextLearner
from registry.assets import file_sha256, locked

SEED = 0  # of every fixed discriminator: there is one for all seeds of a comparison
REVISION = 1  # of how one is trained
HELD_OUT = 0.1  # of its prompts, on which its accuracy is measured


def scorers(
    method: Method,
    *,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenizedData,
    weights: str,
    folder: Path,
    seed: int,
    reference: Policy | None = None,
) -> dict[str, nn.Module]:
    """A network for each part that reads text, by the part's name. `policy` must be as it is before its first step.

    `weights` is the hash of the model that training starts from, `folder` where fixed discriminators are kept. Raises
    KeyError and AssetError as `reward_model` does, ValueError for data without expert responses.
    """
    nets: dict[str, nn.Module] = {}
    for part in (method.objective, *method.regularizers):
        if not isinstance(part, TextLearner):
            continue
        fixed = is_fixed(part)
        net = reward_model(
            part.scorer,
            policy=policy,
            policy_tokenizer=tokenizer,
            seed=SEED if fixed else seed,
            max_length=getattr(part, "rm_max_length", None),
            reference=reference,
            conditional=fixed,
        )
        if fixed and list(net.parameters()):
            longest = method.sampling.max_new_tokens
            _teach_once(part, net, policy, tokenizer, rows, folder, weights, longest)
        nets[part.name] = net
    return nets


def is_fixed(part: Any) -> bool:
    """Whether the part's network is fitted once, before any policy, and never moves again."""
    return isinstance(part, Curricular) and part.curriculum == "once"


def checksum(net: nn.Module) -> str:
    """sha-256 of a network's weights by name: the same before and after a run in which it was fixed."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def lessons(part: Any, examples: Sequence[Example], samples: Mapping[int, Sequence[TokenPair]]) -> list[RankedItem]:
    """One a prompt: a second expert response if there is one, else a near-copy, above the samples, given the expert's.

    `samples` are those of the untrained policy, by the example's place. A second expert response is another row's to
    the same prompt, or a chosen response that is not the expert's.
    """
    others: dict[str, list[TokenPair]] = {}
    for example in examples:
        others.setdefault(example.prompt_id, []).extend(
            example.sequences[role] for role in ("expert", "chosen") if role in example.sequences
        )
    made = []
    for i, example in enumerate(examples):
        expert = example.sequences["expert"]
        second = [s for s in others[example.prompt_id] if not np.array_equal(s.completion, expert.completion)]
        better = second[0] if second else near_copy(expert, part.copy_share, np.random.default_rng([SEED, i]))
        made.append(RankedItem(better, tuple(samples[i]), given=expert))
    return made


def near_copy(sequence: TokenPair, share: float, random: np.random.Generator) -> TokenPair:
    """The response without a stretch of `share` of its tokens, at least one, that spares its first and last."""
    completion = sequence.completion
    length = min(max(1, round(share * len(completion))), len(completion) - 2)
    if length < 1:
        return sequence
    start = int(random.integers(1, len(completion) - length))
    return TokenPair(sequence.prompt, np.delete(completion, slice(start, start + length)))


def _teach_once(
    part: Any,
    net: RewardModel,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenizedData,
    folder: Path,
    weights: str,
    max_new_tokens: int,
) -> None:
    """Load the discriminator's weights into `net`, after training and filing them if nobody has."""
    settings = {k: v for k, v in dataclasses.asdict(part).items() if k not in ("weight", "mode")}
    start = checksum(net)
    address = [REVISION, weights, rows.digest, start, max_new_tokens, settings]
    key = hashlib.sha256(json.dumps(address, sort_keys=True).encode()).hexdigest()[:24]
    path, facts = folder / f"{key}.safetensors", folder / f"{key}.json"
    with locked(folder / f"{key}.lock"):
        if not _is_whole(path, facts):
            learnt = _train(part, net, policy, tokenizer, rows, max_new_tokens)
            temporary = path.with_name(f"{path.name}.{os.getpid()}")
            tensors = {name: t.detach().cpu().contiguous() for name, t in net.state_dict().items()}
            with writing(temporary, num_bytes(tensors), discard=True):
                save_file(tensors, temporary)
                os.replace(temporary, path)
            write_json(facts, {"sha256": file_sha256(path), "settings": settings, **learnt})
    net.load_state_dict(load_file(path))


def _train(
    part: Any,
    net: RewardModel,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    rows: TokenizedData,
    max_new_tokens: int,
) -> dict[str, float]:
    with_expert = [example for example in rows.train if "expert" in example.sequences]
    if not with_expert:
        raise ValueError(f"aapa compares rollouts with expert responses, and {rows.name} has none")
    order = np.random.default_rng([SEED, 1]).permutation(len(with_expert))[: part.num_prompts]
    taken = [with_expert[i] for i in order]
    prompts = [row.sequences["expert"].prompt.tolist() for row in taken for _ in range(part.num_samples)]
    drawn = generate(
        policy.model, tokenizer, prompts, max_new_tokens=max_new_tokens, temperature=1.0, seed=SEED, batch_size=32
    )
    said = [np.array(response.token_ids, dtype=np.int32) for response in drawn]
    samples = {
        i: [TokenPair(row.sequences["expert"].prompt, s) for s in said[i * part.num_samples :][: part.num_samples]]
        for i, row in enumerate(taken)
    }
    taught = lessons(part, taken, samples)
    kept = max(1, len(taught) - round(HELD_OUT * len(taught)))
    loss = fit(
        net,
        taught[:kept],
        seed=SEED,
        lr=part.rm_lr,
        batch_size=part.rm_batch_size,
        epochs=part.rm_epochs,
    )
    return {"loss": loss, "num_items": kept, **{f"held_out_{k}": v for k, v in quality(net, taught[kept:]).items()}}


def _is_whole(path: Path, facts: Path) -> bool:
    try:
        return bool(json.loads(facts.read_text(encoding="utf-8"))["sha256"] == file_sha256(path))
    except (OSError, ValueError, KeyError, TypeError):
        return False

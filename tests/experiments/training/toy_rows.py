"""Rows of random tokens, and a trainer of a tiny model over them."""

from typing import Any

import numpy as np
import torch

from experiments.data.tokens import Example, TokenPair
from experiments.experiment import Precision, Training
from experiments.models.forward import Policy, score
from experiments.rewards.rollouts import RolloutSource
from experiments.training.sources import Pairs, Source
from experiments.training.trainer import Trainer
from methods import METHODS, resolve
from methods.protocols import Adversary, TextLearner
from registry import override
from tests.tiny import tiny_model, tiny_tokenizer

ROLES = ("chosen", "rejected", "expert", "mismatched")
SMALL_ADVERSARY = {"latent.width": 16, "latent.heads": 2, "latent.feed_forward": 16, "latent.layers": 1}
SMALL_FIELDS = {key.partition(".")[2]: value for key, value in SMALL_ADVERSARY.items()}
SMALL_SAMPLING = {"sampling.num_generations": 3, "sampling.max_new_tokens": 8}
# Whose networks read text: they are run in test_rounds.py
READERS = [name for name in METHODS if any(isinstance(p, TextLearner) for p in METHODS[name].spec.parts.values())]


def vowels(rows: Any, responses: Any) -> list[float]:
    """A reward that some samples earn and others do not: the share of vowels."""
    return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in responses]


def assert_same_bits(one: Trainer, other: Trainer) -> None:
    """Weights, optimizers and gradients; what a rollout logs holds the seconds that it took, so its rows are apart."""
    first, second = one.state(), other.state()
    assert first.keys() == second.keys()
    assert not [key for key, value in first.items() if not key.startswith("source/") and not value.equal(second[key])]


def small_adversaries(spec: Any) -> dict[str, Any]:
    """Values that make the networks of a method's adversaries small, by dotted name."""
    parts = [part for part in spec.regularizers if isinstance(part, Adversary)]
    return {f"{p.name}.{key}": value for p in parts for key, value in SMALL_FIELDS.items() if hasattr(p, key)}


def rows(number: int = 8) -> list[Example]:
    rng = np.random.default_rng(0)

    def draw(length: int) -> Any:
        return rng.integers(3, 200, length).astype(np.int32)

    made = []
    for i in range(number):
        prompt = draw(5 + i % 4)
        chosen = TokenPair(prompt, draw(4 + i % 5))
        sequences = {"chosen": chosen, "expert": chosen}
        sequences |= {"rejected": TokenPair(prompt, draw(6)), "mismatched": TokenPair(prompt, draw(5))}
        made.append(Example(i, str(i), sequences))
    return made


def trainer(
    name: str,
    values: dict[str, Any] | None = None,
    *,
    micro: int | None = None,
    lora: int | None = 4,
    family: str = "llama3",
    steps: int = 20,
    dtype: torch.dtype = torch.float32,
    precision: Precision = "float32",
    checkpointing: bool = False,
    **extra: Any,
) -> Trainer:
    """A method on a tiny model, at a learning rate at which something moves."""
    spec = resolve(name).spec
    small: dict[str, Any] = small_adversaries(spec) | (SMALL_SAMPLING if spec.on_policy else {})
    method = override(spec, small | (values or {}))
    policy, examples = Policy(tiny_model(family, 0), lora_rank=lora), rows()
    scored = score(policy, examples, ROLES, precision=precision)
    stored = {e.row: s for e, s in zip(examples, scored, strict=True)}
    reference = Policy(tiny_model(family, 0)) if lora is None else None
    for model in (policy, reference):
        if model is not None:
            model.to(dtype)
    if checkpointing:
        policy.checkpoint_activations()
    training = Training(steps=steps, batch_size=4, micro_batch_size=micro, lora_rank=lora, precision=precision)
    source: Source = Pairs(examples, 4, 0)
    if method.on_policy:
        drawn = {"batch_size": 4, "seed": 0, "method": method, "tokenizer": tiny_tokenizer(family)}
        source = RolloutSource(examples, **drawn, verifier=vowels)
    return Trainer(method, policy, source, training, seed=0, lr=1e-3, stored=stored, reference=reference, **extra)

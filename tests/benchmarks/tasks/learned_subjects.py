"""Policies that have moved from where they started, with the networks that a run would have left beside them."""

import numpy as np
import torch

from benchmarks.tasks import Subject
from experiments.data.tokens import Example, TokenPair
from experiments.models.forward import Policy, score
from experiments.training.kept_networks import keep
from methods.dpo import DPO
from methods.ganpo import LatentAdversary
from methods.protocols import Method
from tests.tiny import tiny_model, tiny_tokenizer

LATENT = LatentAdversary(width=16, heads=2, feed_forward=32, layers=1, dropout=0.0, max_positions=128)
PAIR = ("chosen", "rejected")


def held_out(num=12):
    rng = np.random.default_rng(0)

    def sequence(prompt):
        return TokenPair(prompt, rng.integers(3, 300, rng.integers(3, 20)).astype(np.int32))

    prompts = [rng.integers(3, 300, 8).astype(np.int32) for _ in range(num)]
    return tuple(Example(i, f"prompt-{i // 2}", {role: sequence(prompts[i // 2]) for role in PAIR}) for i in range(num))


def moved(policy, *, by=0.3):
    """The policy after its trained weights took a random step."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += by * torch.randn(parameter.shape, generator=generator)
    return policy


def subject(out, *, policy=None, method=None, untrained=None, family="llama3"):
    """A run's subject; `method` with discriminators leaves them below `out`."""
    policy = policy or Policy(tiny_model(family))
    examples = held_out()
    if method is not None:
        for part in method.regularizers:
            with torch.random.fork_rng():
                torch.manual_seed(3)
                keep(out / "players", part.name, part.build(policy.hidden_size))
    reference = score(Policy(tiny_model(family)), examples, PAIR)
    return Subject(
        policy,
        tiny_tokenizer(family),
        examples,
        reference,
        out / "evaluations",
        method=method,
        untrained=untrained,
    )


def ganpo(latent=LATENT):
    return Method(DPO(), (latent,), lr=1e-4)

"""Builds a method's batch source and its text networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from experiments.data.tokens import TokenizedData
from experiments.experiment import Experiment
from experiments.models.forward import Policy
from experiments.models.loading import load_model, load_tokenizer
from experiments.rewards.reward_models import BACKBONE
from experiments.rewards.rollouts import RolloutSource
from experiments.rewards.rounds import alternation
from experiments.rewards.scorers import checksum, is_fixed, scorers
from experiments.rewards.sources import check_reward, verifier_of
from experiments.training.sources import Pairs, Source
from methods.protocols import Method, TextLearner


def source_of(experiment: Experiment, model: Any, rows: TokenizedData, *, kept: Path | None = None) -> Source:
    """Pairs of the data, or the policy's own samples; reward models that are fitted on the way go to `kept`.

    Raises ValueError for a method whose samples nothing would reward.
    """
    method, training, seed = experiment.method, experiment.training, experiment.seed
    assert method is not None
    assert seed is not None
    if not method.on_policy:
        return Pairs(rows.train, training.batch_size, seed)
    verifier = verifier_of(rows.train)
    check_reward(experiment.name, method, dataset=rows.name, verifier=verifier)
    shared: dict[str, Any] = {"batch_size": training.batch_size, "seed": seed, "tokenizer": load_tokenizer(model)}
    rounds = alternation(method, table=rows, steps=training.steps, verifier=verifier, kept=kept, **shared)
    return rounds or RolloutSource(rows.train, method=method, verifier=verifier, **shared)


def nets_of(
    experiment: Experiment, model: Any, rows: TokenizedData, policy: Policy, reference: Policy | None, *, folder: Path
) -> dict[str, nn.Module]:
    """The networks that read text, by part; fixed ones are trained once and kept in `folder`."""
    method = experiment.method
    assert method is not None
    if not any(isinstance(part, TextLearner) for part in (method.objective, *method.regularizers)):
        return {}
    return scorers(
        method,
        policy=policy,
        tokenizer=load_tokenizer(model),
        rows=rows,
        weights=experiment.model["weights"],
        folder=folder,
        seed=experiment.seed or 0,
        reference=reference,
    )


def reference_of(experiment: Experiment, model: Any) -> Policy | None:
    """A second model, where the reference must be run and the policy has no adapter to put off."""
    assert experiment.method is not None
    if not runs_reference(experiment.method) or experiment.training.lora_rank is not None:
        return None
    return Policy(load_model(model)).requires_grad_(False)


def runs_reference(method: Method) -> bool:
    """Whether training runs the reference model itself, and stored log-probs do not do."""
    runs = method.needs("hidden") or method.needs("padded_hidden")
    runs = runs or (method.on_policy and method.needs("reference"))
    return runs or any(isinstance(part, TextLearner) and part.scorer == BACKBONE for part in method.regularizers)


def fixed(method: Method, nets: dict[str, nn.Module]) -> dict[str, str]:
    """The checksums of the networks that nothing in a run may move."""
    return {part.name: checksum(nets[part.name]) for part in method.regularizers if is_fixed(part)}

"""Preference data of plain words, tokenised for a tiny model, and trainers of methods that learn a reward on it."""

import json
from pathlib import Path
from typing import Any

from experiments.data.tokens import TokenizedData, prepare
from experiments.experiment import Training
from experiments.models.forward import Policy
from experiments.models.loading import load_model, load_tokenizer
from experiments.rewards.rollouts import RolloutSource
from experiments.rewards.rounds import alternation
from experiments.rewards.scorers import scorers
from experiments.training.trainer import Trainer
from methods import resolve
from registry import override
from tests.experiments.rewards.tiny_encoder import save_tiny_encoder
from tests.tiny import save_tiny

SUBJECTS = ["fox", "dog", "garden", "friend", "water", "story", "question", "answer", "capital", "children"]

SMALL: dict[str, dict[str, Any]] = {
    "apo": {"apo.rounds": 3, "apo.rm_lr": 1e-3, "apo.rm_batch_size": 4, "sampling.num_generations": 2},
    "gapo": {"gapo.rm_lr": 1e-3, "gapo.warmup_items": 6, "gapo.stage_items": 4, "sampling.batches": 2},
    "aapa": {"aapa.rm_lr": 1e-3, "aapa.num_prompts": 6, "sampling.num_generations": 2},
}


def tiny_models(root: Path) -> dict[str, Path]:
    return {"policy": save_tiny("llama3", root / "policy"), "encoder": save_tiny_encoder(root / "encoder")}


def tiny_data(root: Path, policy: Path, number: int = 30) -> TokenizedData:
    """`number` prompts; chosen responses are lists of reasons, rejected ones are short and afraid."""
    rows = [
        {
            "prompt": f"Write {i} lines about the {SUBJECTS[i % 10]}.",
            "chosen": f"The {SUBJECTS[i % 10]} is good, and I would like to explain it in {i} lines.",
            "rejected": f"I am afraid of the {SUBJECTS[(i + 3) % 10]}.",
        }
        for i in range(number)
    ]
    path = root / "pairs.json"
    path.write_text(json.dumps(rows))
    return prepare(path, load_tokenizer(policy), max_length=96)


def tiny_trainer(
    name: str,
    models: dict[str, Path],
    table: TokenizedData,
    folder: Path,
    values: dict[str, Any] | None = None,
    *,
    steps: int = 6,
    batch_size: int = 2,
    lora: int | None = 4,
) -> Trainer:
    """A method that samples, on a tiny model with a tiny encoder, at rates at which something moves."""
    part = resolve(name).spec.regularizers[0]
    small = {"sampling.max_new_tokens": 6, **SMALL[part.name]}
    small |= {f"{part.name}.{'encoder' if part.name == 'aapa' else 'scorer'}": str(models["encoder"])}
    method = override(resolve(name).spec, small | (values or {}))
    tokenizer = load_tokenizer(models["policy"])
    policy = Policy(load_model(models["policy"]), lora_rank=lora)
    reference = Policy(load_model(models["policy"])) if lora is None else None
    nets = scorers(
        method,
        policy=policy,
        tokenizer=tokenizer,
        rows=table,
        weights="tiny",
        folder=folder / "discriminators",
        seed=0,
        reference=reference,
    )
    given = {"batch_size": batch_size, "seed": 0, "method": method, "tokenizer": tokenizer}
    rounds = {"table": table, "steps": steps, "kept": folder / "players"}
    source = alternation(**given, **rounds) or RolloutSource(table.train, **given)
    training = Training(steps=steps, batch_size=batch_size, micro_batch_size=1, lora_rank=lora)
    return Trainer(method, policy, source, training, seed=0, lr=1e-3, stored={}, reference=reference, scorers=nets)

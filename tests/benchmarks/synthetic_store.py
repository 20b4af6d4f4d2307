"""A result store as a comparison leaves it, with invented figures: what leaderboard and report are tested on."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from experiments.manifest import write_json

METHODS: dict[str, dict[str, float]] = {
    "dpo": {"lr": 1e-5, "dpo.beta": 0.1, "dpo.label_smoothing": 0.0},
    "ganpo_dpo": {
        "lr": 1e-5,
        "dpo.beta": 0.1,
        "dpo.label_smoothing": 0.0,
        "latent.weight": 1.0,
        "latent.lr": 5e-6,
        "latent.trained": True,
        "latent.labels": "true",
    },
}
DATA_REPORT = {
    "source": "dpo_en_demo",
    "unit": "row",
    "num_rows": 300,
    "num_kept": 291,
    "num_dropped": 9,
    "dropped": {"duplicate": [17, 203], "overlong": [3, 8, 21, 40, 77, 120, 199]},
    "noted": {"truncated_prompt": list(range(1, 240, 2))},
    "splits": {"train": 40, "dev": 30, "held_out": 30},
    "unused": {"train": 191},
    "without_mismatch": [],
}
EVIL = "<script>document.title = 'owned'</script><img src=x onerror=alert(1)>"
GAIN = {"base": 0.0, "dpo": 0.10, "ganpo_dpo": 0.14, "ganpo_dpo_frozen": 0.10}
SECONDS = {"dpo": 96.0, "ganpo_dpo": 113.0, "ganpo_dpo_frozen": 109.0}
ORDER = ("reference_chosen_over_policy_chosen", "policy_chosen_over_reference_rejected")
ORDER += ("reference_rejected_over_policy_rejected", "policy_rejected_over_reference_chosen")


def write_store(
    out: Path, *, seeds: tuple[int, ...] = (0, 1, 2), extra: dict[str, dict[str, Any]] | None = None
) -> None:
    """The untrained model and each of `METHODS` and `extra` (hyperparameters by method) with every seed."""
    write_run(out, "base", None)
    for method in METHODS | (extra or {}):
        for seed in seeds:
            write_run(out, method, seed, hyperparameters=(METHODS | (extra or {}))[method])


def write_run(
    out: Path,
    method: str,
    seed: int | None,
    *,
    hyperparameters: dict[str, Any] | None = None,
    tokens: str = "b" * 64,
    data: str = "dpo_en_demo",
    weights: str = "a" * 64,
    revision: int = 1,
    num_prompts: int = 32,
    status: str = "finished",
    tasks: tuple[str, ...] = ("held_out", "ifeval"),
    steps: int = 40,
) -> Path:
    """One cell; returns its folder."""
    spec = {
        "method": method,
        "hyperparameters": METHODS.get(method, {}) if hyperparameters is None else hyperparameters,
        "model": {"name": "smollm2_135m", "weights": weights, "adaptation": "lora-16"},
        "data": {"name": data, "tokens": tokens, "num_train": 40},
        "seed": seed,
        "training": {} if method == "base" else {"batch_size": 8, "steps": steps, "max_length": 384},
    }
    run_id = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]
    folder = out / "runs" / run_id
    write_json(folder / "spec.json", spec)
    write_json(folder / "manifest.json", manifest(method, status))
    rng = np.random.default_rng([sum(map(ord, method)), 99 if seed is None else seed])
    if method != "base":
        rows = [json.dumps(row) + "\n" for row in training(method, rng)[:steps]]
        (folder / "metrics.jsonl").write_text("".join(rows))
    if "held_out" in tasks:
        write_json(folder / "evaluations" / "held_out-0a1b2c3d.json", held_out(method, rng, revision))
    if "alpaca_eval" in tasks:
        document = ifeval(method, rng, revision, num_prompts) | {"primary": "prompt_strict"}
        write_json(folder / "evaluations" / "alpaca_eval-1.json", document)
    if "ifeval" in tasks:
        write_json(folder / "evaluations" / "ifeval-4e5f6a7b.json", ifeval(method, rng, revision, num_prompts))
        write_responses(folder / "evaluations" / "ifeval-9d8c7b6a.responses.jsonl", num_prompts)
    return folder


def manifest(method: str, status: str) -> dict[str, Any]:
    wall = SECONDS.get(method, 100.0)
    return {
        "status": status,
        "started": "2026-11-21T04:05:06+00:00",
        "wall_seconds": 0.0 if method == "base" else wall,
        "num_tokens": 16_000,
        "tokens_per_second": None if method == "base" else 16_000 / wall,
        "peak_memory_bytes": 3_400_000_000 if "ganpo" in method else 3_000_000_000,
        "num_trainable": 4_884_480,
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
        "packages": {"torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"cpu": "a processor", "cores": 2, "memory_bytes": 8 * 2**30, "gpus": []},
        "python": "3.11.9",
        "data_report": DATA_REPORT,
    }


def training(method: str, rng: np.random.Generator) -> list[dict[str, float]]:
    rows = []
    for step in range(1, 41):
        noise = rng.normal(0, 0.03, 8)
        learned = GAIN.get(method, 0.1) * 4 * (1 - np.exp(-step / 15))
        loss = 0.693 - 0.3 * learned + noise[0]
        row = {
            "step": step,
            "lr": 1e-5 * min(1, step / 4) * (1 - step / 60),
            "loss": loss,
            "dpo/loss": loss,
            "dpo/reward_accuracy": min(1, 0.5 + learned / 2 + noise[1]),
            "dpo/reward_margin": learned + noise[2],
            "grad_norm": 2 + 10 * abs(noise[3]),
            "seconds": 2.5,
            "tokens": 400 * step,
        }
        if method.startswith("ganpo"):
            row |= {"loss": loss + 1.4, "latent/adversary/loss": 5.5 - step / 60 + noise[4]}
            row |= {"latent/penalty/loss": 1.4 + noise[5], "latent/grad_norm": 1 + 5 * abs(noise[6])}
            row |= {"latent/lr": row["lr"] / 2, "latent/updates": step}
            for index, name in enumerate(ORDER):
                row[f"latent/adversary/accuracy/{name}"] = min(1, 0.5 + 0.01 * index * step / 4 + noise[7])
                row[f"latent/adversary/gap/{name}"] = 0.02 * index * step + noise[6]
        rows.append({key: float(value) if key != "step" else step for key, value in row.items()})
    return rows


def held_out(method: str, rng: np.random.Generator, revision: int) -> dict[str, Any]:
    easy = np.random.default_rng(7).normal(0.02, 0.5, 120)  # the same pairs for every policy
    learned = GAIN.get(method, 0.1) * 3 * np.random.default_rng(8).normal(1, 1, 120)
    gained = 0 * easy if method == "base" else learned + rng.normal(0, 0.15, 120) + rng.normal(0, 0.02)
    margins = {"relative": gained, "average_logp": easy + gained}
    margins |= {} if method in ("base", "grpo", "raft") else {"own": gained / 10}
    columns = {}
    for measure, margin in margins.items():
        columns |= {measure: np.where(margin == 0, 0.5, margin > 0), f"{measure}_margin": margin}
    items = [
        {
            "id": f"{i}",
            "cluster": f"prompt-{i // 2}",
            "values": {key: float(column[i]) for key, column in columns.items()},
        }
        for i in range(120)
    ]
    metrics = {key: float(column.mean()) for key, column in columns.items()}
    metrics |= {f"{measure}_ece": 0.06 for measure in margins}
    bins = {measure: reliability(margin) for measure, margin in margins.items()}
    extras = {"reliability": bins, "longer_is_chosen": 0.58}
    settings = {"beta": 0.1, "average_beta": 2.0}
    return {
        "metrics": metrics,
        "items": items,
        "extras": extras,
        "settings": settings,
        "revision": revision + 1,
        "seconds": 8.0,
    }


def reliability(margins: np.ndarray) -> list[dict[str, float]]:
    confidence = 1 / (1 + np.exp(-2 * np.abs(margins)))
    bins = []
    for low, high in itertools.pairwise(np.linspace(0.5, 1, 6).tolist()):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            right, sure = float((margins[inside] > 0).mean()), float(confidence[inside].mean())
            bins.append({"low": low, "high": high, "count": int(inside.sum()), "confidence": sure, "accuracy": right})
    return bins


def ifeval(method: str, rng: np.random.Generator, revision: int, num_prompts: int) -> dict[str, Any]:
    skill = np.random.default_rng(11).beta(1, 2, num_prompts) + GAIN.get(method, 0.1) / 2
    strict = rng.random(num_prompts) < skill
    loose = strict | (rng.random(num_prompts) < 0.1)
    tokens = rng.integers(40, 128, num_prompts)
    values = {"prompt_strict": strict, "prompt_loose": loose, "num_tokens": tokens}
    items = [
        {"id": f"{1000 + i}", "cluster": f"{1000 + i}", "values": {key: float(v[i]) for key, v in values.items()}}
        for i in range(num_prompts)
    ]
    metrics = {key: float(column.mean()) for key, column in values.items() if key != "num_tokens"}
    counts = {
        name: {"count": num_prompts // 2, "strict": int(half.sum()), "loose": int(half.sum())}
        for name, half in zip(("keywords:existence", "punctuation:no_comma"), np.array_split(strict, 2), strict=True)
    }
    return {
        "metrics": metrics | {"mean_length": float(tokens.mean())},
        "items": items,
        "extras": {"by_instruction": counts, "responses": "ifeval-9d8c7b6a.responses.jsonl"},
        "settings": {"num_prompts": num_prompts, "max_new_tokens": 128},
        "revision": revision,
        "seconds": 60.0,
    }


def write_responses(path: Path, num_prompts: int) -> None:
    rows = [
        {
            "id": f"{1000 + i}",
            "prompt": f"Write a haiku about {i} stars. {EVIL}",
            "response": f"{i} stars above\n" + EVIL,
            "num_tokens": 40,
            "finished": True,
        }
        for i in range(num_prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

"""Evaluations that describe, added to a synthetic store: temperatures, lengths, drift, what judges and how well."""

import json
from pathlib import Path

import numpy as np

from benchmarks.tasks import Item
from benchmarks.tasks.discriminator import correlations
from experiments.manifest import write_json
from tests.benchmarks.synthetic_store import GAIN, reliability

TEMPERATURES = (0.0, 0.7, 1.0, 1.5)


def describe_runs(out: Path, *, num_prompts: int = 40) -> None:
    """Add every kind of description to every run of the store."""
    for folder in sorted((out / "runs").iterdir()):
        spec = json.loads((folder / "spec.json").read_text())
        method, seed = spec["method"], spec["seed"]
        rng = np.random.default_rng([sum(map(ord, method)), 7 if seed is None else seed])
        made = {
            "robustness": robustness(method, rng, num_prompts),
            "length": length(method, rng, num_prompts),
            "discriminator": discriminator(method, rng),
            "geometry": geometry(method, rng),
            "reward_model": reward_model(method, rng),
        }
        for task, document in made.items():
            about = {"task": task, "revision": 1, "settings": {}, "seconds": 3.0}
            write_json(folder / "evaluations" / f"{task}-0.json", about | document)
        history = folder / "metrics.jsonl"
        if history.is_file():
            rows = [json.loads(line) for line in history.read_text().splitlines()]
            for i, row in enumerate(rows):
                row |= on_policy(method, i, rng)
            history.write_text("".join(json.dumps(row) + "\n" for row in rows))


def on_policy(method, step, rng):
    """What a run logs whose reward model is fitted anew every eight updates; of `dpo` no verifier knows the prompts."""
    log = {f"aapa/penalty/logp_expert_p{share}": -3 + share / 50 + step / 200 for share in (10, 50, 90)}
    log |= {f"aapa/penalty/logp_sampled_p{share}": -1 + share / 100 - step / 300 for share in (10, 50, 90)}
    log |= {"aapa/penalty/length_sampled": 40 + step / 4, "aapa/penalty/length_expert": 52.0}
    number = step // 8
    verified = 0.5 + GAIN.get(method, 0.1) * float(np.log1p(number))
    log |= {"rollout/reward/learned": number / 2, "rollout/kl": step / 100, "rollout/length": 40 + step / 4}
    log |= {"rollout/reward/verified": verified} if method != "dpo" else {}
    if step % 8 == 0:
        log |= {"apo/tokens_consumed": 20_000.0 * (number + 1), "apo/accuracy": 0.6 + number / 20, "apo/ece": 0.05}
        log |= {"apo/reward/judged": verified - 0.5 + float(rng.normal(0, 0.01))} if method == "dpo" else {}
    return log


def robustness(method, rng, num_prompts):
    columns = {
        f"t{t:g}": np.clip(rng.normal(0.6 + GAIN.get(method, 0.1) - 0.2 * t, 0.15, num_prompts), 0, 1)
        for t in TEMPERATURES
    }
    columns["score"] = np.mean(list(columns.values()), axis=0)
    columns["hot"], columns["drop"] = columns["t1.5"], columns["t0"] - columns["t1.5"]
    extras = {"task": "ifeval", "value": "prompt_strict"}
    return {"primary": "score", **_document(columns), "extras": extras}


def length(method, rng, num_prompts):
    buckets = [
        {
            "low": low,
            "high": low + 200,
            "count": 10.0,
            "win_rate": float(rate),
            "interval_low": float(rate - 0.1),
            "interval_high": float(rate + 0.1),
        }
        for low, rate in zip(range(0, 1000, 200), np.sort(rng.uniform(0.2, 0.8, 5)), strict=True)
    ]
    buckets[0] |= {"win_rate": None, "interval_low": None, "interval_high": None, "count": 0.0}
    extras = {"task": "alpaca_eval", "value": "win_rate", "buckets": buckets}
    extras |= {"length_correlation": {"win_rate": 0.21}, "length_correlation_interval": {"win_rate": [0.1, 0.3]}}
    return {"primary": "score", **_document({"score": rng.random(num_prompts)}), "extras": extras}


def discriminator(method, rng):
    items, temperatures = [], []
    for temperature in (1.5, 2.0):
        for prompt in range(30):
            for sample in range(3):
                quality, tokens = rng.normal(), rng.integers(5, 60)
                values = {"oracle": float(rng.random()), "num_tokens": float(tokens), "finished": 1.0}
                values["oracle"] = float(1 / (1 + np.exp(-quality - (tokens - 30) / 40)))
                values["implicit_reward"] = float(0.3 * quality + rng.normal())
                if "ganpo" in method:
                    values["discriminator_chosen"] = float(0.6 * quality + tokens / 20 + rng.normal())
                    values["discriminator_rejected"] = float(-0.2 * quality + rng.normal())
                items.append(Item(f"{prompt}/t{temperature}/{sample}", str(prompt), values))
                temperatures.append(temperature)
    written = [{"id": item.id, "cluster": item.cluster, "values": item.values} for item in items]
    metrics = {"oracle": float(np.mean([item.values["oracle"] for item in items]))}
    extras = {"correlations": correlations(items, temperatures)}
    return {"primary": "oracle", "metrics": metrics, "items": written, "extras": extras}


def geometry(method, rng):
    moved = GAIN.get(method, 0.1)
    columns = {"kl": moved * rng.uniform(0.5, 1.5, 30), "cosine": 1 - moved * rng.uniform(0.05, 0.15, 30)}
    rank = {"cka": 1 - moved / 8, "effective_rank": 180 - 200 * moved, "effective_rank_reference": 180.0}
    document = _document(columns)
    return {"primary": "kl", **document, "metrics": document["metrics"] | rank}


def reward_model(method, rng):
    right = rng.random(60) < 0.6 + GAIN.get(method, 0.1)
    rounds = [
        {"label": f"round {i + 1}", "accuracy": 0.6 + 0.01 * i, "ece": 0.05 - 0.002 * i, "reliability": []}
        for i in (0, 1, 19)  # a long run keeps the first and the last
    ]
    margins = np.where(right, 1, -1) * rng.exponential(1, 60)
    extras = {"rounds": rounds if method != "base" else [], "reliability": reliability(margins)}
    return {"primary": "accuracy", **_document({"accuracy": right.astype(float), "margin": margins}), "extras": extras}


def _document(columns):
    number = len(next(iter(columns.values())))
    items = [
        {"id": str(i), "cluster": str(i), "values": {key: float(column[i]) for key, column in columns.items()}}
        for i in range(number)
    ]
    return {"metrics": {key: float(column.mean()) for key, column in columns.items()}, "items": items, "extras": {}}

"""Sections of the speed benchmark, and how it judges their figures."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.manifest import hardware, package_versions, peak_memory, reset_peak_memory

if TYPE_CHECKING:
    from benchmarks.timing.contestants import Course

# What the cost model speaks of: the reference log-probs are in the store
MODELLED = {"dpo/stored": "dpo", "ganpo_dpo": "ganpo_dpo", "simpo": "simpo", "ganpo_simpo": "ganpo_simpo"}
BATCH = 16  # prompts that are generated for at a time


@dataclass(frozen=True)
class Target:
    """`measured` reads a ratio from the results, or raises KeyError where its section is missing.

    Without a target the ratio is only told.
    """

    what: str
    target: float | None
    at_least: bool
    measured: Callable[[Mapping[str, Any]], float]


def course(model: Any, data: str, rank: int | None, settings: Mapping[str, Any]) -> Course:
    """The rows and settings that every contestant gets: one step to warm up, then those that count."""
    from benchmarks.timing.contestants import Course
    from experiments.data.tokens import prepare
    from experiments.experiment import Training
    from experiments.models.loading import load_tokenizer

    training = Training(
        steps=1 + settings["steps_timed"],
        batch_size=settings["batch_size"],
        micro_batch_size=settings["micro_batch_size"],
        lora_rank=rank,
    )
    rows = training.steps * training.batch_size
    made = prepare(data, load_tokenizer(model), max_length=settings["max_length"], max_pairs=rows)
    return Course(model, made.train, training)


def predicted(course: Course, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The cost model's prediction of a step of each contestant that it knows, beside the measurement."""
    from benchmarks.planning import costs
    from benchmarks.planning.machine import this_machine
    from benchmarks.timing.contestants import SEED
    from experiments.models.loading import meta_model
    from experiments.runs.trl_baseline import stream
    from methods import resolve

    model, machine = meta_model(course.model), this_machine()
    training = dataclasses.replace(course.training, steps=1)
    rows = stream(course.examples, course.training, SEED)[training.batch_size :]
    sequences = [row.sequences[role] for row in rows for role in ("chosen", "rejected")]
    lengths: dict[str, Any] = {
        "mean_row_tokens": statistics.mean(map(len, sequences)),
        "mean_completion_tokens": statistics.mean(len(sequence.completion) for sequence in sequences),
    }
    steps = {
        entry: costs.seconds(resolve(name).spec, training, model, machine, **lengths)
        for entry, name in MODELLED.items()
        if entry in seconds
    }
    return {
        **lengths,
        "efficiency": costs.EFFICIENCY,
        "machine_flops": machine.flops,
        "machine_bandwidth": machine.bandwidth,
        "predicted_seconds_a_step": steps,
        "measured_over_predicted": {key: statistics.median(seconds[key]) / value for key, value in steps.items()},
    }


def memory_of(
    contestant: str, model: str, data: str, rank: int | None, settings: Mapping[str, Any]
) -> dict[str, int | float]:
    """Peak bytes of this process while one contestant runs; meant for a process that does nothing else."""
    from benchmarks.timing.contestants import CONTESTANTS

    run, made = CONTESTANTS[contestant], course(model, data, rank, settings)
    reset_peak_memory()
    before = peak_memory()["peak_memory_bytes"]
    run(made)
    return {"imports_bytes": before, **peak_memory()}


def generation(model: Any, data: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Greedy tokens a second by batch size, ours and transformers', in turns on the same prompts, and the plan's."""
    import torch

    from benchmarks.planning import costs
    from benchmarks.planning.machine import this_machine
    from experiments.data.chat import ChatFormat
    from experiments.data.tokens import prepare
    from experiments.models.loading import load_model, load_tokenizer
    from experiments.sampling.generate import generate, stop_tokens

    tokenizer, limit = load_tokenizer(model), settings["generated_tokens"]
    rows = prepare(data, tokenizer, max_length=settings["max_length"], max_pairs=2 * BATCH).train
    prompts = [row.sequences["chosen"].prompt.tolist() for row in rows]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mine: Any = load_model(model)
    plain: Any = load_model(model)
    mine, plain = mine.to(device), plain.to(device)
    stops = stop_tokens(plain, ChatFormat.of(tokenizer))
    speeds: dict[str, list[float]] = {}
    equal: dict[str, float] = {}
    for _ in range(settings["repetitions"]):
        for size in (1, BATCH):
            asked = prompts[: max(4, 2 * size) if size > 1 else 4]
            began = time.monotonic()
            found = [list(r.token_ids) for r in generate(mine, tokenizer, asked, max_new_tokens=limit, batch_size=size)]
            speeds.setdefault(f"ours/{size}", []).append(sum(map(len, found)) / (time.monotonic() - began))
            began = time.monotonic()
            theirs = _transformers(plain, asked, size, limit, stops, int(tokenizer.pad_token_id))
            speeds.setdefault(f"transformers/{size}", []).append(sum(map(len, theirs)) / (time.monotonic() - began))
            equal[str(size)] = statistics.mean(a == b for a, b in zip(found, theirs, strict=True))
    expected = costs.generation_seconds(mine, this_machine(), num_prompts=BATCH, max_new_tokens=limit)
    return {
        "prompts": len(prompts),
        "tokens_a_second": {key: statistics.median(values) for key, values in speeds.items()},
        "predicted_tokens_a_second": BATCH * limit / expected,
        "repetitions": speeds,
        "share_of_equal_responses": equal,
    }


def _transformers(
    model: Any, prompts: Sequence[list[int]], size: int, limit: int, stops: frozenset[int], pad: int
) -> list[list[int]]:
    """Responses of `model.generate`, batch after batch in the given order, cut after the token that ends a turn."""
    import torch

    responses = []
    for i in range(0, len(prompts), size):
        batch = prompts[i : i + size]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
        settings: dict[str, Any] = {"max_new_tokens": limit, "do_sample": False, "eos_token_id": sorted(stops)}
        with torch.no_grad():
            said = model.generate(input_ids=ids, attention_mask=mask, pad_token_id=pad, **settings)
        for row in said[:, width:].tolist():
            end = next((k + 1 for k, token in enumerate(row) if token in stops), len(row))
            responses.append(row[:end])
    return responses


def command_seconds(words: Sequence[str]) -> float:
    """Wall time of our own command, in a process of its own. RuntimeError with its last words if it fails."""
    began = time.monotonic()
    line = [sys.executable, "-m", "benchmarks.run", *words]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-2000:]}")
    return time.monotonic() - began


def facts() -> dict[str, Any]:
    """Versions and machine, without its name."""
    import torch

    machine = {key: value for key, value in hardware().items() if key != "system"}
    return {"packages": package_versions(), "machine": machine | {"threads": torch.get_num_threads()}}


def against_targets(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every target whose section has been measured, met or not."""
    judged = []
    for target in TARGETS:
        try:
            measured = target.measured(results)
        except KeyError:
            continue
        met = None
        if target.target is not None:
            met = measured >= target.target if target.at_least else measured <= target.target
        row = {"what": target.what, "target": target.target, "at_least": target.at_least}
        judged.append(row | {"measured": measured, "met": met})
    return judged


def _steps(where: str, slower: str, faster: str) -> Callable[[Mapping[str, Any]], float]:
    def ratio(results: Mapping[str, Any]) -> float:
        medians = results["training"]["rounds"][where]["median_seconds_a_step"]
        return float(medians[slower] / medians[faster])

    return ratio


def _peaks(where: str, entry: str, other: str) -> Callable[[Mapping[str, Any]], float]:
    def ratio(results: Mapping[str, Any]) -> float:
        peaks = results["memory"]["peaks"][where]
        kind = "peak_cuda_bytes" if "peak_cuda_bytes" in peaks[entry] else "peak_memory_bytes"
        return float(peaks[entry][kind] / peaks[other][kind])

    return ratio


def _networks_share(results: Mapping[str, Any]) -> float:
    medians = results["training"]["rounds"]["short/full"]["median_seconds_a_step"]
    return float(1 - medians["ganpo_dpo/no_network"] / medians["ganpo_dpo"])


def _furthest(results: Mapping[str, Any]) -> float:
    rounds = results["training"]["rounds"].values()
    ratios = [ratio for found in rounds for ratio in found["cost_model"]["measured_over_predicted"].values()]
    return float(max(max(ratio, 1 / ratio) for ratio in ratios))


def _generated(results: Mapping[str, Any]) -> float:
    speeds = results["generation"]["tokens_a_second"]
    return float(speeds[f"ours/{BATCH}"] / speeds[f"transformers/{BATCH}"])


ONLINE, STORED = ("trl_dpo/online", "dpo/online"), ("trl_dpo/stored", "dpo/stored")
TARGETS = (
    Target("DPO, full, short prompts, reference online: times TRL", 3.0, True, _steps("short/full", *ONLINE)),
    Target("DPO, full, dialogues, reference online: times TRL", 3.0, True, _steps("dialogues/full", *ONLINE)),
    Target("DPO, full, short prompts, reference stored: times TRL", 2.5, True, _steps("short/full", *STORED)),
    Target("DPO, full, dialogues, reference stored: times TRL", 2.5, True, _steps("dialogues/full", *STORED)),
    Target("DPO, LoRA 16, short prompts, reference online: times TRL", 2.5, True, _steps("short/lora-16", *ONLINE)),
    Target("DPO, LoRA 16, dialogues, reference online: times TRL", 2.5, True, _steps("dialogues/lora-16", *ONLINE)),
    Target("peak memory, full, short prompts: of TRL's", 0.6, False, _peaks("short/full", *reversed(ONLINE))),
    Target("peak memory, full, dialogues: of TRL's", 0.6, False, _peaks("dialogues/full", *reversed(ONLINE))),
    Target("peak memory, LoRA 16, short prompts: of TRL's", 0.6, False, _peaks("short/lora-16", *reversed(ONLINE))),
    Target("peak memory, LoRA 16, dialogues: of TRL's", 0.6, False, _peaks("dialogues/lora-16", *reversed(ONLINE))),
    Target("ganpo_dpo's step, full: of dpo's online", 1.10, False, _steps("short/full", "ganpo_dpo", "dpo/online")),
    Target("ganpo_dpo's step, LoRA: of dpo's online", 1.10, False, _steps("short/lora-16", "ganpo_dpo", "dpo/online")),
    Target("share of ganpo_dpo's step that its discriminators take", None, False, _networks_share),
    Target("cost model: the step that is furthest from its prediction, factor", 1.25, False, _furthest),
    Target("one comparison: of separate commands", 0.6, False, lambda results: float(results["sharing"]["ratio"])),
    Target("generation, 16 prompts at a time: times transformers", 1.5, True, _generated),
)

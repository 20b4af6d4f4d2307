"""A comparison of paper scale by the cost model: `python -m benchmarks.scale` writes its table into docs/scale.md.

Llama-3-8B-Instruct, all weights, six methods at three seeds on the 61,135 pairs of UltraFeedback, one epoch of 128
pairs an update: the setting of SimPO's and GANPO's papers. What is assumed rather than measured stands in `ASSUMED`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command import guarded
from benchmarks.options import Parser
from benchmarks.planning import costs
from benchmarks.planning.machine import Machine
from experiments.experiment import Training
from experiments.models.loading import meta_model
from methods import resolve

PAGE = Path(__file__).parent.parent / "docs" / "scale.md"
TABLE = re.compile(r"(?<=<!-- plan:begin -->\n).*?(?=<!-- plan:end -->)", re.DOTALL)
MODEL, METHODS, SEEDS = "llama3_8b", ("dpo", "ipo", "simpo", "orpo", "ganpo_dpo", "ganpo_simpo"), 3
NUM_PAIRS, BATCH, GPUS = 61_135, 128, 8  # GPUs: of one node
LENGTHS: Mapping[str, Any] = {"mean_row_tokens": 600.0, "mean_completion_tokens": 350.0}
LONGEST, LONGEST_COMPLETION = 2048, 1024
DOLLARS = 3.0  # a GPU and hour
GPU_BYTES = 80e9
SPEEDS: Mapping[str, float] = {"float32": 67e12, "bfloat16": 989e12}  # an H100's peak, operations a second
BANDWIDTH = 3.35e12
IFEVAL = {"num_prompts": 541, "max_new_tokens": 1280}
TRAINING = Training(
    steps=-(-NUM_PAIRS // BATCH), batch_size=BATCH, micro_batch_size=1, lora_rank=None, gradient_checkpointing=True
)
ASSUMED = (
    f"UltraFeedback's rows have {LENGTHS['mean_row_tokens']:.0f} tokens a sequence on average,"
    f" {LENGTHS['mean_completion_tokens']:.0f} of them the response, at most {LONGEST:,}",
    f"a GPU is an H100 of 80 GB at ${DOLLARS:.0f} an hour; of its peak the trainer reaches the share"
    f" {costs.EFFICIENCY:g} that the cost model has for every machine, and generation {costs.GENERATION_EFFICIENCY:g}",
    "communication hides behind computation within a node",
)


def machine(flops: float) -> Machine:
    """One GPU."""
    return Machine(flops=flops, bandwidth=BANDWIDTH, free_bytes=int(GPU_BYTES), device="cuda")


def gpu_bytes(name: str) -> int:
    """The peak of each GPU of a node: weights, gradients and moments in shards, the rest whole."""
    found = costs.memory(
        resolve(name).spec,
        TRAINING,
        meta_model(MODEL),
        longest_row_tokens=LONGEST,
        completion_tokens=LONGEST_COMPLETION,
        device="cuda",
    )
    return found.in_shards(GPUS, costs.gathered_bytes(meta_model(MODEL))).total


def training_hours(name: str, flops: float) -> float:
    """Hours of training one cell on one node."""
    return costs.seconds(resolve(name).spec, TRAINING, meta_model(MODEL), machine(flops), **LENGTHS) / GPUS / 3600


def evaluation_hours() -> float:
    """IFEval of one cell on one GPU in float32, as always, if every answer goes to its limit."""
    return costs.generation_seconds(meta_model(MODEL), machine(SPEEDS["float32"]), **IFEVAL) / 3600


def reference_hours(flops: float) -> float:
    """The reference log-probs of all pairs, once for all cells; one node."""
    seconds = costs.scoring_seconds(
        meta_model(MODEL), machine(flops), num_sequences=2 * NUM_PAIRS, mean_row_tokens=LENGTHS["mean_row_tokens"]
    )
    return seconds / GPUS / 3600


def spread(hours: Sequence[float], nodes: int) -> float:
    """Hours until the last of `nodes` is done, the longest cells first, each to the node that is free first."""
    busy = [0.0] * nodes
    for duration in sorted(hours, reverse=True):
        busy[busy.index(min(busy))] += duration
    return max(busy)


def table() -> str:
    """The plan as Markdown."""
    lines = ["| method | GB a GPU, of 80 |" + "".join(f" hours a cell, {name} |" for name in SPEEDS)]
    lines.append("|---|---:|" + "---:|" * len(SPEEDS))
    for name in METHODS:
        hours = "".join(f" {training_hours(name, flops):.1f} |" for flops in SPEEDS.values())
        lines.append(f"| `{name}` | {gpu_bytes(name) / 1e9:.0f} |{hours}")
    count = len(METHODS) * SEEDS
    lines += ["", f"| {count} cells and the untrained model |" + "".join(f" {name} |" for name in SPEEDS)]
    lines.append("|---|" + "---:|" * len(SPEEDS))
    rows: dict[str, list[str]] = {}
    for flops in SPEEDS.values():
        cells = [training_hours(name, flops) for name in METHODS for _ in range(SEEDS)]
        evaluations = [evaluation_hours()] * (count + 1)
        for nodes in (1, 10):
            whole = reference_hours(flops) + spread(cells, nodes) + spread(evaluations, nodes * GPUS)
            label = "one node" if nodes == 1 else f"{nodes} nodes"
            rows.setdefault(f"hours, {label}", []).append(f"{whole:.0f}")
            rows.setdefault(f"dollars, {label}", []).append(f"{whole * nodes * GPUS * DOLLARS:,.0f}")
    lines += [f"| {label} | {' | '.join(values)} |" for label, values in rows.items()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; there are no options but --help."""
    Parser("scale", __doc__).parse_args(arguments)
    return guarded(_write_page)


def _write_page() -> int:
    text = "\n".join(f"- {assumption}" for assumption in ASSUMED)
    page = TABLE.sub(lambda _: f"Assumed:\n\n{text}\n\n{table()}", PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

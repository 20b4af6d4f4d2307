"""Measures speed against TRL's trainer, `transformers.generate` and separate runs of our own command.

    python -m benchmarks.speed [--quick]

Contestants take turns in one process, so that a slow minute of the machine meets all of them; figures are medians, and
claims are ratios of medians. Peak memory is measured in a process of its own for each. Everything goes to a JSON file,
section by section as it is measured, with versions and machine.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.command import guarded
from benchmarks.options import LENGTH, Parser
from benchmarks.timing import sections
from experiments.manifest import read_json, write_json
from registry.datasets import DEFAULT_DATASET
from registry.models import DEFAULT_MODEL

ADAPTATIONS: Mapping[str, int | None] = {"full": None, "lora-16": 16}
# What is raced under each adaptation and data set: GANPO once, where its overhead is asked for
PAIRED = ("trl_dpo/online", "dpo/online", "trl_dpo/stored", "dpo/stored")
GANPO = ("dpo/online", "ganpo_dpo", "ganpo_dpo/no_network", "simpo", "ganpo_simpo", "ganpo_simpo/no_network")
FILES = {"short": "alpaca_eval_gpt4_pairs.jsonl.gz", "dialogues": "hh_helpful_test.jsonl.gz"}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return guarded(lambda: _measure(options))


def _measure(options: argparse.Namespace) -> int:
    if options.one:
        sys.stdout.write(json.dumps(sections.memory_of(**json.loads(options.one))) + "\n")
        return 0
    options.out = options.out or Path(".advalign/speed_quick.json" if options.quick else "docs/speed.json")
    console = Console(stderr=True)
    settings, chosen = _settings(options), options.sections.split(",")
    if unknown := [section for section in chosen if section not in SECTIONS]:
        raise ValueError(f"no section {', '.join(unknown)}; choose from {', '.join(SECTIONS)}")
    results: dict[str, Any] = read_json(options.out) if options.out.is_file() else {}
    for section in chosen:
        measured = SECTIONS[section](options, settings, console)
        results[section] = {"settings": settings, **sections.facts(), **measured}
        results["targets"] = sections.against_targets(results)
        write_json(options.out, results)
    console.print(_table(results["targets"]))
    return 0


def data_sets() -> dict[str, str]:
    """Preference data by what it stresses; without ADVALIGN_DATA only the pairs that come in a package."""
    folder = os.environ.get("ADVALIGN_DATA")
    if not folder:
        return {"short": DEFAULT_DATASET}
    return {name: str(Path(folder) / "preferences" / file) for name, file in FILES.items()}


def _training(options: argparse.Namespace, settings: dict[str, Any], console: Console) -> dict[str, Any]:
    """Seconds a step of every contestant, in turns."""
    from benchmarks.timing.contestants import CONTESTANTS
    from experiments.models.loading import resolve_model

    model = resolve_model(options.model)
    rounds: dict[str, dict[str, Any]] = {}
    for name, data in data_sets().items():
        for adaptation, rank in ADAPTATIONS.items():
            course = sections.course(model, data, rank, settings)
            entered = list(dict.fromkeys([*PAIRED, *(GANPO if name == "short" else ())]))
            seconds: dict[str, list[float]] = {entry: [] for entry in entered}
            for turn in range(settings["repetitions"]):
                for entry in entered:
                    console.print(f"training {name} {adaptation} {entry}, repetition {turn + 1}", style="dim")
                    seconds[entry] += CONTESTANTS[entry](course)[1:]  # the first step allocates what the others use
                    gc.collect()
            tokens = statistics.mean(course.tokens[1:])
            rounds[f"{name}/{adaptation}"] = {
                "tokens_a_step": tokens,
                "cost_model": sections.predicted(course, seconds),
                "seconds": {key: [round(value, 4) for value in values] for key, values in seconds.items()},
                "median_seconds_a_step": {key: statistics.median(values) for key, values in seconds.items()},
                "tokens_a_second": {key: tokens / statistics.median(values) for key, values in seconds.items()},
            }
    return {"rounds": rounds}


def _memory(options: argparse.Namespace, settings: dict[str, Any], console: Console) -> dict[str, Any]:
    """Peak bytes of each contestant, in a process of its own, with the same allocator settings."""
    peaks: dict[str, dict[str, Any]] = {}
    for name, data in data_sets().items():
        for adaptation, rank in ADAPTATIONS.items():
            for entry in settings["memory_of"]:
                console.print(f"memory {name} {adaptation} {entry}", style="dim")
                asked = {"contestant": entry, "model": str(options.model), "data": data, "rank": rank}
                line = [sys.executable, "-m", "benchmarks.speed", "--one", json.dumps(asked | {"settings": settings})]
                done = subprocess.run(line, capture_output=True, text=True, check=False)
                if done.returncode:
                    raise RuntimeError(f"{entry} on {name} failed: {done.stderr[-2000:]}")
                peaks.setdefault(f"{name}/{adaptation}", {})[entry] = json.loads(done.stdout.splitlines()[-1])
    return {"peaks": peaks}


def _generation(options: argparse.Namespace, settings: dict[str, Any], console: Console) -> dict[str, Any]:
    """Tokens a second of greedy decoding, ours and transformers', one prompt at a time and sixteen."""
    console.print("generation", style="dim")
    return sections.generation(options.model, next(iter(data_sets().values())), settings)


def _sharing(options: argparse.Namespace, settings: dict[str, Any], console: Console) -> dict[str, Any]:
    """Seconds of one comparison and of as many separate commands, each with an output folder of its own."""
    methods, seeds = settings["methods"], settings["seeds"]
    common = ["--model", str(options.model), "--dataset", next(iter(data_sets().values())), "--tracking-uri", "none"]
    common += [word for key, value in settings["comparison"].items() for word in (f"--{key}", str(value))]
    cold: dict[str, float] = {}
    measured = seeds[: settings["cold_seeds"]]
    with tempfile.TemporaryDirectory() as folder:
        for seed in measured:
            for method in methods:
                console.print(f"sharing: {method} seed {seed} alone", style="dim")
                words = ["--methods", method, "--seeds", str(seed), "--out", f"{folder}/{method}-{seed}"]
                cold[f"{method}/{seed}"] = sections.command_seconds([*words, *common])
        console.print("sharing: all in one command", style="dim")
        words = ["--methods", ",".join(methods), "--seeds", ",".join(map(str, seeds)), "--out", f"{folder}/all"]
        together = sections.command_seconds([*words, *common])
    separate = sum(cold.values()) * len(seeds) / len(measured)
    return {
        "cold_seconds": cold,
        "separate_seconds": separate,
        "separate_is": "measured" if len(measured) == len(seeds) else f"{len(measured)} of {len(seeds)} seeds, scaled",
        "together_seconds": together,
        "ratio": together / separate,
    }


SECTIONS: Mapping[str, Callable[[argparse.Namespace, dict[str, Any], Console], dict[str, Any]]] = {
    "training": _training,
    "memory": _memory,
    "generation": _generation,
    "sharing": _sharing,
}


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    quick = options.quick
    comparison: dict[str, Any] = {"max-pairs": 24, "batch-size": 8, "max-length": 384, "held-out-pairs": 16}
    comparison |= {"tasks": "held_out"} if quick else {"tasks": "held_out,ifeval", "num-prompts": 16}
    comparison |= {"max-new-tokens": 64}
    return {
        "model": Path(str(options.model)).name,  # a folder's place says nothing to others
        "dtype": "float32",
        "batch_size": 4,
        "micro_batch_size": 4,
        "max_length": options.max_length,
        "steps_timed": 1,
        "repetitions": 1 if quick else 3,
        "memory_of": ["trl_dpo/online", "dpo/online", *([] if quick else ["ganpo_dpo"])],
        "generated_tokens": 32 if quick else 64,
        "methods": ["dpo", "ipo", "simpo", "ganpo_dpo"],
        "seeds": [0] if quick else [0, 1, 2],
        "cold_seeds": 1,
        "comparison": comparison,
    }


def _table(targets: Sequence[Mapping[str, Any]]) -> Table:
    table = Table("what", "target", "measured", "met")
    for row in targets:
        bound = "" if row["target"] is None else f"{'≥' if row['at_least'] else '≤'} {row['target']}"
        table.add_row(row["what"], bound, f"{row['measured']:.2f}", {True: "yes", False: "no", None: ""}[row["met"]])
    return table


def _parser() -> Parser:
    made = Parser("speed", __doc__.split("\n")[0])
    made.add_argument("--quick", action="store_true", help="one repetition of one step: whether it works, no figures")
    made.add_argument("--model", default=DEFAULT_MODEL, help=f"a preset or a folder (default: {DEFAULT_MODEL})")
    made.add_argument("--sections", default=",".join(SECTIONS), help=f"which of {', '.join(SECTIONS)}")
    made.add_argument("--max-length", type=LENGTH, default=512, help="tokens of prompt and completion (default: 512)")
    made.add_argument("--out", type=Path, help="default: docs/speed.json, of --quick .advalign/speed_quick.json")
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


if __name__ == "__main__":
    sys.exit(main())

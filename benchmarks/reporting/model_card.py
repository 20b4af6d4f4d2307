"""The model card of an exported policy: how it was made, what was measured, and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.ranking import figures
from benchmarks.ranking.columns import Column, Score, compare_rows
from benchmarks.ranking.descriptions import UNTRAINED
from benchmarks.results.results import Run
from benchmarks.results.tuned_methods import plain

HUB_LICENCES = {"Apache-2.0": "apache-2.0", "MIT": "mit", "Gemma": "gemma", "Meta Llama 3 Community": "llama3"}
SUMMARY = ("torch", "transformers", "peft", "trl")  # packages whose versions the card names


def model_card(run: Run, untrained: Run | None = None, *, merged: str | None = None) -> str:
    """Markdown with the hub's metadata; `merged` is the dtype of a full model, None for the policy as it was saved.

    The results are those that the run has so far; `untrained` has what they are compared with.
    """
    base: Mapping[str, Any] = run.manifest.get("base_model") or {"name": run.model["name"], "on_hub": False}
    adapter = merged is None and str(run.model.get("adaptation", "")).startswith("lora")
    where = f"[{base['name']}](https://huggingface.co/{base['name']})" if base["on_hub"] else f"`{base['name']}`"
    parts = [
        _metadata(run, base, adapter),
        f"# {base['name'].rsplit('/', 1)[-1]}, trained by {run.method} on {run.data['name']}",
        f"{_kind(run, adapter, merged)} of {where}, trained with [advalign](#how-it-was-made){_paper(run)}.",
        *_warnings(base, adapter),
        "## How to load it",
        _loading(base, adapter, merged),
        "## Results",
        _results(run, untrained),
        "## How it was made",
        _table(_facts(run, base)),
        "Hyperparameters:",
        _table({f"`{key}`": f"`{value}`" for key, value in run.hyperparameters.items()}),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(run: Run, base: Mapping[str, Any], adapter: bool) -> str:
    lines = [f"library_name: {'peft' if adapter else 'transformers'}", "pipeline_tag: text-generation"]
    if base["on_hub"]:
        lines.append(f"base_model: {base['name']}")
    if licence := HUB_LICENCES.get(str(base.get("licence"))):
        lines.append(f"license: {licence}")
    lines.append(f"tags: {json.dumps(['alignment', plain(run.method)])}")
    return "\n".join(["---", *lines, "---"])


def _kind(run: Run, adapter: bool, merged: str | None) -> str:
    if adapter:
        return f"A LoRA adapter ({run.model['adaptation'].removeprefix('lora-')} ranks)"
    return "All weights" + (f", the adapter merged, in {merged}" if merged else "")


def _paper(run: Run) -> str:
    from methods import METHODS

    name = plain(run.method)
    if name not in METHODS:
        return ""
    paper = METHODS[name].paper
    return f". The method is from [{paper.title}]({paper.url}), {paper.year}"


def _warnings(base: Mapping[str, Any], adapter: bool) -> list[str]:
    told = []
    if base.get("dequantised"):
        end = " On the hub's weights the adapter gives other log-probabilities than those measured." if adapter else ""
        told.append(f"The base weights were dequantised from a 4-bit copy: close to the hub's, not the same.{end}")
    if adapter and not base["on_hub"]:
        told.append(
            f"No hub has the base model `{base['name']}`: give its folder in its place, or make a full model with"
            " `python -m benchmarks.export RUN --merge DIR`."
        )
    return told


def _loading(base: Mapping[str, Any], adapter: bool, merged: str | None) -> str:
    dtype = merged or "float32"
    revision = f', revision="{base["revision"]}"' if base.get("revision") else ""
    lines = ["from transformers import AutoModelForCausalLM, AutoTokenizer", "", 'folder = "."  # where this file is']
    if adapter:
        lines.insert(0, "from peft import PeftModel")
        lines.append(f'base = AutoModelForCausalLM.from_pretrained("{base["name"]}"{revision}, dtype="{dtype}")')
        lines.append("model = PeftModel.from_pretrained(base, folder)")
    else:
        lines.append(f'model = AutoModelForCausalLM.from_pretrained(folder, dtype="{dtype}")')
    lines.append("tokenizer = AutoTokenizer.from_pretrained(folder)  # with its chat template")
    code = "\n".join(["```python", *lines, "```"])
    serve = f"vllm serve {base['name']} --enable-lora --lora-modules trained=FOLDER" if adapter else "vllm serve FOLDER"
    return f"{code}\n\nWith vLLM: `{serve}`."


def _results(run: Run, untrained: Run | None) -> str:
    if not run.evaluations:
        return "Not evaluated."
    others = {evaluation.version: evaluation for evaluation in (untrained.evaluations if untrained else ())}
    lines = ["| task | value | this model | untrained | items |", "|---|---|---:|---:|---:|"]
    for evaluation in run.evaluations:
        other = others.get(evaluation.version)
        for column, scores in compare_rows({"policy": [evaluation], UNTRAINED: [other] if other else []}):
            for value in (column.primary, *column.beside):
                shown = [_figure(scores.get(name), column, value) for name in ("policy", UNTRAINED)]
                lines.append(f"| {column.task} | {column.heading(value)} | {' | '.join(shown)} | {column.num_items} |")
    note = "One seed; in brackets 95 % intervals over the items, none for fewer than ten prompts."
    return "\n".join([*lines, "", note])


def _figure(score: Score | None, column: Column, value: str) -> str:
    if score is None:
        return figures.NONE
    interval = score.interval if value == column.primary else score.others.get(value)
    share = value in column.shares
    return figures.interval(interval, share=share) + (" %" if share else "") if interval else figures.NONE


def _facts(run: Run, base: Mapping[str, Any]) -> dict[str, str]:
    training, manifest = run.training, run.manifest
    micro = f", {training['micro_batch_size']} at a time" if training.get("micro_batch_size") else ""
    packages = manifest.get("packages") or {}
    git = manifest.get("git") or {}
    return {
        "base model": base["name"] + (f" at {base['revision']}" if base.get("revision") else ""),
        "its weights (sha-256)": f"`{run.model['weights']}`",
        "data": f"{run.data['name']}, {run.data.get('num_train', '?')} training rows",
        "its tokens (sha-256)": f"`{run.data['tokens']}`",
        "adaptation": str(run.model.get("adaptation", "")),
        "seed": str(run.seed),
        "steps": f"{training.get('steps')} of {training.get('batch_size')} rows{micro}",
        "precision of matrix products": str(training.get("precision", "float32")),
        "run": f"`{run.id}`" + (f", code at `{git['commit']}`" if git.get("commit") else ""),
        "packages": ", ".join(f"{name} {packages[name]}" for name in SUMMARY if name in packages),
    }


def _table(facts: Mapping[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in facts.items())])

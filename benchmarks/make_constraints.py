"""Make the data set `constraints`: prompts with verifiable constraints, a model's samples and their verdicts.

    python -m benchmarks.make_constraints --out registry/constraints --seed 0 --num-train 600 --num-test 200 --samples 4

Can be killed and started again at any moment: samples are kept chunk by chunk, and the result is the same to the byte
(on one machine: float arithmetic differs between machines, and may change a sampled token).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.command import guarded
from benchmarks.constraint_prompts.rows import Sample, build_row, family_rates
from benchmarks.constraint_prompts.schedule import Planned, plan
from benchmarks.options import COUNT, SEED, Parser
from experiments.disk import append
from experiments.manifest import package_versions, write_atomically, write_json
from registry.models import DEFAULT_MODEL

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

CHUNK = 32  # prompts whose samples are drawn together and kept together
BATCH_SIZE = 32
PARTIAL = "samples.partial.jsonl"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that the samples depend on, but for the machine."""

    model: str
    weights: str  # sha-256
    seed: int = 0
    num_train: int = 600
    num_test: int = 200
    samples: int = 4
    test_samples: int = 2  # they only measure the base rate
    temperature: float = 0.8
    max_new_tokens: int = 64


def make(
    recipe: Recipe,
    out: Path,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write train.jsonl, test.jsonl and PROVENANCE.json into `out`, going on after the samples that lie there.

    Raises ValueError where `out` holds samples of another recipe.
    """
    prompts = [*plan("train", recipe.num_train, recipe.seed), *plan("test", recipe.num_test, recipe.seed)]
    out.mkdir(parents=True, exist_ok=True)
    partial = out / PARTIAL
    samples = _kept(partial, recipe, prompts)
    for start in range(len(samples), len(prompts), CHUNK):
        chunk = _sampled(recipe, prompts[start : start + CHUNK], model, tokenizer)
        lines = [json.dumps({"id": p.id, "samples": [asdict(s) for s in drawn]}) for p, drawn in chunk]
        append(partial, "".join(line + "\n" for line in lines))
        samples += [drawn for _, drawn in chunk]
        if progress:
            progress(len(samples), len(prompts))
    _write(recipe, out, prompts, samples)
    partial.unlink()


def _sampled(
    recipe: Recipe, prompts: Sequence[Planned], model: nn.Module, tokenizer: PreTrainedTokenizerBase
) -> list[tuple[Planned, list[Sample]]]:
    from experiments.sampling.generate import generate

    asked = [p for p in prompts for _ in range(_num_samples(recipe, p))]  # equal prompts get different samples
    responses = generate(
        model,
        tokenizer,
        [[{"role": "user", "content": planned.prompt}] for planned in asked],
        max_new_tokens=recipe.max_new_tokens,
        temperature=recipe.temperature,
        seed=recipe.seed,
        batch_size=BATCH_SIZE,
    )
    drawn: dict[str, list[Sample]] = {planned.id: [] for planned in prompts}
    for planned, response in zip(asked, responses, strict=True):
        drawn[planned.id].append(Sample(response.text, response.num_tokens, response.finished))
    return [(planned, drawn[planned.id]) for planned in prompts]


def _num_samples(recipe: Recipe, planned: Planned) -> int:
    return recipe.samples if planned.id.startswith("train") else recipe.test_samples


def _kept(partial: Path, recipe: Recipe, prompts: Sequence[Planned]) -> list[list[Sample]]:
    """The samples of the whole chunks that an earlier run left; the file then holds these and nothing else."""
    asked = hashlib.sha256("\n".join(planned.prompt for planned in prompts).encode()).hexdigest()
    header = json.dumps({"recipe": asdict(recipe), "prompts": asked}, sort_keys=True)
    found, *lines = partial.read_text(encoding="utf-8").split("\n") if partial.exists() else [header]
    if found != header:
        raise ValueError(f"{partial} holds samples of another recipe; remove it, or give another --out")
    whole = [line for line in lines[:-1] if line]  # what follows the last line break was being written
    if len(whole) < len(prompts):
        whole = whole[: len(whole) // CHUNK * CHUNK]
    write_atomically(partial, "".join(line + "\n" for line in (header, *whole)))
    return [[Sample(**sample) for sample in json.loads(line)["samples"]] for line in whole]


def _write(recipe: Recipe, out: Path, prompts: Sequence[Planned], samples: Sequence[Sequence[Sample]]) -> None:
    rows = [build_row(p, drawn, seed=recipe.seed) for p, drawn in zip(prompts, samples, strict=True)]
    digests = {}
    for split in ("train", "test"):
        members = [row for row in rows if row["id"].startswith(split)]
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in members)
        write_atomically(out / f"{split}.jsonl", content)
        digests[f"{split}.jsonl"] = hashlib.sha256(content.encode()).hexdigest()
    write_json(out / "PROVENANCE.json", _provenance(recipe, rows, digests))


def _provenance(recipe: Recipe, rows: Sequence[Mapping[str, Any]], digests: Mapping[str, str]) -> dict[str, Any]:
    train = [row for row in rows if row["id"].startswith("train")]
    test = [row for row in rows if row["id"].startswith("test")]
    origins = [row["expert_origin"] for row in rows]
    return {
        "command": "python -m benchmarks.make_constraints",
        "recipe": asdict(recipe),
        "sampling": {"batch_size": BATCH_SIZE, "prompts_together": CHUNK},
        "packages": package_versions(("torch", "transformers", "if-verifiable", "langdetect", "nltk")),
        "sha256": dict(digests),
        "licence": "Apache-2.0 (as the model that wrote the responses)",
        "counts": {
            "train": len(train),
            "test": len(test),
            "pairs": sum(len(row["pairs"]) for row in train),
            "preferential": sum(len(row["preferential"]) for row in train),
            "experts": {origin: origins.count(origin) for origin in sorted(set(origins))},
        },
        "pass_rates": {"train": family_rates(train), "test": family_rates(test)},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    defaults = Recipe(model=DEFAULT_MODEL, weights="")
    parser = Parser("make_constraints", __doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--out", type=Path, required=True, help="the folder of the result")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="who answers (default: %(default)s)")
    for name, text in (
        ("seed", "of prompts and samples"),
        ("num_train", "training prompts"),
        ("num_test", "test prompts"),
        ("samples", "for each training prompt"),
    ):
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(
            option,
            type=SEED if name == "seed" else COUNT,
            default=getattr(defaults, name),
            help=f"{text} (default: %(default)s)",
        )
    options = parser.parse_args(arguments)
    return guarded(lambda: _run(options), out=options.out)


def _run(options: argparse.Namespace) -> int:
    from experiments.models.loading import load_model, load_tokenizer, resolve_model, weights_hash

    resolved = resolve_model(options.model)
    numbers = {name: getattr(options, name) for name in ("seed", "num_train", "num_test", "samples")}
    recipe = Recipe(model=resolved.name, weights=weights_hash(resolved.folder), **numbers)
    make(recipe, options.out, load_model(resolved), load_tokenizer(resolved), progress=_tell)
    return 0


def _tell(done: int, total: int) -> None:
    sys.stderr.write(f"{done} of {total} prompts answered\n")


if __name__ == "__main__":
    sys.exit(main())

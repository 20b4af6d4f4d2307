"""The files of a run: the one place that knows their names, and reads and writes those that are JSON.

OUT/runs/91ab…/spec.json          what the run's address is the hash of
               manifest.json      status, code, packages, machine, cost
               metrics.jsonl      a line a step
               checkpoint/        the newest state, until the run is finished
               policy/            the adapter or the weights, as save_pretrained writes them
               players/           networks that were trained against the policy
               evaluations/       a result a task, and the responses that it was made of
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.disk import append
from experiments.manifest import DamagedFile, read_json, write_atomically, write_json

RunStatus = Literal["running", "finished", "failed"]
METRICS, MANIFEST, EVALUATIONS = "metrics.jsonl", "manifest.json", "evaluations"  # in the tracking store too
SPEC, RESPONSES = "spec.json", ".responses.jsonl"
PARTS = {"data": ("name", "tokens"), "model": ("name", "weights")}  # texts that a spec must have


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """spec.json as it is read; `further` holds what a later version wrote and this one does not know."""

    method: str
    hyperparameters: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    training: Mapping[str, Any]  # the untrained model has none
    seed: int | None
    further: Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """`RunFolder(Path("OUT/runs/91ab…"))`; nothing need exist in it."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def out(self) -> Path:
        """The output folder, which holds what runs share."""
        return self.path.parent.parent

    @property
    def lock(self) -> Path:
        """Held by the process that trains the run; beside the folder, which may be made anew."""
        return self.path.with_name(f"{self.path.name}.lock")

    # what a run says of itself

    def write_spec(self, spec: Mapping[str, Any]) -> None:
        write_json(self.path / SPEC, spec)

    @property
    def has_spec(self) -> bool:
        return (self.path / SPEC).is_file()

    def spec(self) -> RunSpec:
        """DamagedFile if it is missing or lacks something."""
        spec = read_json(self.path / SPEC)
        kinds = {"method": str, "hyperparameters": dict, "model": dict, "data": dict}
        missing = [key for key, kind in kinds.items() if not isinstance(spec.get(key), kind)]
        for part, keys in PARTS.items():
            if part not in missing:
                missing += [f"{part}.{key}" for key in keys if not isinstance(spec[part].get(key), str)]
        if missing:
            raise DamagedFile(f"{self.path / SPEC} lacks {', '.join(missing)}")
        known = {key: spec.pop(key) for key in kinds}
        return RunSpec(**known, training=spec.pop("training", None) or {}, seed=spec.pop("seed", None), further=spec)

    def write_manifest(self, status: RunStatus, facts: Mapping[str, Any]) -> None:
        write_json(self.path / MANIFEST, {"status": status, **facts})

    def manifest(self) -> dict[str, Any]:
        """DamagedFile if it is missing."""
        return read_json(self.path / MANIFEST)

    @property
    def finished(self) -> bool:
        """DamagedFile for a manifest that cannot be read: whether it may be trained over is the user's to say."""
        if not (self.path / MANIFEST).is_file():
            return False
        try:
            return self.manifest().get("status") == "finished"
        except DamagedFile as error:
            raise DamagedFile(f"{error}; delete the file to have this run trained again") from None

    # what training leaves

    @property
    def metrics(self) -> Path:
        """A line a step, in order."""
        return self.path / METRICS

    def steps(self) -> Iterator[dict[str, Any]]:
        return read_steps(self.metrics)

    def add_step(self, row: Mapping[str, Any]) -> None:
        append(self.metrics, json.dumps(row) + "\n")

    def keep_steps(self, last: int) -> None:
        """Forget the steps after `last`, from which the run continues, and a torn last line."""
        self.write_steps(row for row in self.steps() if row["step"] <= last)

    def write_steps(self, rows: Iterable[Mapping[str, Any]]) -> None:
        write_atomically(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def policy(self) -> Path:
        """A folder as save_pretrained writes it: an adapter, or all weights."""
        return self.path / "policy"

    @property
    def adapter(self) -> Path:
        """The adapter's weights, which a fully trained run does not have."""
        return self.policy / "adapter_model.safetensors"

    @property
    def has_adapter(self) -> bool:
        return (self.policy / "adapter_config.json").is_file()

    @property
    def players(self) -> Path:
        return self.path / "players"

    @property
    def merged(self) -> Path:
        """The policy with its adapter merged, made when another run starts from it."""
        return self.path / "merged"

    @property
    def bad_batch(self) -> Path:
        """The batch that led to a loss that is not finite."""
        return self.path / "bad_batch.safetensors"

    # what tasks leave

    @property
    def evaluations(self) -> Path:
        return self.path / EVALUATIONS

    def evaluation(self, task: str, key: str) -> Path:
        """The result of a task; `key` is a hash of its revision and settings."""
        return self.evaluations / f"{task}-{key}.json"

    def evaluation_files(self) -> list[Path]:
        """Every task's result."""
        return sorted(self.evaluations.glob("*.json"))

    def files_of(self, task: str) -> list[Path]:
        """The results and the responses of one task."""
        return sorted(self.evaluations.glob(f"{task}-*.json*"))

    # what a search leaves

    @property
    def tuning(self) -> Path:
        """The search that a tuned run's hyperparameters come from."""
        return self.path / "tuning.json"

    def dev_metrics(self, key: str) -> Path:
        """The measurements of a trial; `key` is a hash of what was asked."""
        return self.path / f"dev-{key}.json"


def responses_file(evaluations: Path, task: str, key: str) -> Path:
    """Path of a task's responses in the folder of evaluations; `key` is a hash of how they were generated."""
    return evaluations / f"{task}-{key}{RESPONSES}"


def run_folders(out: Path) -> list[RunFolder]:
    """Every folder below OUT/runs, by name."""
    return [RunFolder(path) for path in sorted((out / "runs").glob("*")) if path.is_dir()]


def read_steps(history: Path, *, size: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a metrics.jsonl up to its end, its first `size` bytes or the first line that a kill has torn.

    Nothing if it is missing.
    """
    if not history.exists():
        return
    for line in history.read_bytes()[:size].decode("utf-8", errors="replace").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            return
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row

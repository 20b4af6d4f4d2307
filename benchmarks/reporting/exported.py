"""Policies as others use them: the card beside the saved one, and the full model of an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.reporting.model_card import model_card
from benchmarks.results.results import BASE, Run, load_untrained, read_run
from experiments.manifest import DamagedFile, write_atomically
from experiments.models.loading import load_model, load_tokenizer, quiet_transformers, resolve_model, weights_hash
from experiments.models.staged import with_adapter
from experiments.models.weights import ResolvedModel
from experiments.run_folder import RunFolder
from registry import nearest

DTYPES = ("bfloat16", "float32")


def run_at(name: str, out: Path) -> Run:
    """A finished run that trained something, by its id below `out` or its folder. ValueError, KeyError otherwise."""
    given = Path(name)
    folder = given if given.is_dir() else out / "runs" / name
    if not folder.is_dir():
        known = [path.name for path in (out / "runs").glob("*") if path.is_dir()]
        raise KeyError(f"no run {name!r} below {out / 'runs'}{nearest(name, known)}")
    try:
        run, _ = read_run(RunFolder(folder))
    except DamagedFile as problem:
        raise ValueError(f"{folder} is no finished run: {problem}") from None
    if run.method == BASE:
        raise ValueError(f"{name} is the untrained model; give the run of a method")
    if not (folder / "policy").is_dir():
        raise ValueError(f"{folder} has no policy/: its weights were removed")
    return run


def write_card(run: Run) -> Path:
    """The card beside the saved policy, with the results that there are."""
    path = run.folder / "policy" / "README.md"
    write_atomically(path, model_card(run, load_untrained(run)))
    return path


def write_full_model(run: Run, folder: Path, *, dtype: str, model: str | None = None) -> None:
    """A model without an adapter in a new `folder`, as transformers and vLLM load it, with tokenizer and card.

    `model` says where the base weights are, if the run's own name for them does not. ValueError for a folder that is
    not empty, or for other base weights than the run was trained from.
    """
    import torch

    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is not empty; name a new folder")
    policy = run.folder / "policy"
    whole: Any
    if (policy / "adapter_config.json").is_file():
        base = _base(run, model)
        whole = with_adapter(policy, base).merge_and_unload()
    else:
        whole = load_model(policy)
    with quiet_transformers():
        whole.to(getattr(torch, dtype)).save_pretrained(folder)
        load_tokenizer(ResolvedModel(name=run.id, folder=policy, origin="path")).save_pretrained(folder)
    write_atomically(folder / "README.md", model_card(run, load_untrained(run), merged=dtype))


def _base(run: Run, model: str | None) -> ResolvedModel:
    name = model or _of_another_run(run) or run.model["name"]
    try:
        base = resolve_model(name)
    except KeyError as error:
        raise KeyError(f"{error.args[0]}; --model says where the base model is") from None
    if (found := weights_hash(base.folder)) != run.model["weights"]:
        raise ValueError(
            f"{run.id} was trained from weights {run.model['weights'][:12]}…, and {name} has {found[:12]}…;"
            " give the right model with --model"
        )
    return base


def _of_another_run(run: Run) -> str | None:
    """What --init-from started from: the merged model of another run of the same output folder."""
    _, plus, rest = run.model["name"].partition("+")
    folders = sorted(run.folder.parent.glob(f"{rest.rpartition('-')[2]}*/merged")) if plus else []
    return str(folders[0]) if folders else None

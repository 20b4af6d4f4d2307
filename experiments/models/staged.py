"""A model to start from that another run has trained: its adapter is merged first.

Training then adds a new adapter, so that "adapter off" is the model that this stage started from: the right reference.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from experiments.disk import num_bytes, writing
from experiments.manifest import write_json
from experiments.models.loading import load_model, load_tokenizer, quiet_transformers, weights_hash
from experiments.models.soundness import check_adapter
from experiments.models.weights import ResolvedModel, quiet_peft
from experiments.run_folder import RunFolder
from registry.assets import file_sha256, locked

MARK = "merged.json"  # {"adapter": sha256 of what was merged, "model": sha256 of what it was merged into}


def staged_model(run: Path, base: ResolvedModel) -> ResolvedModel:
    """The model that the finished run in the folder `run` trained from `base`, without an adapter.

    Merged once into `run/merged`. Raises ValueError for a folder that is no finished run, one that trained nothing, or
    one that started from other weights than `base`.
    """
    files = RunFolder(run)
    if not files.finished:
        raise ValueError(
            f"{run} is no finished run (--init-from takes a folder OUT/runs/ID with a manifest); finish it"
        )
    spec = files.spec()
    if not files.policy.is_dir():
        raise ValueError(f"{run} trained nothing (it is the row {spec.method!r}); give the run of a method")
    weights = weights_hash(base.folder)
    if spec.model["weights"] != weights:
        raise ValueError(
            f"{run} started from {spec.model['name']} with weights {spec.model['weights'][:12]}…, and this model"
            f" has {weights[:12]}…; give the same --model"
        )
    name = f"{base.name}+{spec.method}-{run.name[:8]}"
    if not files.has_adapter:
        return ResolvedModel(name=name, folder=_with_tokenizer(files.policy, base), origin="path", preset=base.preset)
    mark = {"adapter": file_sha256(files.adapter), "model": weights}
    merged = files.merged
    with locked(run / "merged.lock"):
        if _read(merged / MARK) != mark:
            _merge(run, base, merged, mark)
    return ResolvedModel(name=name, folder=merged, origin="path", preset=base.preset)


def _merge(run: Path, base: ResolvedModel, merged: Path, mark: dict[str, str]) -> None:
    adapted = with_adapter(RunFolder(run).policy, base)
    with tempfile.TemporaryDirectory(dir=run, prefix=".merged-") as temporary, quiet_transformers():
        work = Path(temporary, "merged")
        whole = adapted.merge_and_unload()
        with writing(work, num_bytes(dict(whole.named_parameters())), discard=True):
            whole.save_pretrained(work)
            load_tokenizer(base).save_pretrained(work)
        write_json(work / MARK, mark)
        if merged.exists():
            shutil.rmtree(merged)
        work.rename(merged)


def with_adapter(policy: Path, base: ResolvedModel) -> Any:
    """The peft model of a saved adapter on `base`."""
    import peft

    library: Any = peft  # its loaders have no types
    with quiet_peft():
        adapted = library.PeftModel.from_pretrained(load_model(base), policy)
    check_adapter(adapted, load_file(policy / "adapter_model.safetensors"), policy)
    return adapted


def _with_tokenizer(folder: Path, base: ResolvedModel) -> Path:
    if not (folder / "tokenizer_config.json").exists():
        with quiet_transformers():
            load_tokenizer(base).save_pretrained(folder)
    return folder


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content

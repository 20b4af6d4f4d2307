"""What makes a trained policy usable elsewhere: its tokenizer beside it, and its base model by the hub's name."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.manifest import write_json
from experiments.models.loading import load_tokenizer, quiet_transformers, resolve_model
from experiments.models.weights import HUB_ID, MARK, ResolvedModel

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """Where training started, for someone on another machine.

    `name` is the hub's id; for a folder that no hub knows, its last part. `dequantised` says that the weights were made
    from a copy of lower precision, so that the hub's are close to them and not the same.
    """

    name: str
    on_hub: bool
    revision: str | None = None  # a commit of the hub
    licence: str | None = None
    dequantised: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def base_of(model: ResolvedModel) -> BaseModel:
    """Never names a path of this machine."""
    preset = model.preset if model.origin != "path" else None  # of a path: a model trained from a preset's
    if preset is None and not (model.origin != "path" and HUB_ID.fullmatch(model.name)):
        return BaseModel(name=model.name, on_hub=False)
    commit = model.folder.name if COMMIT.fullmatch(model.folder.name) else None
    return BaseModel(
        name=preset.hub if preset else model.name,
        on_hub=True,
        revision=commit,
        licence=preset.licence if preset else None,
        dequantised=(model.folder / MARK).is_file(),
    )


def make_portable(folder: Path, model: Any) -> BaseModel:
    """Complete what save_pretrained left in `folder`, which was trained from `model` (what `load_model` takes)."""
    resolved = model if isinstance(model, ResolvedModel) else resolve_model(model)
    base = base_of(resolved)
    with quiet_transformers():
        load_tokenizer(resolved).save_pretrained(folder)
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        settings = json.loads(adapter.read_text(encoding="utf-8")) | {"task_type": "CAUSAL_LM", "auto_mapping": None}
        write_json(adapter, settings | {"base_model_name_or_path": base.name, "revision": base.revision})
    (folder / "README.md").unlink(missing_ok=True)  # peft's, which names a path
    return base

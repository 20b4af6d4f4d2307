"""Finds a model's files (a given folder, the cache, the hub, or the copy in a package) and identifies them by hash."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.disk import writing
from experiments.manifest import write_json
from experiments.models.soundness import damage
from registry import nearest
from registry.assets import AssetError, cache_folder, fetch, file_sha256, hub_reachable, locked, require_space
from registry.models import MODELS, ModelPreset

log = logging.getLogger(__name__)

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w.-]+)?")  # owner/name, or owner/name@revision
CONFIG_FILES = ("*.json", "*.py")
HUB_FILES = (*CONFIG_FILES, "*.safetensors", "*.jinja", "*.txt", "tokenizer.model")
MARK = "complete.json"  # {"source": sha256 of what was converted, "files": {name: sha256}}, written last


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """A model on this disk. Results are filed under `name`: the preset's, the hub's or the folder's."""

    name: str
    folder: Path
    origin: Literal["path", "cache", "hub", "package"]
    preset: ModelPreset | None = None


def resolve_model(name_or_path: str | Path, *, cache: Path | None = None) -> ResolvedModel:
    """Find the files: a given folder, the cache, the hub if it may be asked and answers, the copy in a package.

    Raises KeyError for an unknown name (with the nearest), ValueError for a folder that holds no usable model, and
    AssetError, which says what to do, for a model that cannot be had here.
    """
    cache = cache or cache_folder()
    if folder := given_folder(name_or_path):
        if problem := _problem(folder):
            raise ValueError(problem)
        return ResolvedModel(name=folder.resolve().name, folder=folder, origin="path")
    name, hub_id, preset = identify(str(name_or_path))
    converted = cache / "models" / name
    if preset and _is_converted(preset, converted, cache):
        return ResolvedModel(name=name, folder=converted, origin="cache", preset=preset)
    if snapshot := cached_snapshot(hub_id):
        return ResolvedModel(name=name, folder=snapshot, origin="cache", preset=preset)
    reason = "it is not on this disk, and the hub may not be asked or does not answer"
    if hub_reachable():
        try:
            return ResolvedModel(name=name, folder=download(hub_id, HUB_FILES), origin="hub", preset=preset)
        except AssetError as error:
            reason = str(error)
    if preset and preset.package:
        log.info("%s: %s; using the copy in the package", name, reason)
        _convert(preset, converted, cache)
        return ResolvedModel(name=name, folder=converted, origin="package", preset=preset)
    raise AssetError(_how_to_get(name, hub_id, preset, reason))


def weights_hash(folder: Path, *, cache: Path | None = None) -> str:
    """The sha-256 over the names and contents of the folder's safetensors files: the identity of a model."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{folder} holds no *.safetensors file, so there are no weights to hash")
    lines = [f"{file.name} {_cached_sha256(file, cache or cache_folder())}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, notes or warnings of transformers on the terminal while the context lasts."""
    import transformers

    their_logging: Any = transformers.logging
    verbosity, bars = their_logging.get_verbosity(), their_logging.is_progress_bar_enabled()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        yield
    finally:
        their_logging.set_verbosity(verbosity)
        if bars:
            their_logging.enable_progress_bar()


@contextlib.contextmanager
def quiet_peft() -> Iterator[None]:
    """No warnings of peft about what it settles by itself while the context lasts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it reads an attribute that transformers is about to rename
        warnings.filterwarnings("ignore", "fan_in_fan_out is set")  # of GPT-2's transposed layers
        warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys")  # of experts, which get no adapter
        yield


def given_folder(name_or_path: str | Path) -> Path | None:
    """The folder that is meant; None for what is a name. ValueError for a path that is no folder."""
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.is_dir() and (text not in MODELS or (path / "config.json").exists()):
        return path
    if path.is_file():
        raise ValueError(f"{path} is a file; give the folder that holds config.json and the *.safetensors")
    if isinstance(name_or_path, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise ValueError(f"there is no folder {path}")
    return None


def identify(name: str) -> tuple[str, str, ModelPreset | None]:
    """The name to file under, the hub id, and the preset of a preset's name or hub id, or of any other hub id."""
    for preset in MODELS.values():
        if name in (preset.name, preset.hub):
            return preset.name, preset.hub, preset
    if HUB_ID.fullmatch(name):
        return name, name, None
    raise KeyError(f"no model {name!r}{nearest(name, MODELS)} (a folder or a hub id, owner/name, is a model too)")


def cached_snapshot(hub_id: str, patterns: Sequence[str] = HUB_FILES) -> Path | None:
    """The hub's files as far as its own cache on this disk holds all of them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(**_pinned(hub_id), allow_patterns=list(patterns), local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    if patterns is HUB_FILES:
        return None if _problem(folder) else folder
    return folder if (folder / "config.json").exists() else None


def download(hub_id: str, patterns: Sequence[str]) -> Path:
    """Bring the files from the hub into its cache. AssetError with the reason when that fails."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(snapshot_download(**_pinned(hub_id), allow_patterns=list(patterns)))
    except GatedRepoError:
        raise AssetError(f"{hub_id} is gated, and this account may not read it") from None
    except RevisionNotFoundError:
        raise AssetError(
            f"the hub has no revision {hub_id.partition('@')[2]!r} of {hub_id.partition('@')[0]}"
        ) from None
    except RepositoryNotFoundError:
        raise AssetError(f"the hub has no {hub_id}, or it is private") from None
    except Exception as error:  # the classes of network errors differ between releases of the hub's client
        raise AssetError(f"the hub did not deliver {hub_id} ({type(error).__name__}: {error})") from error
    if patterns is HUB_FILES and (problem := _problem(folder)):
        raise AssetError(f"{hub_id} cannot be used: {problem}")
    return folder


def _pinned(hub_id: str) -> dict[str, Any]:
    """What the hub's client takes for `owner/name` or `owner/name@revision`."""
    repository, _, revision = hub_id.partition("@")
    return {"repo_id": repository, "revision": revision or None}


def _problem(folder: Path) -> str | None:
    """The reason why a folder cannot be loaded as a model, or an empty text."""
    if not (folder / "config.json").exists():
        if (folder / "adapter_config.json").exists():
            return f"{folder} holds a LoRA adapter, not a model; merge it into its base model first"
        return f"{folder} holds no config.json; a model is a folder that save_pretrained wrote"
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{index} cannot be read; copy or download it again"
        missing = sorted(shard for shard in shards if not (folder / shard).exists())
        if missing:
            return f"{folder} lacks {', '.join(missing)}"
        return next(filter(None, (damage(folder / shard) for shard in sorted(shards))), None)
    if (folder / "model.safetensors").exists():
        return damage(folder / "model.safetensors")
    return f"{folder} holds no model.safetensors (pickled weights are never loaded: save it again as safetensors)"


def _how_to_get(name: str, hub_id: str, preset: ModelPreset | None, reason: str) -> str:
    gated = (preset is not None and preset.gated) or "gated" in reason
    steps = ["log in with `hf auth login` or HF_TOKEN" if gated else "make the hub reachable"]
    if gated:
        steps.insert(0, f"accept its licence at https://huggingface.co/{hub_id}")
    title = name if name == hub_id else f"{name} ({hub_id})"
    return f"{title} cannot be had: {reason}. Either {' and '.join(steps)}, or give a local folder: --model FOLDER"


def _is_converted(preset: ModelPreset, folder: Path, cache: Path) -> bool:
    """Whether a conversion is complete, unharmed, and made of the package's present file."""
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        return (
            preset.package is not None
            and mark["source"] == preset.package.sha256
            and all(_cached_sha256(folder / name, cache) == digest for name, digest in mark["files"].items())
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, cut off, or not ours
        return False


def _convert(preset: ModelPreset, folder: Path, cache: Path) -> None:
    """Write a package's GGUF file as a folder of float32 safetensors: once, about 20 seconds, in one step."""
    assert preset.package
    if importlib.util.find_spec("gguf") is None:
        raise AssetError(f"{preset.name} comes as GGUF, which needs the package gguf: pip install gguf")
    with locked(folder.with_name(f"{folder.name}.lock")):
        if _is_converted(preset, folder, cache):  # another process did it while we waited
            return
        for stale in folder.parent.glob(f".{folder.name}-*"):  # left by a killed process: we hold the lock
            shutil.rmtree(stale)
        source = fetch(preset.package, cache)
        require_space(folder.parent, 5 * preset.num_parameters, preset.name)
        log.info("converting %s to float32 safetensors, once", source.name)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            work = Path(temporary, folder.name)
            with writing(work):
                _write_safetensors(source, work)
            digests = {file.name: file_sha256(file) for file in sorted(work.iterdir())}
            write_json(work / MARK, {"source": preset.package.sha256, "files": digests})
            if folder.exists():
                shutil.rmtree(folder)
            work.rename(folder)


def _write_safetensors(source: Path, folder: Path) -> None:
    import torch
    import transformers

    library: Any = transformers  # its loaders have no types
    # Without GgufConfig the model still counts as quantised, and save_pretrained refuses. The reader draws its own
    # progress bar, which no setting turns off.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = library.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
        model = library.AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            quantization_config=library.GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0o600, which would hide a shared cache from the rest of a team


def _cached_sha256(file: Path, cache: Path) -> str:
    """The file's sha-256, remembered as long as its path, size and time of change stay the same."""
    stat = file.stat()
    path = str(file.resolve())
    facts = [path, stat.st_size, stat.st_mtime_ns]
    note = cache / "hashes" / f"{hashlib.sha256(path.encode()).hexdigest()[:24]}.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        if known["facts"] == facts:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    digest = file_sha256(file)
    with contextlib.suppress(OSError):  # a read-only cache only costs time
        write_json(note, {"facts": facts, "sha256": digest})
    return digest

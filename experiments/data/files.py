"""Reading files and folders of data: JSON, JSONL, CSV, Parquet and Arrow, plain or compressed.

Nothing is judged here but whether a record can be read at all; `formats.py` says what they mean.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.data.conversations import RepeatedKeys, is_messages

if TYPE_CHECKING:
    import pyarrow

TEXT = (".json", ".jsonl", ".ndjson", ".csv", ".tsv")
TABLES = (".parquet", ".arrow")
COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")
SUFFIXES = (*TEXT, *TABLES, *(text + packed for text in TEXT for packed in COMPRESSIONS))
SHOWN = ".json, .jsonl, .ndjson, .csv, .tsv (also .gz, .zst, .bz2, .xz), .parquet, .arrow"
WRONG_ENCODING = 0.1  # of the lines that are not UTF-8: above it the file is in another encoding


@dataclass(frozen=True)
class Records:
    """`records ((1, {"prompt": …}), (2, {…}))`, `unreadable {"unreadable": (3,)}`: line 3 is not JSON.

    `unit` says what is counted, from 1: lines of a JSONL file, or rows of a list or table.
    """

    name: str
    unit: Literal["line", "row"]
    records: tuple[tuple[int, Any], ...]
    unreadable: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by reason, one of `report.DROPPED`

    @property
    def num_rows(self) -> int:
        """With those that could not be read."""
        return len(self.records) + sum(map(len, self.unreadable.values()))


def numbered(rows: list[Any]) -> tuple[tuple[int, Any], ...]:
    return tuple(enumerate(rows, start=1))


def read_file(path: Path, name: str | None = None) -> Records:
    """The records of one file, by its suffix; ValueError says what is wrong with it."""
    stem, _, suffixes = path.name.partition(".")
    suffix = f".{suffixes.lower()}"
    if not suffix.endswith(SUFFIXES):
        raise ValueError(f"cannot tell the format of {path}; its name must end in one of {SHOWN}")
    name = name or stem
    if suffix.endswith(TABLES):
        return Records(name, "row", numbered(_read_table(path)))
    content = _read_bytes(path, suffix)
    for packed in COMPRESSIONS:
        suffix = suffix.removesuffix(packed)
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:200]:
        raise ValueError(f"{path} is not UTF-8 text but UTF-16, UTF-32 or binary; save it as UTF-8")
    if suffix.endswith((".csv", ".tsv")):
        return _parse_csv(content, path, name, "\t" if suffix.endswith(".tsv") else ",")
    records = _parse_json(content, path, name) if suffix.endswith(".json") else _parse_lines(content, name)
    wrong = records.unreadable.get("encoding", ())
    if len(wrong) > WRONG_ENCODING * records.num_rows:
        raise ValueError(
            f"{path} is not UTF-8 text: {len(wrong)} of {records.num_rows} lines are not, the first of them line"
            f" {wrong[0]}; it may be Latin-1 or Windows-1252: save it as UTF-8"
        )
    return records


def read_folder(folder: Path, split: str | None = None) -> Records:
    """Reads a folder of `datasets.save_to_disk`, or all files of one kind (shards) in the order of their names.

    Of several splits `train` is taken unless `split` says another. ValueError for a folder that holds neither.
    """
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _read_saved(folder, split)
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.lower().endswith(SUFFIXES))
    shards = [path for path in found if path.name not in ("dataset_infos.json", "dataset_info.json")]
    kinds = {kind for kind in (*TEXT, *TABLES) for path in shards if kind in [s.lower() for s in path.suffixes]}
    if not shards or len(kinds) > 1:
        what = f"files of several kinds ({', '.join(sorted(kinds))})" if shards else "no file of data"
        raise ValueError(f"{folder} is a folder with {what}; give one file of it ({SHOWN})")
    by_split: dict[str, list[Path]] = {}
    for path in shards:
        place = path.parent.name if path.parent != folder and path.parent.name != "data" else path.name
        by_split.setdefault(_split_named(place), []).append(path)
    chosen = _choose_split(folder, list(by_split), split)
    read = [read_file(path) for path in by_split[chosen]]
    if len(read) == 1:
        return Records(folder.name, read[0].unit, read[0].records, read[0].unreadable)
    rows, unreadable, start = list[tuple[int, Any]](), dict[str, tuple[int, ...]](), 0
    for records in read:
        rows += [(start + number, record) for number, record in records.records]
        for reason, numbers in records.unreadable.items():
            unreadable[reason] = (*unreadable.get(reason, ()), *(start + number for number in numbers))
        start += max([records.num_rows, *(number for number, _ in records.records)])
    return Records(folder.name, "row", tuple(rows), unreadable)


def _split_named(name: str) -> str:
    """`train` of `train-00000-of-00002.parquet`; what names no split belongs to `train`."""
    word = name.lower().replace("_", "-").replace(".", "-").partition("-")[0]
    return word if word in ("train", "test", "validation", "valid", "dev", "eval") else "train"


def _choose_split(folder: Path, splits: list[str], wanted: str | None) -> str:
    if wanted is None and len(splits) == 1:
        return splits[0]
    if (wanted or "train") in splits:
        return wanted or "train"
    raise ValueError(f"{folder} has the splits {', '.join(splits)}; name one, as {folder}#{splits[0]}")


def _read_saved(folder: Path, split: str | None) -> Records:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(folder))
        if isinstance(loaded, datasets.DatasetDict):
            loaded = loaded[_choose_split(folder, list(map(str, loaded)), split)]
        rows = rows_of(loaded.with_format("arrow")[:])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder} is not a readable folder of datasets.save_to_disk: {error}") from None
    return Records(folder.name, "row", numbered(rows))


def _read_table(path: Path) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        if path.name.lower().endswith(".parquet"):
            return rows_of(pyarrow.parquet.ParquetFile(path).read())
        with pyarrow.memory_map(str(path)) as source:
            try:
                return rows_of(pyarrow.ipc.open_file(source).read_all())
            except pyarrow.ArrowInvalid:  # datasets writes streams
                source.seek(0)
                return rows_of(pyarrow.ipc.open_stream(source).read_all())
    except (pyarrow.ArrowException, OSError) as error:
        kind = "Parquet" if path.name.lower().endswith(".parquet") else "Arrow"
        raise ValueError(f"{path} is not a readable {kind} file: {error}") from None


def rows_of(table: pyarrow.Table) -> list[dict[str, Any]]:
    """The rows as Python values; times become text. ValueError for a column name that stands twice."""
    import pyarrow

    if twice := sorted({name for name in table.column_names if table.column_names.count(name) > 1}):
        raise ValueError(f"the table has the column {', '.join(twice)} twice")
    columns: dict[str, list[Any]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns[name] = _without_times(column).to_pylist()
        except (pyarrow.ArrowException, ValueError, OverflowError, TypeError):
            columns[name] = [_text_of(value) for value in column]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _without_times(column: pyarrow.ChunkedArray) -> pyarrow.ChunkedArray:
    import pyarrow

    return column.cast(pyarrow.string()) if pyarrow.types.is_temporal(column.type) else column


def _text_of(value: pyarrow.Scalar) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError, TypeError):
        return str(value)


def _read_bytes(path: Path, suffix: str) -> bytes:
    try:
        content = path.read_bytes()
        return next((unpack(content) for end, unpack in UNPACK.items() if suffix.endswith(end)), content)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:  # gzip.BadGzipFile is an OSError
        raise ValueError(f"{path} cannot be read: {error}") from None


def _unpack_zst(content: bytes) -> bytes:
    import pyarrow

    return bytes(pyarrow.CompressedInputStream(pyarrow.BufferReader(content), "zstd").read())


UNPACK: Mapping[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".zst": _unpack_zst,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}


def _object(pairs: list[tuple[str, Any]]) -> Any:
    made = dict(pairs)
    return made if len(made) == len(pairs) else RepeatedKeys()


def _parse_json(content: bytes, path: Path, name: str) -> Records:
    try:
        parsed = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        lines = _parse_lines(content, name)  # many a .json file holds a JSON object a line
        if any(isinstance(record, dict) for _, record in lines.records):
            return lines
        if isinstance(error, UnicodeDecodeError):
            raise ValueError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
        raise ValueError(f"{path} is not JSON: {error}") from None
    return Records(name, "row", numbered(_rows_in(parsed)))


def _rows_in(parsed: Any) -> list[Any]:
    """The rows of a list, of a table of columns (lists, or pandas' objects by index), or below a lone key."""
    if not isinstance(parsed, dict):
        return parsed if isinstance(parsed, list) else [parsed]
    values = list(parsed.values())
    if len(values) == 1 and isinstance(values[0], list) and _are_objects(values[0]) and not is_messages(values[0]):
        return values[0]  # {"data": [...]}
    if len(values) > 1 and all(map(_is_by_index, values)):
        values = [list(column.values()) for column in values]
    lists = all(isinstance(column, list) for column in values)
    if lists and len(set(map(len, values))) == 1 and not any(map(is_messages, values)):
        return [dict(zip(parsed, row, strict=True)) for row in zip(*values, strict=True)]
    return [parsed]


def _are_objects(rows: list[Any]) -> bool:
    return bool(rows) and all(isinstance(row, dict) for row in rows)


def _is_by_index(column: Any) -> bool:
    return isinstance(column, dict) and bool(column) and list(column) == [str(i) for i in range(len(column))]


def _parse_lines(content: bytes, name: str) -> Records:
    """One JSON value a line. Split at the byte 10 only: JSON strings may hold other line separators."""
    records = []
    unreadable: dict[str, list[int]] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append((number, json.loads(line.decode("utf-8"), object_pairs_hook=_object)))
        except UnicodeDecodeError:
            unreadable.setdefault("encoding", []).append(number)
        except (ValueError, RecursionError):
            unreadable.setdefault("unreadable", []).append(number)
    return Records(name, "line", tuple(records), {reason: tuple(found) for reason, found in unreadable.items()})


def _parse_csv(content: bytes, path: Path, name: str, delimiter: str) -> Records:
    """A header and rows of as many cells; others are unreadable. Rows are numbered from 1 after the header."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} is not UTF-8 text (line {line}); it may be Latin-1 or Windows-1252: save it as UTF-8"
        ) from None
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = [row for row in _cells(reader, path) if row]
    header = [cell.strip() for cell in rows[0]] if rows else []
    if twice := sorted({cell for cell in header if header.count(cell) > 1}):
        raise ValueError(f"{path} has the column {', '.join(twice)} twice")
    good = [(n, dict(zip(header, row, strict=True))) for n, row in numbered(rows[1:]) if len(row) == len(header)]
    bad = tuple(n for n, row in numbered(rows[1:]) if len(row) != len(header))
    return Records(name, "row", tuple(good), {"unreadable": bad} if bad else {})


def _cells(reader: Iterator[list[str]], path: Path) -> Iterator[list[str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise ValueError(f"{path} is not a readable CSV file: {error}") from None

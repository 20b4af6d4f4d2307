"""Published AlpacaEval annotations and instruction difficulties, read from CSV files."""

from __future__ import annotations

import csv
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Annotation:
    """One judgement. `preference` is None where the judge gave none, else 0 (the reference won) … 1 (the model won)."""

    instruction: str
    preference: float | None
    reference_length: float  # characters
    model_length: float


def read_annotations(path: Path) -> dict[str, list[Annotation]]:
    """Judgements by model, from the columns `model, instruction, preference, reference_length, model_length`.

    A preference is 1 … 2, 2 if the model wins; 0 and 1.5 are a draw, as alpaca_eval writes them.
    """
    found: dict[str, list[Annotation]] = {}
    columns = ("model", "instruction", "preference", "reference_length", "model_length")
    for place, row in _rows(path, columns):
        lengths = [_number(row[name], f"{place}: {name}") for name in columns[3:]]
        if not all(0 <= length < math.inf for length in lengths):
            raise ValueError(f"{place}: lengths are {lengths}; they are counts of characters")
        preference = _preference(row["preference"], place)
        found.setdefault(row["model"], []).append(Annotation(row["instruction"], preference, *lengths))
    if not found:
        raise ValueError(f"{path} holds no judgement")
    return found


def read_difficulty(path: Path) -> dict[str, float]:
    """AlpacaEval's difficulty of each instruction, in the file's order, from the columns `instruction, difficulty`."""
    difficulty: dict[str, float] = {}
    for place, row in _rows(path, ("instruction", "difficulty")):
        if row["instruction"] in difficulty:
            raise ValueError(f"{place}: instruction {row['instruction']} stands there a second time")
        difficulty[row["instruction"]] = _number(row["difficulty"], f"{place}: difficulty")
        if not math.isfinite(difficulty[row["instruction"]]):
            raise ValueError(f"{place}: difficulty is {row['difficulty']}; give a finite number")
    return difficulty


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV, gzipped if its name ends in .gz, each with its place for a complaint."""
    zipped = path.suffix == ".gz"
    place = str(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="") if zipped else path.open(newline="") as file:
            reader = csv.DictReader(file, restval="")
            if missing := [name for name in columns if name not in (reader.fieldnames or [])]:
                raise ValueError(f"{path} has no column {missing[0]}; it needs {', '.join(columns)}")
            for row in reader:
                place = f"{path}, line {reader.line_num}"
                yield place, row
    except (EOFError, zlib.error, gzip.BadGzipFile, csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{place}: {error}; give a CSV in UTF-8, gzipped only where its name ends in .gz") from None


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} is {text!r}, not a number") from None


def _preference(text: str, place: str) -> float | None:
    value = _number(text or "nan", f"{place}: preference")
    if math.isnan(value):
        return None
    if value != 0 and not 1 <= value <= 2:
        raise ValueError(f"{place}: preference is {text}; it must lie in 1 … 2, or be 0 for a draw")
    return value - 1 if value else 0.5

"""Turns records into rows: finds a file's format and the use of each column, and reports what was left unread."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.data.columns import FIELDS, Columns, is_empty, meaning_of, shape_of, texts_in
from experiments.data.conversations import is_transcript
from experiments.data.files import Records
from experiments.data.formats import FORMATS, Format, Kind, parse_row
from experiments.data.report import Findings
from experiments.data.rows import InvalidRow, Row

MARKS = re.compile(
    r"<\|im_(?:start|end)\|>|\[/?INST\]|<<SYS>>|<\|(?:start_header_id|eot_id|begin_of_text)\|>|<(?:start|end)_of_turn>"
    r"|<\|(?:user|assistant|system|end)\|>|<｜(?:User|Assistant)｜>|(?:^|\n)### ?(?:Response|Assistant|Human):"
    r"|(?:^|\n)(?:USER|ASSISTANT): |\bASSISTANT:\s*$|(?:^|\n\n)(?:Human|Assistant): |(?:</s>|<\|endoftext\|>)\s*$"
)
# One of these is in every mark: plain search finds quickly that a text has none.
HINTS = ("<|", "INST]", "<<SYS>>", "_of_turn>", "<｜", "###", "USER: ", "ASSISTANT:", "Human: ", "Assistant: ", "</s>")
MANY_MARKS = 0.1  # of the rows: above it the text is taken for a conversation that went through a template already


@dataclass
class Reading:
    """The format of a file and, by the columns that a record has, where each field stands."""

    known: Format
    shapes: Mapping[str, str]  # of all columns; "empty" if they are so throughout
    columns: Columns
    _bound: dict[tuple[str, ...], Mapping[str, str]] = field(default_factory=dict)

    def bound(self, record: Any) -> Mapping[str, str]:
        """`{"prompt": "question", …}` for one record."""
        keys = tuple(record) if isinstance(record, Mapping) else ()
        if keys not in self._bound:
            self._bound[keys] = _bind(self.known, keys, self.shapes, self.columns)
        return self._bound[keys]

    def parse(self, number: int, record: Any, notes: set[str] | None = None) -> Row:
        """The row of one record; InvalidRow with the reason if it cannot be used."""
        return parse_row(number, record, self.known, self.bound(record), set() if notes is None else notes)


def validate(source: Records, findings: Findings, columns: Columns | None = None) -> tuple[Kind, list[Row]]:
    """The kind of the data, and the rows that are sound as text, without duplicates.

    ValueError for a file in no known format, or with a column that seems to mean something and is not used.
    """
    for reason, numbers in source.unreadable.items():
        findings.drop(reason, numbers)
    if not source.records:
        report = findings.report(source.name, source.unit, source.num_rows)
        raise ValueError(f"{source.name} has no usable row\n{report.summary()}")
    reading = recognise((record for _, record in source.records), columns, source.name)
    rows: dict[str, Row] = {}
    leftover = _Leftover(reading)
    for number, record in source.records:
        notes: set[str] = set()
        try:
            row = reading.parse(number, record, notes)
        except InvalidRow as error:
            findings.drop(error.reason, [number])
            continue
        except ValueError as error:
            raise ValueError(f"{source.name} has {error} ({source.unit} {number})") from None
        leftover.look_at(number, record, notes)
        if row.content_hash in rows:
            findings.drop("duplicate", [number])
            continue
        for note in notes:
            findings.note(note, [number])
        rows[row.content_hash] = row
        if row.opposite_hash in rows and reading.known.kind != "demonstrations":
            findings.note("contradictory", [number, rows[row.opposite_hash].number])
    if not rows and findings.all_dropped_for("empty_prompt") and "prompt" not in reading.bound(source.records[0][1]):
        raise ValueError(
            f"{source.name} has plain answers and no prompt that they share: columns {', '.join(reading.shapes)}; say"
            " where it is with --columns prompt=COLUMN"
        )
    findings.columns(*leftover.settle(source.name, source.unit))
    return reading.known.kind, list(rows.values())


def recognise(records: Iterable[Any], columns: Columns | None = None, name: str = "this file") -> Reading:
    """The format that most records fit; ValueError names the columns and the accepted formats if none does."""
    columns = columns or Columns()
    counts: dict[str, Counter[str]] = {}
    key_sets: Counter[tuple[str, ...]] = Counter()
    for record in records:
        if isinstance(record, Mapping):
            key_sets[tuple(record)] += 1
            for key, value in record.items():
                counted = counts.setdefault(key, Counter())
                if not is_empty(value):
                    counted[shape_of(value)] += 1
    shapes = {key: counted.most_common(1)[0][0] if counted else "empty" for key, counted in counts.items()}
    columns.check(name, shapes)
    votes: Counter[int] = Counter()
    for keys, count in key_sets.items():
        bound = ((i, known, _bind(known, keys, shapes, columns)) for i, known in enumerate(FORMATS))
        fitting = (i for i, known, found in bound if known.fits(found) and known.takes(columns.given))
        if (first := next(fitting, None)) is not None:
            votes[first] += count
    if not votes and columns.given:
        given = ", ".join(f"{field}={column}" for field, column in columns.given.items())
        raise ValueError(f"{name}: no format takes --columns {given} of columns {', '.join(shapes)}{_accepted()}")
    if not votes:
        raise ValueError(f"{name} is in {_no_format(shapes)}")
    return Reading(FORMATS[min(votes, key=lambda i: (-votes[i], i))], shapes, columns)


def _bind(known: Format, keys: Iterable[str], shapes: Mapping[str, str], columns: Columns) -> dict[str, str]:
    return columns.bind({key: shapes[key] for key in keys if key in shapes}, known.required, known.optional)


def _no_format(shapes: Mapping[str, str]) -> str:
    named = (f"{column} (empty)" if shape == "empty" else str(column) for column, shape in shapes.items())
    found = f"columns {', '.join(named)}" if shapes else "no objects with named columns"
    return f"no known format: found {found}; say what they are with --columns prompt=COLUMN,chosen=COLUMN{_accepted()}"


def _accepted() -> str:
    return ". Accepted are\n  " + "\n  ".join(map(str, FORMATS))


@dataclass
class _Leftover:
    """Contents of the read rows that were not used."""

    reading: Reading
    num_rows: int = 0
    used: dict[str, dict[str, None]] = field(default_factory=dict)  # field: its columns
    excused: dict[str, bool] = field(default_factory=dict)  # unused column: all that it says is said by what is used
    marked: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # column: rows with a template's marks

    def look_at(self, number: int, record: Mapping[str, Any], notes: set[str]) -> None:
        """Take account of one row that was read."""
        self.num_rows += 1
        bound = self.reading.bound(record)
        for name, column in bound.items():
            self.used.setdefault(name, {})[column] = None
            if name in self.reading.columns.given or FIELDS[name].accepts == "number":
                continue
            value = record.get(column)
            if isinstance(value, str) and is_transcript(value):
                continue
            mark = next((found for text in texts_in(value) if (found := _mark(text))), None)
            if mark is not None:
                notes.add("template_marks")
                self.marked.setdefault(column, []).append((number, mark[0].strip()))
        texts: list[str] | None = None
        for column, value in record.items():
            if column in bound.values() or is_empty(value) or not self.excused.get(column, True):
                continue
            if texts is None:
                texts = [text for used in bound.values() for text in texts_in(record.get(used))]
            said = [text for text in texts_in(value) if text]
            self.excused[column] = bool(said) and all(any(text in known for known in texts) for text in said)

    def settle(self, source: str, unit: str) -> tuple[dict[str, str], dict[str, str]]:
        """The columns by field, and those that were not used with the reason. ValueError if one must be explained."""
        columns, known = self.reading.columns, self.reading.known
        used = {name: ", ".join(self.used[name]) for name in FIELDS if name in self.used}
        taken = {column for found in self.used.values() for column in found}
        unused, meant = dict[str, str](), dict[str, str]()
        for column, shape in self.reading.shapes.items():
            if column in taken:
                continue
            unused[column] = shape if shape == "empty" else "repeats what is used" if self.excused.get(column) else ""
            if column in columns.ignored:
                unused[column] = "ignored as told"
                continue
            meaning, excusable = meaning_of(column, known.kind, self.used) or ("", True)
            if meaning and column in self.excused and not (excusable and self.excused[column]):
                meant[column] = meaning
        if meant:
            raise ValueError(_unexplained(source, meant, used))
        for column, rows in self.marked.items():
            if len(rows) > MANY_MARKS * self.num_rows:
                raise ValueError(_marked(source, unit, column, rows, self.num_rows, self.used))
        return used, unused


def _mark(text: str) -> re.Match[str] | None:
    return MARKS.search(text) if any(hint in text for hint in HINTS) else None


def _unexplained(source: str, meant: Mapping[str, str], used: Mapping[str, str]) -> str:
    listed = ", ".join(f"{column} ({meaning})" for column, meaning in meant.items())
    read = ", ".join(f"{name}={column}" for name, column in used.items())
    return (
        f"{source}: not used although it seems to matter: {listed}; what is used is {read}. Say what it is with"
        f" --columns FIELD=COLUMN, or leave it out with --ignore-columns {','.join(meant)}"
    )


def _marked(
    source: str, unit: str, column: str, rows: list[tuple[int, str]], total: int, used: Mapping[str, Iterable[str]]
) -> str:
    name = next(name for name, columns in used.items() if column in columns)
    return (
        f"{source}: {column} holds a chat template's marks in {len(rows)} of {total} rows, as {rows[0][1]} in {unit}"
        f" {rows[0][0]}; the model's own template would be put around them. Give the text without them, or take it as"
        f" it stands with --columns {name}={column}"
    )

"""Whatever lies in a file: it is read with every row counted, or refused in words, and never hangs."""

import bz2
import csv
import gzip
import io
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from experiments.data.columns import FIELDS
from experiments.data.tokens import prepare
from tests.experiments.data.preference_files import TOKENIZER
from tests.experiments.data.test_shapes import DROPPED, MEANINGFUL, SHAPES, Q

RECORDS = [
    *(record for record, _ in 4 * [*SHAPES.values()]),
    *(record for record, *_ in MEANINGFUL.values()),
    *(record for records in DROPPED.values() for record in records if isinstance(record, dict)),
]
NAMES = sorted({column for field in FIELDS.values() for column, _ in field.accepted()} | set(FIELDS))
TEXTS = [
    "",
    " ",
    "Hi",
    "\n\nHuman: Hi\n\nAssistant: Ho",
    "Human:",
    "<think>\nHm.\n</think>\n\nYes",
    "</think>",
    "<|im_start|>user",
    "<|eot_id|>",
    "\ud83d",
    "\x00",
    "[{'role': 'user', 'content': 'Hi'}]",
    '[{"role": "user"',
    "[" * 3000,
    "{" * 50,
    "tie",
    "model_a",
    "1.0",
    "nan",
    "1e999",
    "\ue0001\ue000",
]
NUMBERS = [0, 1, -1, 2, 0.5, 1e300, -0.0, float("nan"), float("inf"), 10**400, True, False, None]
ROLES = ["user", "Human", "assistant", "gpt", "system", "developer", "tool", "function_call", "?", "", None, 3]


def junk(random, depth=0):
    """A value of any kind, as wrong as JSON can spell it."""
    kind = random.randrange(8 if depth < 3 else 2)
    if kind == 0:
        return random.choice(TEXTS)
    if kind == 1:
        return random.choice(NUMBERS)
    if kind == 2:
        return [junk(random, depth + 1) for _ in range(random.randrange(4))]
    if kind == 3:
        return {random.choice(NAMES): junk(random, depth + 1) for _ in range(random.randrange(4))}
    if kind == 4:
        keys = random.choice([("role", "content"), ("from", "value")])
        turns = range(random.randrange(5))
        return [dict(zip(keys, (random.choice(ROLES), junk(random, 3)), strict=True)) for _ in turns]
    if kind == 5:
        calls = random.choice([[], [{}], [{"name": "f"}], [{"function": {"name": "f", "arguments": "{"}}], "f", [3]])
        return [{"role": "assistant", "content": junk(random, 3), "tool_calls": calls}]
    if kind == 6:
        return [[junk(random, 3) for _ in range(random.randrange(4))] for _ in range(random.randrange(3))]
    return [
        {"response": junk(random, 3), random.choice(["score", "rank", "rating"]): junk(random, 3)} for _ in range(3)
    ]


def mutated(random, record):
    """The record with columns renamed, lost, added or filled with junk."""
    made = dict(record)
    for _ in range(random.choice([0, 0, 1, 2, 4])):
        name = random.choice([*made, random.choice(NAMES)])
        change = random.randrange(4)
        if change == 0:
            made.pop(name, None)
        elif change == 1:
            made[random.choice(NAMES)] = made.pop(name, None)
        elif change == 2:
            made[name] = junk(random)
        else:
            made[name] = json.dumps(made.get(name))
    return made


def asked(record, i):
    """The record with a prompt of its own: splits go by prompts."""
    return json.loads(json.dumps(record).replace(Q, f"What are rivers {i}?"))


def rows_of(random):
    seed = random.choice(RECORDS)
    mixture = [seed, seed, seed, random.choice(RECORDS)]
    rows = [mutated(random, asked(random.choice(mixture), i)) for i in range(random.randrange(20))]
    return [junk(random) if random.random() < 0.03 else row for row in rows]


def as_csv(rows):
    text = io.StringIO()
    tables = [row for row in rows if isinstance(row, dict)]
    writer = csv.DictWriter(text, list({key: None for row in tables for key in row}))
    writer.writeheader()
    writer.writerows(tables)
    return text.getvalue().encode("utf-8", "surrogatepass"), len(tables)


def write(random, rows, folder):
    """A file of the rows in one of the types, maybe damaged; and how many rows it holds, if that is known."""
    number, kind = len(rows), random.choice(["jsonl", "jsonl", "json", "csv", "parquet", "columns"])
    if kind == "parquet":
        tables = [row for row in rows if isinstance(row, dict)]
        try:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(tables), folder / "a.parquet")
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError):
            kind = "jsonl"  # a column of several types
        else:
            content, name, number = (folder / "a.parquet").read_bytes(), "a.parquet", None
    if kind == "jsonl":
        content, name = "\n".join(map(json.dumps, rows)).encode(), "a.jsonl"
    elif kind == "json":
        content, name = json.dumps(rows, indent=random.choice([None, 1])).encode(), "a.json"
    elif kind == "columns":
        content, name, number = json.dumps({"a": rows, "b": rows}).encode(), "a.json", None
    elif kind == "csv":
        (content, number), name = as_csv(rows), "a.csv"
    damage = random.randrange(8)
    if damage < 3:
        number = None
        place = random.randrange(len(content) + 1)
        content = (content[:place], content[:place] + random.randbytes(3) + content[place:], content[::-1])[damage]
    if random.random() < 0.2 and name != "a.parquet":
        suffix, pack = random.choice([(".gz", gzip.compress), (".bz2", bz2.compress)])
        content, name = pack(content), name + suffix
        if random.random() < 0.2:
            content, number = content[: len(content) // 2], None
    (folder / name).write_bytes(content)
    return folder / name, number


def check(seed, folder):
    random_ = random.Random(seed)
    rows = rows_of(random_)
    path, number = write(random_, rows, folder)
    try:
        report = prepare(path, TOKENIZER, max_length=random_.choice([8, 64, 512])).report
    except ValueError as error:
        refusal, report = error, None
    if report is None:
        assert type(refusal) is ValueError, f"seed {seed}: {refusal!r}"  # an InvalidRow is one row's, not the file's
        assert str(refusal)
    path.unlink()
    if report is not None:
        counted = report.num_dropped + sum(report.splits.values()) + sum(report.unused.values())
        assert counted == report.num_rows, f"seed {seed}"
        assert number is None or number == report.num_rows, f"seed {seed}"
        json.dumps(report.as_dict())
        report.summary().encode("utf-8", "surrogatepass")
    return report


@pytest.mark.parametrize("part", range(3))
def test_junk_files_are_read_or_refused_in_words(part, tmp_path):
    read = [check(f"quick {part} {i}", tmp_path) for i in range(100)]
    assert sum(report is not None for report in read) > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_thousand_junk_files_are_read_or_refused_in_words(tmp_path):
    read = [check(i, tmp_path) for i in range(5000)]
    assert sum(report is not None for report in read) > 500

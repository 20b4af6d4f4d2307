"""Reading files of preference data: every type, every damage, and what to do where there is no file."""

import gzip
import json

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from experiments.data.records import read_file, resolve_records
from experiments.data.tokens import prepare
from registry.assets import AssetError
from tests.experiments.data.preference_files import TOKENIZER, pair


def test_a_malformed_line_is_reported_and_the_others_are_kept(tmp_path):
    good = [json.dumps(pair(i)).encode() for i in range(8)]
    lines = [*good[:2], b'{"prompt": "cut o', b"", b"   ", b'{"prompt": "\xff"}', *good[2:], b"[" * 100_000]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    report = prepare(path, TOKENIZER).report
    assert report.dropped == {"unreadable": (3, 6, 13)}
    assert report.num_rows == 11
    assert report.num_kept == 8


def test_a_line_ends_only_where_jsonl_ends_it(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair(1, chosen="one\u2028two\x85three"), ensure_ascii=False), encoding="utf-8")
    assert read_file(path).records[0][1]["chosen"] == "one\u2028two\x85three"


ROWS = [pair(i) for i in range(6)]
LINES = "\n".join(map(json.dumps, ROWS)).encode()


@pytest.mark.parametrize(
    ("name", "unit", "content"),
    [
        ("a.jsonl", "line", LINES),
        ("a.json", "row", json.dumps(ROWS).encode()),
        ("a.json", "line", LINES),
        ("a.v2.jsonl.gz", "line", gzip.compress(LINES)),
        ("a.json.gz", "row", gzip.compress(json.dumps(ROWS, indent=2).encode())),
    ],
)
def test_every_file_type_gives_the_same_rows(name, unit, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    records = resolve_records(tmp_path / name)
    assert (records.name, records.unit) == ("a", unit)
    assert records.records == tuple(enumerate(ROWS, start=1))


def test_parquet_gives_the_same_rows_as_json(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "A", "rejected": None},
        pair(2, prompt=[{"role": "user", "content": "Ho"}]),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert resolve_records(str(tmp_path / "a.parquet")).records == ((1, rows[0]), (2, rows[1]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES)[:-20], "cannot be read"),
        ("a.jsonl.gz", LINES, "cannot be read"),
        ("a.parquet", LINES, "not a readable Parquet file"),
        ("a.json", b'[{"prompt": "Hi"', "not JSON"),
        ("a.csv", b"prompt,chosen,rejected", "its name must end in"),
        ("a.jsonl", b"", "no usable row"),
        ("a.jsonl", b"nonsense", "not valid JSON"),
        ("a.jsonl", b"[1, 2]", "no objects with named columns"),
        ("a.json", json.dumps({"data": ROWS}).encode(), "found columns data"),
        ("a.jsonl", json.dumps({"question": "Hi", "answer": "A"}).encode(), "found columns question, answer"),
        ("a.jsonl", json.dumps(pair(1, chosen="")).encode(), "a missing or empty completion"),
    ],
)
def test_a_file_without_usable_rows_is_an_error_that_says_why(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / name, TOKENIZER)


def test_what_is_neither_a_file_nor_a_preset_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*missing.jsonl"):
        resolve_records("missing.jsonl")
    with pytest.raises(KeyError, match="did you mean dpo_en_demo"):
        resolve_records("dpo_demo")
    with pytest.raises(ValueError, match="is a folder"):
        resolve_records(tmp_path)


def test_a_preset_of_the_hub_that_cannot_be_reached_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("ADVALIGN_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match=r"hh_rlhf \(Anthropic/hh-rlhf\) cannot be had.*--dataset FILE"):
        resolve_records("hh_rlhf")
    assert not datasets.config.HF_HUB_OFFLINE

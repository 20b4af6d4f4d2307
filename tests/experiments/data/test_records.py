"""Reading files of preference data: every type, every damage, and what to do where there is no file."""

import bz2
import csv
import datetime
import gzip
import io
import json
import lzma

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from experiments.data import records
from experiments.data.files import read_file
from experiments.data.records import resolve_records
from experiments.data.tokens import prepare
from registry.assets import AssetError
from tests.experiments.data.preference_files import TOKENIZER, pair


def test_a_malformed_line_is_reported_and_the_others_are_kept(tmp_path):
    good = [json.dumps(pair(i)).encode() for i in range(8)]
    lines = [*good[:2], b'{"prompt": "cut o', b"", b"   ", b'{"prompt": "\xff"}', *good[2:], b"[" * 100_000]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    report = prepare(path, TOKENIZER).report
    assert report.dropped == {"unreadable": (3, 13), "encoding": (6,)}
    assert report.num_rows == 11
    assert report.num_kept == 8


def test_a_line_ends_only_where_jsonl_ends_it(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair(1, chosen="one\u2028two\x85three"), ensure_ascii=False), encoding="utf-8")
    assert read_file(path).records[0][1]["chosen"] == "one\u2028two\x85three"


def zst(content):
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def table_of(rows, delimiter):
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8-sig")


ROWS = [pair(i, chosen=f'Good, "quoted"\nanswer {i}.') for i in range(6)]
LINES = "\n".join(map(json.dumps, ROWS)).encode()


@pytest.mark.parametrize(
    ("name", "unit", "content"),
    [
        ("a.jsonl", "line", LINES),
        ("a.json", "row", json.dumps(ROWS).encode()),
        ("a.json", "line", LINES),
        ("a.v2.jsonl.gz", "line", gzip.compress(LINES)),
        ("a.json.gz", "row", gzip.compress(json.dumps(ROWS, indent=2).encode())),
        ("A.JSONL.GZ", "line", gzip.compress(LINES)),
        ("a.jsonl.zst", "line", zst(LINES)),
        ("a.jsonl.bz2", "line", bz2.compress(LINES)),
        ("a.jsonl.xz", "line", lzma.compress(LINES)),
        ("a.json", "row", json.dumps({"data": ROWS}).encode()),
        ("a.json", "row", json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}).encode()),
        ("a.json", "row", json.dumps({k: {str(i): row[k] for i, row in enumerate(ROWS)} for k in ROWS[0]}).encode()),
        ("a.csv", "row", table_of(ROWS, ",")),
        ("a.tsv", "row", table_of(ROWS, "\t")),
        ("a.csv.gz", "row", gzip.compress(table_of(ROWS, ","))),
    ],
)
def test_every_file_type_gives_the_same_rows(name, unit, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    records = resolve_records(tmp_path / name)
    assert (records.name.lower(), records.unit) == ("a", unit)
    assert records.records == tuple(enumerate(ROWS, start=1))


def test_parquet_gives_the_same_rows_as_json(tmp_path):
    rows = [
        {"prompt": [{"role": "user", "content": "Hi"}], "chosen": "A", "rejected": None},
        pair(2, prompt=[{"role": "user", "content": "Ho"}]),
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert resolve_records(str(tmp_path / "a.parquet")).records == ((1, rows[0]), (2, rows[1]))


def test_arrow_files_streams_and_folders_give_the_same_rows(tmp_path):
    table = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pyarrow.ipc.new_stream(tmp_path / "b.ARROW", table.schema) as writer:
        writer.write_table(table)
    assert [row for _, row in resolve_records(tmp_path / "a.arrow").records] == ROWS
    assert [row for _, row in resolve_records(tmp_path / "b.ARROW").records] == ROWS
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert resolve_records(tmp_path / "saved").records == tuple(enumerate(ROWS, start=1))


def test_shards_in_a_folder_are_numbered_through(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "dataset_infos.json").write_text("{}")
    for i in (0, 1):
        pyarrow.parquet.write_table(
            pyarrow.Table.from_pylist(ROWS[3 * i : 3 * i + 3]), tmp_path / f"data/train-0000{i}-of-00002.parquet"
        )
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([pair(9)]), tmp_path / "data/test-00000-of-00001.parquet")
    assert resolve_records(tmp_path).records == tuple(enumerate(ROWS, start=1))
    assert resolve_records(f"{tmp_path}#test").records == ((1, pair(9)),)
    with pytest.raises(ValueError, match=r"has the splits test, train; name one"):
        resolve_records(f"{tmp_path}#dev")
    (tmp_path / "more.jsonl").write_bytes(LINES)
    with pytest.raises(ValueError, match=r"a folder with files of several kinds \(.jsonl, .parquet\)"):
        resolve_records(tmp_path)


def test_a_damaged_shard_counts_its_lines_too(tmp_path):
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(pair(1))}\nnonsense\n")
    (tmp_path / "b.jsonl").write_text(f"nonsense\n{json.dumps(pair(2))}\n")
    records = resolve_records(tmp_path)
    assert records.records == ((1, pair(1)), (4, pair(2)))
    assert records.unreadable == {"unreadable": (2, 3)}
    assert records.num_rows == 4


def test_of_several_saved_splits_train_is_read_unless_another_is_named(tmp_path):
    splits = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list([pair(9)])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    assert len(resolve_records(tmp_path / "saved").records) == 6
    assert resolve_records(f"{tmp_path}/saved#test").records == ((1, pair(9)),)
    (tmp_path / "saved/train/state.json").write_text("{")
    with pytest.raises(ValueError, match=r"not a readable folder of datasets.save_to_disk"):
        resolve_records(tmp_path / "saved")


def test_times_and_bytes_in_parquet_are_no_obstacle(tmp_path):
    rows = [
        {**pair(i), "chosen": f"Good {i}".encode(), "at": datetime.datetime(2024, 1, 1), "blob": b"\xff\x00"}
        for i in range(8)
    ]
    rows[3]["chosen"] = b"\xff\xfe"
    table = pyarrow.Table.from_pylist(rows)
    table = table.append_column("ns", pyarrow.array([1] * 8, pyarrow.timestamp("ns")))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    report = prepare(tmp_path / "a.parquet", TOKENIZER).report
    assert report.dropped == {"binary": (4,)}
    assert report.noted == {"binary_text": (1, 2, 3, 5, 6, 7, 8)}
    assert list(report.unused_columns) == ["at", "blob", "ns"]


def test_a_row_of_a_csv_file_with_too_few_cells_is_dropped(tmp_path):
    lines = ["prompt,chosen,rejected", *(f"Question {i},good,bad" for i in range(5)), "cut,off"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    records = resolve_records(tmp_path / "a.csv")
    assert (len(records.records), records.unreadable, records.num_rows) == (5, {"unreadable": (6,)}, 6)


def test_one_record_of_conversations_is_no_table(tmp_path):
    record = {
        "chosen": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "A"}],
        "rejected": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "B"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(record))
    assert resolve_records(tmp_path / "a.json").records == ((1, record),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(LINES)[:-20], "cannot be read"),
        ("a.jsonl.gz", LINES, "cannot be read"),
        ("a.parquet", LINES, "not a readable Parquet file"),
        ("a.json", b'[{"prompt": "Hi"', "not JSON"),
        ("a.txt", b"prompt,chosen,rejected", "its name must end in"),
        ("a.csv", b"prompt,chosen,rejected", "no usable row"),
        ("a.csv", b"prompt,prompt,chosen\na,b,c", "has the column prompt twice"),
        ("a.csv", "prompt,chosen,rejected\nÉté?,a,b".encode("latin-1"), r"not UTF-8 text \(line 2\)"),
        ("a.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode("utf-16"), "not UTF-8 text but UTF-16"),
        ("a.jsonl", '{"prompt": "Été?", "chosen": "a", "rejected": "b"}'.encode("cp1252"), "Latin-1 or Windows-1252"),
        ("a.json", '[{"prompt": "Été?", "chosen": "a", "rejected": "b"}]'.encode("latin-1"), "not UTF-8 text"),
        ("a.jsonl.zst", LINES, "cannot be read"),
        ("a.jsonl.xz", LINES, "cannot be read"),
        ("a.jsonl.bz2", LINES, "cannot be read"),
        ("a.arrow", LINES, "not a readable Arrow file"),
        ("a.jsonl", b"", "no usable row"),
        ("a.jsonl", b"nonsense", "not valid JSON"),
        ("a.jsonl", b"[1, 2]", "no objects with named columns"),
        ("a.jsonl", json.dumps({"query_text": "Hi", "reply": "A"}).encode(), "found columns query_text, reply"),
        ("a.jsonl", json.dumps(pair(1, chosen="")).encode(), r"chosen \(empty\)"),
    ],
)
def test_a_file_without_usable_rows_is_an_error_that_says_why(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / name, TOKENIZER)


def test_what_is_neither_a_file_nor_a_preset_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file or folder missing.jsonl"):
        resolve_records("missing.jsonl")
    with pytest.raises(KeyError, match="did you mean dpo_en_demo"):
        resolve_records("dpo_demo")
    with pytest.raises(ValueError, match="is a folder with no file of data"):
        resolve_records(tmp_path)


def test_a_preset_of_the_hub_that_cannot_be_reached_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("ADVALIGN_OFFLINE", "1")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match=r"hh_rlhf \(Anthropic/hh-rlhf\) cannot be had.*--dataset FILE"):
        resolve_records("hh_rlhf")
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.fixture
def hub(monkeypatch):
    """A hub with the data set owner/pairs, and what was asked of it."""
    asked = []

    def load_dataset(name, config=None, *, revision=None, split=None):
        asked.append((name, config, revision, split))
        if name != "owner/pairs":
            raise datasets.exceptions.DatasetNotFoundError(f"Dataset '{name}' doesn't exist on the Hub")
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(records, "hub_reachable", lambda: True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    return asked


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("owner/pairs", ("owner/pairs", None, None, "train")),
        ("owner/pairs:hard", ("owner/pairs", "hard", None, "train")),
        ("owner/pairs@v1.2#test_prefs", ("owner/pairs", None, "v1.2", "test_prefs")),
        ("owner/pairs:hard@refs/pr/1#test", ("owner/pairs", "hard", "refs/pr/1", "test")),
    ],
)
def test_a_data_set_of_the_hub_is_named_with_configuration_revision_and_split(name, asked, hub):
    found = resolve_records(name)
    assert found.records == tuple(enumerate(ROWS, start=1))
    assert hub == [asked]
    assert prepare(name, TOKENIZER).report.num_rows == 6


def test_a_data_set_that_the_hub_has_not_says_so(hub):
    with pytest.raises(AssetError, match=r"there is no such file or folder: .*doesn't exist on the Hub"):
        resolve_records("owner/others")


def test_a_hub_out_of_reach_is_named_as_the_cause(hub, monkeypatch):
    monkeypatch.setattr(records, "hub_reachable", lambda: False)
    with pytest.raises(AssetError, match=r"owner/others cannot be had.*the hub cannot be reached from here"):
        resolve_records("owner/others")
    assert not datasets.config.HF_HUB_OFFLINE


def test_a_path_that_is_no_data_set_of_the_hub_is_a_missing_file():
    for name in ("folder/missing.jsonl", "a/b/c", "/folder/pairs"):
        with pytest.raises(ValueError, match="there is no file or folder"):
            resolve_records(name)

"""Every form of a leaderboard says the same, in figures as a reader sees them."""

import csv
import io
import json
import statistics

import numpy as np
import pytest
from rich.console import Console

from benchmarks.ranking import figures
from benchmarks.ranking.board import Leaderboard
from benchmarks.ranking.tables import build
from benchmarks.reporting.exports import as_json, comma_separated, markdown
from benchmarks.reporting.latex import latex
from benchmarks.reporting.report import render
from benchmarks.reporting.terminal import terminal_tables
from experiments.manifest import write_json
from tests.benchmarks.synthetic_store import write_run, write_store


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> Leaderboard:
    out = tmp_path_factory.mktemp("store")
    write_store(out)
    return build(out)


def rows_by_name(table):
    return {row.name: row for row in table.rows}


def test_markdown_csv_and_json_say_the_same(board):
    (table,) = board.tables
    records = list(csv.DictReader(io.StringIO(comma_separated(board))))
    own = sum("own" in row.scores["held_out average_logp"].others for row in table.rows)
    assert len(records) == len(table.rows) * len(table.columns) + own == 11
    document = json.loads(json.dumps(as_json(board)["tables"][0]))
    for record in records:
        row = rows_by_name(table)["untrained" if record["method"] == "base" else record["method"]]
        if record["value"] == "own":
            continue
        key = f"{record['task']} {record['value']}" if record["task"] == "held_out" else record["task"]
        score = row.scores[key]
        assert float(record["estimate"]) == score.interval.estimate
        assert record["rank"] == str(score.rank or "")
        assert record["by_definition"] == ("True" if (row.name, record["value"]) == ("untrained", "relative") else "")
        (written,) = (entry for entry in document["rows"] if entry["name"] == row.name)
        assert written["scores"][key]["interval"]["estimate"] == score.interval.estimate
        assert figures.interval(score.interval, share=True) in markdown(board)


def judged(method, seed, num_prompts=40):
    """An evaluation by alpaca_eval: whoever wins wins by length, and less of it is left where length is controlled."""
    rng = np.random.default_rng([len(method), seed or 0])
    hard = np.random.default_rng(3).random(num_prompts)  # the same prompts for every row
    wins = np.clip(hard + {"base": 0.0, "dpo": 0.1, "ganpo_dpo": 0.2}[method] + rng.normal(0, 0.05, num_prompts), 0, 1)
    controlled = 3 * (wins - wins.mean()) + wins.mean() / 2  # leaves 0 … 1, as values of prompts do
    items = [
        {
            "id": str(i),
            "cluster": str(i),
            "values": {"win_rate": win, "length_adjusted_winrate": rate, "characters": 9.0},
        }
        for i, (win, rate) in enumerate(zip(wins.tolist(), controlled.tolist(), strict=True))
    ]
    facts = {"task": "alpaca_eval", "primary": "win_rate", "metrics": {}, "extras": {}, "settings": {}, "revision": 2}
    return facts | {"items": items}


@pytest.fixture
def judged_board(tmp_path):
    for method, seeds in (("base", (None,)), ("dpo", (0, 1, 2)), ("ganpo_dpo", (0, 1, 2))):
        for seed in seeds:
            folder = write_run(tmp_path, method, seed, tasks=("held_out",))
            write_json(folder / "evaluations" / "alpaca_eval-0a.json", judged(method, seed))
    return build(tmp_path)


def test_the_length_controlled_rate_stands_beside_the_raw_one_with_paired_differences(judged_board):
    (table,) = judged_board.tables
    column = next(column for column in table.columns if column.task == "alpaca_eval")
    assert column.beside == ("length_adjusted_winrate",)
    rows = rows_by_name(table)
    for name, row in rows.items():
        rates = [
            statistics.fmean(item.values["length_adjusted_winrate"] for item in e.result.items)
            for run in row.runs
            for e in run.evaluations
            if e.task == "alpaca_eval"
        ]
        interval = row.scores["alpaca_eval"].others["length_adjusted_winrate"]
        assert interval.estimate == pytest.approx(statistics.fmean(rates)), name
        assert 0 <= interval.low < interval.estimate < interval.high <= 1
    apart = column.others["length_adjusted_winrate"]["ganpo_dpo", "dpo"]
    alone = [rows[name].scores["alpaca_eval"].others["length_adjusted_winrate"].se for name in ("ganpo_dpo", "dpo")]
    assert apart.se < 0.5 * np.hypot(*alone), "the same prompts, so most of their difficulty cancels"
    assert apart.claims


def test_every_form_shows_the_length_controlled_rate_and_ranks_nothing_by_it(judged_board):
    (table,) = judged_board.tables
    score = rows_by_name(table)["dpo"].scores["alpaca_eval"]
    interval = score.others["length_adjusted_winrate"]
    records = list(csv.DictReader(io.StringIO(comma_separated(judged_board))))
    (record,) = [r for r in records if (r["method"], r["value"]) == ("dpo", "length_adjusted_winrate")]
    assert (float(record["estimate"]), float(record["low"]), record["rank"], record["p_holm"]) == (
        *(interval.estimate, interval.low),
        *("", ""),
    )
    column = next(column for column in table.columns if column.task == "alpaca_eval")
    against = column.others["length_adjusted_winrate"]["dpo", "untrained"]
    assert float(record["difference"]) == against.estimate
    assert "| alpaca_eval length_adjusted_winrate % | against untrained |" in markdown(judged_board)
    shown, change = figures.interval(interval, share=True), figures.interval(against, share=True, signed=True)
    assert f"| {shown} | {change} |" in markdown(judged_board)
    assert shown in latex(table)
    assert figures.estimate(interval, share=True) in render(judged_board).partition("Paired differences")[0]
    assert as_json(judged_board)["tables"][0]["columns"][0]["beside"] == ("length_adjusted_winrate",)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(*terminal_tables(table, console))
    assert figures.plus_minus(interval, share=True) in console.export_text()


def test_published_figures_stand_apart_marked_and_unranked(board):
    said, document = markdown(board), as_json(board)
    table, published = said.split("## Published figures")
    assert "29.69" in published
    assert "29.69" not in table
    assert "never ranked" in published
    assert document["published"]["ranked"] is False
    assert any(29.69 in row for table in document["published"]["tables"] for row in table["rows"].values())
    assert "29.69" not in json.dumps(document["tables"])


def test_the_terminal_table_shows_names_as_they_are(board):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*terminal_tables(board.tables[0], console))
    assert "ganpo_dpo " in console.export_text()


def test_a_narrow_terminal_shows_each_task_in_a_table_of_its_own_and_cuts_nothing(tmp_path):
    write_run(tmp_path, "base", None)
    for seed in (0, 1, 2):
        write_run(tmp_path, "dpo", seed, hyperparameters={"lr": 1e-6})
        write_run(tmp_path, "grpo", seed, hyperparameters={"sampling.max_new_tokens": 64})
    (table,) = build(tmp_path).tables
    for width, tables in ((80, 2), (200, 1)):
        console = Console(width=width, record=True, file=io.StringIO())
        shown = terminal_tables(table, console)
        assert len(shown) == tables
        console.print(*shown)
        said = console.export_text()
        assert "sampling.max_" in said
        assert "held_out" in said
        assert "untrained" in said
        assert "…" not in said


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.25, "0.2 s"), (48, "48 s"), (59.7, "1 min 00 s"), (113, "1 min 53 s"), (9110, "2 h 31 min")],
)
def test_times_are_in_the_unit_that_fits(seconds, text):
    assert figures.seconds(seconds) == text


def test_figures_have_a_true_minus_and_no_negative_zero():
    assert figures.value(-0.0312, share=True, signed=True) == "−3.1"
    assert figures.value(-0.0001, share=True, signed=True) == "0.0"
    assert figures.value(0.5, signed=True) == "+0.500"
    assert figures.per_cent(-0.031) == "−3 %"
    assert figures.clock(9110) == "2:31:50"

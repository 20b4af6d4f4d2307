"""A share lies in 0 … 1, and from a handful of prompts there is no interval at all."""

import re

from rich.console import Console

from benchmarks.ranking import figures
from benchmarks.ranking.columns import FEWEST_PROMPTS
from benchmarks.ranking.tables import build
from benchmarks.reporting.exports import markdown
from benchmarks.reporting.report import render
from benchmarks.reporting.terminal import terminal_tables
from tests.benchmarks.reporting.test_report import Page
from tests.benchmarks.synthetic_store import METHODS, write_run, write_store


def few(out, num_prompts, seeds=(0, 1, 2)):
    for seed in seeds:
        for method in METHODS:
            write_run(out, method, seed, num_prompts=num_prompts, tasks=("ifeval",))
    write_run(out, "base", None, num_prompts=num_prompts, tasks=("ifeval",))
    return build(out)


def test_bounds_of_a_share_stay_within_the_possible(tmp_path):
    (table,) = few(tmp_path, FEWEST_PROMPTS, seeds=(0, 1)).tables
    (column,) = table.columns
    for row in table.rows:
        interval = row.scores["ifeval"].interval
        assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    for comparison in column.comparisons.values():
        assert -1 <= comparison.low <= comparison.estimate <= comparison.high <= 1


def test_few_prompts_have_no_interval_no_rank_and_a_reason(tmp_path):
    board = few(tmp_path, FEWEST_PROMPTS - 1)
    (table,) = board.tables
    assert all(row.scores["ifeval"].rank is None for row in table.rows)
    assert not table.claims
    said = markdown(board).split("## Published figures")[0]
    assert f"9 prompts are too few for an interval (at least {FEWEST_PROMPTS})" in said
    assert "±" not in said
    (shown,) = [line for line in said.splitlines() if line.startswith("| ganpo_dpo")]
    assert "[" not in shown
    page = Page(render(board))
    assert "too few for an interval" in page.said
    assert not re.search(r"\d to \d", "".join(page.text))
    assert [shown.row_count for shown in terminal_tables(table, Console(width=200))] == [3]


def test_half_widths_are_printed_only_where_both_sides_are_equal(tmp_path):
    (table,) = few(tmp_path, FEWEST_PROMPTS, seeds=(0, 1)).tables
    uneven = min((row.scores["ifeval"].interval for row in table.rows), key=lambda interval: interval.estimate)
    assert figures.plus_minus(uneven, share=True) == figures.interval(uneven, share=True)
    (column,) = table.columns
    even = next(c for c in column.comparisons.values() if c.low > -1 and c.high < 1)
    assert "±" in figures.plus_minus(even, share=True)


def test_tuned_rows_stand_in_a_table_of_their_own(tmp_path):
    write_store(tmp_path)
    for seed in (3, 4, 5):
        write_run(tmp_path, "dpo@tuned", seed, hyperparameters=METHODS["dpo"] | {"lr": 3e-5})
    names = [{row.name for row in table.rows} for table in build(tmp_path).tables]
    assert sum(any("@tuned" in name for name in rows) for rows in names) == 1
    assert not any({"dpo", "untrained"} < rows and any("@" in name for name in rows) for rows in names)

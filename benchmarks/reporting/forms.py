"""Writes a leaderboard in every form: Markdown, CSV, JSON and the HTML report; each table as LaTeX and CSV."""

from __future__ import annotations

from pathlib import Path

from benchmarks.ranking.board import Leaderboard
from benchmarks.reporting.exports import comma_separated, export
from benchmarks.reporting.latex import latex
from benchmarks.reporting.report import write_report
from experiments.manifest import write_atomically


def write(board: Leaderboard, out: Path) -> list[Path]:
    """Write every form below `out`; returns the paths."""
    return [*export(board, out), write_report(board, out)]


def export_tables(board: Leaderboard, folder: Path) -> list[Path]:
    """Every table as table-1.tex and table-1.csv, in the order of the leaderboard; returns the paths."""
    paths = []
    for number, table in enumerate(board.tables, 1):
        alone = Leaderboard((table,), (), {})
        for kind, text in (("tex", latex(table)), ("csv", comma_separated(alone))):
            paths.append(folder / f"table-{number}.{kind}")
            write_atomically(paths[-1], text)
    return paths

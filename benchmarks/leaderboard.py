"""The leaderboard: everything that was ever run in a store, compared as far as it may be, in five forms.

    python -m benchmarks.leaderboard [--out DIR] [--export DIR]

writes leaderboard.md, .csv and .json and report.html below the output folder, and prints a table. `--export` writes
each table by itself as LaTeX and CSV.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import guarded
from benchmarks.options import Parser
from benchmarks.ranking.tables import build
from benchmarks.reporting.forms import export_tables, write
from benchmarks.reporting.terminal import terminal_tables


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild everything from the store; the exit status is 2 where there is no store."""
    parser = Parser("leaderboard", __doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path(".advalign"), help="the output folder (default: .advalign)")
    parser.add_argument("--export", type=Path, metavar="DIR", help="also write each table as LaTeX and CSV to DIR")
    options = parser.parse_args(arguments)
    return guarded(lambda: _rebuild(options.out, options.export), out=options.out)


def _rebuild(out: Path, tables: Path | None) -> int:
    from rich.console import Console

    console = Console()
    if not (out / "runs").is_dir():
        raise ValueError(f"{out} holds no runs; `python -m benchmarks.run --out {out}` makes some")
    board = build(out)
    paths = write(board, out)
    if tables is not None:
        paths += export_tables(board, tables)
    for table in board.tables:
        console.print(*terminal_tables(table, console))
    for entry in board.skipped:
        console.print(f"left out: {entry.path}: {entry.reason}", style="dim", markup=False)
    console.print(f"written: {', '.join(str(path) for path in paths)}", markup=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

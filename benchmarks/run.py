"""The main command: train methods on the same pairs from the same model, evaluate them, rank them.

    python -m benchmarks.run --methods dpo,ganpo_dpo --seeds 0,1,2

The same command again continues: what is finished is not run again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.command import guarded
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.options import parser, read_config

if TYPE_CHECKING:
    from rich.console import Console


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for a mistake of the user's, told in one line."""
    made = parser()
    options = made.parse_args(arguments)

    def command() -> int:
        from rich.console import Console

        if options.list:
            from benchmarks.comparison.listing import listing

            Console().print(listing(options.list))
            return 0
        config = read_config(ComparisonConfig, made, arguments)
        console = Console(stderr=True)
        if options.dry_run:
            return dry_run(config, console)
        from benchmarks.comparison.execution import execute

        execute(config, console)
        return 0

    return guarded(command, out=options.folder)


def dry_run(config: ComparisonConfig, console: Console) -> int:
    """Show the plan; 2 if it cannot be held here."""
    from benchmarks.comparison.comparison import planned, resolve
    from benchmarks.planning import plan

    comparison = resolve(config, planning=True)
    methods = comparison.methods
    cells = [("base", None, "to run"), *((name, seed, "to run") for seed in comparison.seeds for name in methods)]
    if comparison.data is not None and (config.output.folder / "runs").is_dir():
        from benchmarks.comparison.comparison import model_of
        from benchmarks.comparison.grid import Grid, accelerator

        grid = Grid(replace(comparison, model=model_of(config)), accelerator(), console)
        cells = [(cell.experiment.name, cell.experiment.seed, grid.status(cell)) for cell in grid.cells()]
    whole = planned(comparison, cells)
    console.print(plan.render(whole))
    if comparison.data is None:
        console.print("the tokenizer is not at hand: lengths are the limits, not counts", style="dim")
    else:
        console.print(comparison.data.report.summary(), style="dim", markup=False)
    return 0 if whole.verdict.fits else 2


if __name__ == "__main__":
    sys.exit(main())

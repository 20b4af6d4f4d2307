"""The main command: train methods on the same pairs from the same model, evaluate them, rank them.

    python -m benchmarks.run --methods dpo,ganpo_dpo --seeds 0,1,2

The same command again continues: what is finished is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks.comparison.options import parser

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.comparison.comparison import RunPlan
    from experiments.runs.cell import Cell


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for a mistake of the user's, told in one line."""
    options = parser().parse_args(arguments)

    def command() -> int:
        if options.list:
            from rich.console import Console

            from benchmarks.comparison.listing import listing

            Console().print(listing(options.list))
            return 0
        from rich.console import Console

        from benchmarks.comparison.comparison import settle

        console = Console(stderr=True)
        if options.dry_run:
            return _dry_run(settle(options), console)
        execute(options, console)
        return 0

    return guarded(command)


def execute(options: argparse.Namespace, console: Console) -> list[Cell]:
    """Do what is missing of the comparison that `options` ask for, and rank; its cells, all of them finished.

    Raises ValueError, KeyError, OSError or RuntimeError as what went wrong; `guarded` tells a user's mistakes.
    """
    from benchmarks.comparison import grid
    from benchmarks.comparison.comparison import settle

    comparison = settle(options)
    if options.executor == "ray":
        from benchmarks.comparison.cluster import ClusterGrid

        return grid.run(comparison, console, ClusterGrid)
    return grid.run(comparison, console)


def _dry_run(comparison: RunPlan, console: Console) -> int:
    """Show the plan; 2 if it cannot be held here."""
    from benchmarks.comparison.comparison import planned
    from benchmarks.planning import plan

    methods = comparison.methods
    cells = [("base", None, "to run"), *((name, seed, "to run") for seed in comparison.seeds for name in methods)]
    whole = planned(comparison, cells)
    console.print(plan.render(whole))
    if comparison.data is None:
        console.print("the tokenizer is not at hand: lengths are the limits, not counts", style="dim")
    else:
        console.print(comparison.data.report.summary(), style="dim", markup=False)
    return 0 if whole.verdict.fits else 2


def guarded(command: Callable[[], int]) -> int:
    """What `command` returns, or 2 for a mistake of the user's, told in one line."""
    try:
        return command()
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        from registry.assets import AssetError

        if isinstance(error, RuntimeError) and not isinstance(error, AssetError):
            from experiments.training.step_log import NonFiniteError

            if not isinstance(error, NonFiniteError):
                raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        sys.stderr.write(f"{text}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())

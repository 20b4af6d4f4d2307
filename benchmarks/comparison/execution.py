"""Runs a comparison from its configuration: here, or on a Ray cluster."""

from __future__ import annotations

import os

from rich.console import Console

from benchmarks.comparison import grid
from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.comparison.progress import LOG, PATIENCE, Progress
from experiments.runs.cell import Cell


def execute(config: ComparisonConfig, console: Console) -> list[Cell]:
    """Do what is missing of the comparison, and rank; its cells, all of them finished.

    Raises whatever went wrong; `benchmarks.command.guarded` tells it on the command line.
    """
    kind, on_ray = grid.Grid, config.execution.executor == "ray"
    if on_ray:
        from benchmarks.comparison.cluster import ClusterGrid

        kind = ClusterGrid
    others = os.environ.get("RANK", "0") != "0"  # of `accelerate launch`: the first process tells
    with Progress(console, config.output.folder / LOG, quiet=others, relays=on_ray) as progress:
        progress.phase("preparing model and data", after=PATIENCE)
        comparison = resolve(config)
    return grid.run(comparison, console, kind, progress)

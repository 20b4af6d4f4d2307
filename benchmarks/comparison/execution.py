"""Runs a comparison from its configuration: here, or on a Ray cluster."""

from __future__ import annotations

from rich.console import Console

from benchmarks.comparison import grid
from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig
from experiments.runs.cell import Cell


def execute(config: ComparisonConfig, console: Console) -> list[Cell]:
    """Do what is missing of the comparison, and rank; its cells, all of them finished.

    Raises whatever went wrong; `benchmarks.command.guarded` tells it on the command line.
    """
    comparison = resolve(config)
    if config.execution.executor == "ray":
        from benchmarks.comparison.cluster import ClusterGrid

        return grid.run(comparison, console, ClusterGrid)
    return grid.run(comparison, console)

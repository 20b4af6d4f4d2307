"""Runs a comparison from its configuration: here, or on a Ray cluster."""

from __future__ import annotations

from rich.console import Console

from benchmarks.comparison import grid
from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig
from experiments.runs.cell import Cell


def execute(config: ComparisonConfig, console: Console) -> list[Cell]:
    """Do what is missing of the comparison, and rank; its cells, all of them finished.

    Raises ValueError, KeyError, OSError or RuntimeError as what went wrong.
    """
    comparison = resolve(config)
    if config.execution.executor == "ray":
        from benchmarks.comparison.cluster import ClusterGrid

        return grid.run(comparison, console, ClusterGrid)
    return grid.run(comparison, console)

"""Runs a comparison from its configuration: here, or on a Ray cluster."""

from __future__ import annotations

import os

from rich.console import Console

from benchmarks.comparison import grid
from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig, OutputConfig
from benchmarks.comparison.progress import LOG, PATIENCE, Progress
from experiments.runs.cell import Cell


def execute(config: ComparisonConfig, console: Console) -> list[Cell]:
    """Do what is missing of the comparison, and rank; its cells, all of them finished.

    Raises whatever went wrong; `benchmarks.command.guarded` tells it on the command line.
    """
    check_output(config.output)
    kind, on_ray = grid.Grid, config.execution.executor == "ray"
    if on_ray:
        from benchmarks.comparison.cluster import ClusterGrid

        kind = ClusterGrid
    others = os.environ.get("RANK", "0") != "0"  # of `accelerate launch`: the first process tells
    with Progress(console, config.output.folder / LOG, quiet=others, relays=on_ray) as progress:
        progress.phase("preparing model and data", after=PATIENCE)
        comparison = resolve(config)
    return grid.run(comparison, console, kind, progress)


def check_output(output: OutputConfig) -> None:
    """ValueError, before any work, for a folder that cannot be written or that no tracking database can lie in."""
    from experiments.disk import check_folder
    from experiments.tracking import default_uri

    check_folder(output.folder)
    if output.tracking_uri is None:
        default_uri(output.folder)

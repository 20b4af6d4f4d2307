"""Runs that were named together before any of them was measured, the family that a correction over all pairs needs.

A command writes `OUT/families/<hash>.json` before it trains: the cells of its comparison, and those of them that were
measured already. Rows that no such file names together may have been added for what was seen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.manifest import now, read_json, write_json

NAMED = "All rows were named by one command before any of them was measured: the pairs of a column are Holm's family."
EXPLORED = (
    "Not all rows were named by one command before any of them was measured. Holm's correction is over the pairs of"
    " each column, not over the choice of rows: take p-values and ranks as exploratory."
)


def declare(out: Path, cells: Sequence[str], measured: Iterable[str]) -> None:
    """Write the family down, unless it was named before. `measured`: those of the cells that have an evaluation."""
    path = out / "families" / f"{hashlib.sha256(json.dumps(sorted(cells)).encode()).hexdigest()[:16]}.json"
    if not path.is_file():
        write_json(path, {"named": now(), "cells": list(cells), "measured_before": sorted(measured)})


def read(out: Path) -> list[Mapping[str, Any]]:
    return [read_json(path) for path in sorted((out / "families").glob("*.json"))]

"""A comparison as alpaca_eval writes it, so that its own tools read it.

    model_outputs.json      reference_outputs.json      what both said
    annotations.json        preference 1 … 2, 2 if the model wins; null where the judge gave no verdict
    leaderboard.csv         one row in the columns of the published leaderboards; rates in per cent

`alpaca_eval evaluate --precomputed_leaderboard leaderboard.csv` shows it among other rows, and its metrics
(`get_winrate`) read the annotations.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.judges.judging import Duel, DuelVerdict
from benchmarks.statistics.length_control import LengthControl
from experiments.manifest import write_atomically


def write_files(
    folder: Path,
    *,
    duels: Sequence[Duel],
    datasets: Sequence[str],
    verdicts: Sequence[DuelVerdict],
    names: tuple[str, str],
    annotator: str,
    controlled: LengthControl | None,
) -> None:
    """The four files of one model against one baseline. `names` are those of the baseline and of the model."""
    baseline, model = names
    rows = list(zip(duels, datasets, verdicts, strict=True))
    outputs = {
        "reference_outputs": [_output(duel.instruction, duel.first, baseline, dataset) for duel, dataset, _ in rows],
        "model_outputs": [_output(duel.instruction, duel.second, model, dataset) for duel, dataset, _ in rows],
        "annotations": [
            {
                "instruction": duel.instruction,
                "dataset": dataset,
                "output_1": duel.first,
                "generator_1": baseline,
                "output_2": duel.second,
                "generator_2": model,
                "annotator": annotator,
                "preference": None if verdict.preference is None else 1 + verdict.preference,
            }
            for duel, dataset, verdict in rows
        ],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in outputs.items():
        write_atomically(folder / f"{name}.json", json.dumps(content, ensure_ascii=False, indent=2) + "\n")
    lengths = [len(duel.second) for duel in duels]
    write_atomically(folder / "leaderboard.csv", _leaderboard(model, verdicts, lengths, controlled))


def _output(instruction: str, output: str, generator: str, dataset: str) -> dict[str, str]:
    return {"dataset": dataset, "instruction": instruction, "output": output, "generator": generator}


def _leaderboard(
    model: str, verdicts: Sequence[DuelVerdict], lengths: Sequence[int], controlled: LengthControl | None
) -> str:
    """The leaderboard as alpaca_eval counts: without the items that have no verdict."""
    wins = np.array([verdict.preference for verdict in verdicts if verdict.preference is not None])
    discrete = np.where(wins == 0.5, 0.5, wins > 0.5)
    row: dict[str, Any] = {
        "": model,
        "win_rate": 100 * wins.mean(),
        "standard_error": 100 * wins.std(ddof=1) / len(wins) ** 0.5 if len(wins) > 1 else "",
        "n_wins": int((wins > 0.5).sum()),
        "n_wins_base": int((wins < 0.5).sum()),
        "n_draws": int((wins == 0.5).sum()),
        "n_total": len(wins),
        "discrete_win_rate": 100 * discrete.mean(),
        "mode": "community",
        "avg_length": int(np.mean(lengths)),
    }
    if controlled is not None:
        row |= {controlled.metric: controlled.controlled, "lc_standard_error": controlled.standard_error}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    return text.getvalue()

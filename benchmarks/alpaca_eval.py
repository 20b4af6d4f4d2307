"""AlpacaEval 2: length-controlled win rates of any file of judgements.

    python -m benchmarks.alpaca_eval --annotations annotations.csv.gz --difficulty instruction_difficulty.csv

prints a CSV, the best model first: `model,win_rate,length_controlled_winrate,standard_error,avg_length`. Rates are per
cent; `standard_error` is that of the controlled rate. Without `--difficulty` the third column is another metric and is
called `length_adjusted_winrate`.

`--ratings` adds `rating,rating_low,rating_high`: Bradley–Terry in log-odds, 0 being the mean of all models and the
reference, with 95 % intervals from resampled prompts. All models met the same reference and nobody else, so ratings
order them as raw win rates do. What they add is a scale on which a difference predicts two models against each other:
1 apart, the better wins 73 %.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.command import guarded
from benchmarks.options import SEED, Parser, number_type
from benchmarks.statistics.annotations import Annotation, read_annotations, read_difficulty
from benchmarks.statistics.bootstrap import resample_counts
from benchmarks.statistics.length_control import Judgements, LengthControl, length_control
from benchmarks.statistics.ratings import Battle, Rating, bradley_terry

REFERENCE = "(reference)"  # no model's name: a player among the models


def control_all(
    annotations: Mapping[str, Sequence[Annotation]],
    difficulty: Mapping[str, float] | None,
    *,
    rng: np.random.Generator,
    num_resamples: int = 1000,
    as_published: bool = True,
) -> dict[str, LengthControl]:
    """Length control of every model, under the same resampled prompts.

    alpaca_eval numbers a model's judgements from 0 and takes the difficulty of that number, so that behind a missing
    judgement every difficulty is that of another instruction. `as_published` repeats it (it matters only for models
    with missing judgements, where it moves the published rate by up to 3 points); False goes by the instruction.
    """
    instructions = list(difficulty or dict.fromkeys(a.instruction for rows in annotations.values() for a in rows))
    numbers = {instruction: number for number, instruction in enumerate(instructions)}
    for model, rows in annotations.items():
        if unknown := next((a.instruction for a in rows if a.instruction not in numbers), None):
            raise ValueError(f"{model} was judged on instruction {unknown}, whose difficulty is not given")
    counts = resample_counts(rng, len(instructions), num_resamples)
    values = None if difficulty is None else np.array(list(difficulty.values()))
    controlled = {}
    for model, rows in annotations.items():
        try:
            controlled[model] = length_control(_judgements(rows, numbers, values, as_published), counts)
        except ValueError as error:
            raise ValueError(f"{model}: {error}") from error
    return controlled


def rate_all(
    annotations: Mapping[str, Sequence[Annotation]], *, rng: np.random.Generator, num_resamples: int = 1000
) -> dict[str, Rating]:
    """Bradley–Terry ratings of every model, through the reference that all of them met. ValueError for one prompt."""
    battles = [
        Battle(row.instruction, model, REFERENCE, row.preference)
        for model, rows in annotations.items()
        for row in rows
        if row.preference is not None
    ]
    rated = bradley_terry(battles, rng=rng, num_resamples=num_resamples)
    return {model: rated[model] for model in annotations}


def _judgements(
    rows: Sequence[Annotation], numbers: Mapping[str, int], difficulty: np.ndarray | None, as_published: bool
) -> Judgements:
    """Judgements in the order of instructions; an instruction that was judged more than once counts by its mean."""
    grouped: dict[int, list[Annotation]] = {}
    for row in sorted(rows, key=lambda row: numbers[row.instruction]):
        grouped.setdefault(numbers[row.instruction], []).append(row)
    kept, prompts, places = [], [], []
    for place, (number, group) in enumerate(grouped.items()):
        if judged := [(a.preference, a.reference_length, a.model_length) for a in group if a.preference is not None]:
            kept.append(np.mean(judged, axis=0))
            prompts.append(number)
            places.append(place if as_published else number)
    preference, reference_length, model_length = np.array(kept).reshape(-1, 3).T
    return Judgements(
        prompt=np.array(prompts, dtype=int),
        preference=preference,
        reference_length=reference_length,
        model_length=model_length,
        difficulty=None if difficulty is None else difficulty[places],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for a mistake of the user's, told in one line."""
    parser = Parser("alpaca_eval", "Length-controlled win rates of judgements.")
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE.csv[.gz]")
    parser.add_argument("--difficulty", type=Path, metavar="FILE.csv[.gz]", help="AlpacaEval's, of each instruction")
    parser.add_argument("--resamples", type=number_type(int, low=2), default=1000, help="for the standard error (1000)")
    parser.add_argument("--seed", type=SEED, default=0, help="of the resamples (0)")
    parser.add_argument(
        "--align",
        choices=["published", "instruction"],
        default="published",
        help="where judgements are missing: take difficulties by position, as the published leaderboard did, or by "
        "instruction, as is right",
    )
    parser.add_argument("--ratings", action="store_true", help="also Bradley-Terry ratings, with their intervals")
    options = parser.parse_args(arguments)
    return guarded(lambda: _control(options))


def _control(options: argparse.Namespace) -> int:
    annotations = read_annotations(options.annotations)
    difficulty = read_difficulty(options.difficulty) if options.difficulty else None
    controlled = control_all(
        annotations,
        difficulty,
        rng=np.random.default_rng(options.seed),
        num_resamples=options.resamples,
        as_published=options.align == "published",
    )
    rng = np.random.default_rng(options.seed)
    ratings = rate_all(annotations, rng=rng, num_resamples=options.resamples) if options.ratings else {}
    _write(controlled, ratings)
    return 0


def _write(controlled: Mapping[str, LengthControl], ratings: Mapping[str, Rating]) -> None:
    metric = next(iter(controlled.values())).metric
    writer = csv.writer(sys.stdout, lineterminator="\n")
    more = ["rating", "rating_low", "rating_high"] if ratings else []
    writer.writerow(["model", "win_rate", metric, "standard_error", "avg_length", *more])
    for model, found in sorted(controlled.items(), key=lambda entry: -entry[1].controlled):
        rates = (f"{value:.4f}" for value in (found.win_rate, found.controlled, found.standard_error))
        whole = int(found.avg_length)  # characters, as the published leaderboard
        line = [model, *rates, whole]
        if rating := ratings.get(model):
            line += [f"{value:.4f}" for value in (rating.estimate, rating.low, rating.high)]
        writer.writerow(line)


if __name__ == "__main__":
    sys.exit(main())

"""Differences between two arms of a published comparison, computed from their settings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from benchmarks.comparison.comparison import method_of
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.comparison.settings import Settings
from benchmarks.presets.types import Arm, Preset, Scale, ScaleName
from experiments.data.splits import SHARE
from methods import resolve
from registry import flatten
from registry.datasets import DATASETS


def settings_of(arm: Arm, scale: Scale) -> dict[str, str]:
    """The scale's settings that the arm's method has, and the arm's own before them."""
    known = {"lr", *flatten(resolve(arm.method).spec)}
    return {key: value for key, value in scale.settings.items() if key in known} | dict(arm.settings)


def with_length(config: ComparisonConfig, arm: Arm) -> ComparisonConfig:
    """The comparison with as many updates as the arm says.

    ValueError for a share of a number of updates that is no whole number of them.
    """
    given = config.training
    if arm.updates == 1:
        return config
    if given.max_steps is None:
        training = replace(given, epochs=arm.updates * given.epochs)
    else:
        steps = arm.updates * given.max_steps
        if steps != round(steps):
            raise ValueError(f"{arm.label} takes {arm.updates:g} of {given.max_steps} updates, not a whole number")
        training = replace(given, max_steps=round(steps))
    return replace(config, training=training)


def differences(preset: Preset, scale: ScaleName, first: str, second: str) -> tuple[str, ...]:
    """The differences between two arms at a scale, in alphabetical order; `()` for arms that are run alike.

    `objective` (whose settings are then not compared), `dataset`, `rows` (of training data), `updates` (with those of
    the arms that it starts from), `lr`, `after` (the methods that ran before), the name of a part that one of them
    lacks, or the dotted name of a setting of a part of both.
    """
    facts = [_facts(preset, preset.scales[scale], preset.arm(label)) for label in (first, second)]
    objectives = {str(fact["objective"]) for fact in facts}
    parts = [{key.partition(".")[0] for key in fact if "." in key} for fact in facts]
    lacking = parts[0] ^ parts[1]
    keys = [key for key in facts[0].keys() | facts[1].keys() if key.partition(".")[0] not in lacking]
    found = {key for key in keys if facts[0].get(key) != facts[1].get(key)}
    return tuple(sorted(found | (lacking - objectives)))


def _facts(preset: Preset, scale: Scale, arm: Arm) -> Mapping[str, object]:
    config = scale.config
    settings = Settings({f"{arm.method}.{key}": value for key, value in settings_of(arm, scale).items()})
    method = method_of(arm.method, config.model, settings)
    chain = _chain(preset, arm)
    dataset = DATASETS[arm.dataset or config.dataset]
    rows = round(SHARE["train"] * (dataset.num_rows or 0))
    rows = min(rows, config.data.max_pairs or rows)
    training = config.training
    steps = training.max_steps or math.ceil(training.epochs * rows / training.batch_size)
    return {
        "objective": method.objective.name,
        "dataset": dataset.name,
        "rows": rows,
        "updates": steps * sum(each.updates for each in chain),
        "after": tuple(each.method for each in chain[:-1]),
        **flatten(method),
    }


def _chain(preset: Preset, arm: Arm) -> Sequence[Arm]:
    """The arms that make this one's policy, from the untrained model on; itself the last."""
    return [arm] if arm.after is None else [*_chain(preset, preset.arm(arm.after)), arm]

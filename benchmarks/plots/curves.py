"""Training curves of a table's rows: which metrics make a panel, and every seed behind the mean."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from benchmarks.plots.svg import Curve, panel
from benchmarks.ranking.board import Row
from benchmarks.ranking.descriptions import describe

Styles = Mapping[str, int]
OBJECTIVE = "objective"  # stands for each row's own: dpo/loss and simpo/loss share a panel
FITTED, CONSUMED = "reward_model", "/tokens_consumed"  # likewise: apo/accuracy and gapo/accuracy
POLICY = {
    "loss": "Total loss",
    f"{OBJECTIVE}/loss": "Objective’s loss",
    f"{OBJECTIVE}/reward_accuracy": "Reward accuracy",
    f"{OBJECTIVE}/reward_margin": "Reward margin",
    "grad_norm": "Gradient norm, policy",
}
PLAYERS = {
    "adversary/loss": "Adversary’s loss",
    "penalty/loss": "Policy’s loss against it",
    "grad_norm": "Gradient norm, adversary",
}
ROLLOUTS = {
    "rollout/reward": "Reward",
    "rollout/reward/verified": "Verified reward",
    "rollout/reward/learned": "Learned reward",
    "rollout/kl": "KL from the reference, nats a token",
    "rollout/length": "Length, tokens",
    "rollout/finished": "Ended by the policy itself",
}
REWARD_MODEL = {
    f"{FITTED}/accuracy": "Accuracy on held-out pairs",
    f"{FITTED}/ece": "Calibration error (ECE)",
    f"{FITTED}/loss": "Loss of its fit",
    f"{FITTED}/reward/judged": "Samples’ reward by another model",
}
ACCURACY = "adversary/accuracy/"
EXPLAINED = "Accuracies: how often a discriminator puts the first set above the second; ½ is chance."
LEVELS = {"accuracy": 0.5, "margin": 0.0}  # chance; no preference


@dataclass(frozen=True)
class Group:
    """Panels that belong together."""

    title: str
    note: str
    panels: tuple[Markup, ...]
    folded: bool = False
    named: bool = False  # the panels name their marks, so no legend is needed
    rows: frozenset[str] | None = None  # whose marks the legend explains; None: of all


def groups(rows: Sequence[Row], styles: Styles) -> list[Group]:
    """The policy's curves, its rollouts' and its reward model's, those of each game, and all others, folded."""
    series = {row.name: [_series(row, index) for index in range(len(row.runs))] for row in rows}
    keys = list(dict.fromkeys(key for runs in series.values() for run in runs for key in run))
    made, used = [], {"step"}
    for title, note, known in (
        ("The policy", "", POLICY),
        ("Rollouts", "Of the samples that an update learns from; one rollout may serve several updates.", ROLLOUTS),
        ("Reward model", "As each round’s fit left it.", REWARD_MODEL),
    ):
        found = {key: name for key, name in known.items() if key in keys}
        used |= set(found)
        if found:
            made.append(Group(title, note, _panels(found, series, styles)))
    parts = dict.fromkeys(key.split("/")[0] for key in keys if "/" in key and not key.startswith(f"{OBJECTIVE}/"))
    for part in parts:
        wanted = {f"{part}/{key}": title for key, title in PLAYERS.items() if f"{part}/{key}" in keys}
        accuracies = {key: _spell(key) for key in keys if key.startswith(f"{part}/{ACCURACY}")}
        used |= set(wanted) | set(accuracies)
        note = EXPLAINED if accuracies else ""
        if wanted or accuracies:
            made.append(Group(f"The game: {part}", note, _panels(wanted | accuracies, series, styles)))
    rest = {key: _spell(key) for key in keys if key not in used}
    return [*made, Group("Everything else that was logged", "", _panels(rest, series, styles), True)] if rest else made


def _series(row: Row, index: int) -> dict[str, dict[int, float]]:
    """One run's metrics by step; the keys of the row's own objective and of its reward model are renamed."""
    shared = {describe(row.method).objective: OBJECTIVE}
    shared |= {k.removesuffix(CONSUMED): FITTED for step in row.runs[index].steps for k in step if k.endswith(CONSUMED)}
    metrics: dict[str, dict[int, float]] = {}
    for step in row.runs[index].steps:
        for key, value in step.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                part, _, rest = key.partition("/")
                name = f"{shared[part]}/{rest}" if rest and part in shared else key
                metrics.setdefault(name, {})[int(step["step"])] = float(value)
    return metrics


def _panels(
    titles: dict[str, str], series: dict[str, list[dict[str, dict[int, float]]]], styles: Styles
) -> tuple[Markup, ...]:
    panels = []
    for key, title in titles.items():
        curves = [curve for name, runs in series.items() for curve in _curves(name, key, runs, styles[name])]
        level = next((level for word, level in LEVELS.items() if word in key), None)
        panels.append(panel(title, curves, level=level))
    return tuple(panels)


def _curves(name: str, key: str, runs: list[dict[str, dict[int, float]]], style: int) -> list[Curve]:
    """The mean over the seeds that have a step, and each seed behind it if there are several."""
    seeds = [run[key] for run in runs if key in run]
    if not seeds:
        return []
    steps = sorted(set().union(*seeds))
    average = [(float(step), statistics.fmean(seed[step] for seed in seeds if step in seed)) for step in steps]
    behind = [Curve(f"{name}, a seed", _points(seed), style, faint=True) for seed in seeds] if len(seeds) > 1 else []
    return [*behind, Curve(name, tuple(average), style)]


def _points(seed: dict[int, float]) -> tuple[tuple[float, float], ...]:
    return tuple((float(step), value) for step, value in sorted(seed.items()))


def _spell(key: str) -> str:
    """`latent/adversary/accuracy/reference_chosen_over_policy_chosen`: `reference chosen > policy chosen`."""
    if f"/{ACCURACY}" in key:
        return key.rpartition("/")[2].replace("_over_", " > ").replace("_", " ")
    return key.replace(f"{OBJECTIVE}/", "").replace("/", " · ").replace("_over_", " > ").replace("_", " ")

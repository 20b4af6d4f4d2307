"""The types of a published comparison: arms, claims about them, and a scale at which to run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.comparison.config import ComparisonConfig, DataConfig, TrainingConfig
from benchmarks.results.references import PublishedTable
from registry import Paper
from registry.catalogue import Catalogue

ScaleName = Literal["small", "paper"]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the comparison: a method with what sets it apart.

    `dataset` replaces the scale's; `after` names the arm whose policy this one starts from, seed by seed; `updates` is
    how many times the scale's updates it takes, so that two stages of one half are as long as an arm of one.
    """

    label: str
    method: str
    settings: Mapping[str, str] = field(
        default_factory=dict
    )  # dotted names without the method's: {"latent.weight": "0"}
    dataset: str | None = None
    after: str | None = None
    updates: float = 1.0
    published: str | None = None  # the row of the published table; the label, if it is called the same


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`first` scores higher than `second`, or lower. The published difference is in the paper's own unit.

    `differs_in` is all that sets the two arms apart, in the words of `arms.differences`: `("latent",)` a part that one
    of them lacks, `("apo.rm_loss",)` a setting, `objective`, `dataset`, `rows`, `updates`, `lr`, `after`.
    """

    first: str
    second: str
    differs_in: tuple[str, ...] = ()
    higher: bool = True
    published: float | None = None  # first − second; None where the paper shows a curve and no figure
    measure: str = "quality"

    @property
    def sentence(self) -> str:
        return f"{self.first} {'above' if self.higher else 'below'} {self.second}"


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A task and the value of its items that is compared."""

    task: str
    value: str

    @property
    def name(self) -> str:
        return f"{self.task} {self.value}"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The scale of a comparison: a configuration without its methods, what is measured, and what departs from the
    paper.

    `settings` are those of every arm whose method has them, by dotted names without the method's; an arm's own come
    before them.
    """

    config: ComparisonConfig
    measures: Mapping[str, Measure]
    settings: Mapping[str, str] = field(default_factory=dict)  # {"lr": "1e-4"}; none: the papers'
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One published comparison. Raises ValueError for a claim about an arm or a measure that it has not."""

    name: str
    paper: Paper
    where: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    scales: Mapping[ScaleName, Scale]
    published: PublishedTable | None = None
    note: str = ""

    def __post_init__(self) -> None:
        labels = [arm.label for arm in self.arms]
        named = [name for claim in self.claims for name in (claim.first, claim.second)]
        named += [arm.after for arm in self.arms if arm.after is not None]
        if unknown := sorted(set(named) - set(labels)):
            raise ValueError(
                f"{self.name} says something of {', '.join(unknown)}, and its arms are {', '.join(labels)}"
            )
        for scale, of in self.scales.items():
            if missing := {claim.measure for claim in self.claims} - of.measures.keys():
                raise ValueError(f"{self.name} at scale {scale} measures no {', '.join(sorted(missing))}")
        for claim in self.claims:
            if claim.published is not None and (claim.published > 0) != claim.higher:
                raise ValueError(f"{self.name}: {claim.sentence} is not what a difference of {claim.published} says")

    def arm(self, label: str) -> Arm:
        return next(arm for arm in self.arms if arm.label == label)

    @property
    def stages(self) -> list[list[Arm]]:
        """The arms in the groups in which one command can run them: one data set and length, no method twice.

        An arm that starts from another's policy comes after it.
        """
        made: list[list[Arm]] = []
        for arm in sorted(self.arms, key=self._depth):
            shared = (
                group
                for group in made
                if (group[0].dataset, group[0].after, group[0].updates) == (arm.dataset, arm.after, arm.updates)
                and arm.method not in {other.method for other in group}
            )
            group = next(shared, None)
            if group is None:
                made.append([arm])
            else:
                group.append(arm)
        return made

    def _depth(self, arm: Arm) -> int:
        return 0 if arm.after is None else 1 + self._depth(self.arm(arm.after))


# Every comparison at small scale is run with these, so that presets share their runs
def small(
    *, tasks: tuple[str, ...], max_pairs: int, max_steps: int | None = None, dataset: str = "constraints"
) -> ComparisonConfig:
    """The configuration of a small scale; without `max_steps`, one pass over the rows."""
    return ComparisonConfig(
        model="smollm2_135m",
        dataset=dataset,
        seeds=(0, 1, 2),
        tasks=tasks,
        held_out_pairs=50,
        num_prompts=100,
        max_new_tokens=64,
        data=DataConfig(max_length=256, max_pairs=max_pairs),
        training=TrainingConfig(micro_batch_size=8, max_steps=max_steps),
    )


SMALL_LR = {"lr": "1e-4"}  # moves a small model in a dozen steps: equal for all arms and swept for none


PRESETS: Catalogue[Preset] = Catalogue("preset")

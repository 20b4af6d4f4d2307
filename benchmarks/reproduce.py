"""A published comparison by name: run it again, and see whether what the paper claims shows here too.

    python -m benchmarks.reproduce ganpo_table1_gemma --scale small

Runs go through the main command, into one folder for all presets of a scale: what is finished, for this preset or
another, is not run again. A claim is a sign or an order: the paper's figures
were measured by other judges on other machines, and only whether one row is above another can be looked for here
(`benchmarks.presets.verdicts`). Options that this command does not know go to `benchmarks.run` behind the preset's own.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from benchmarks.command import guarded
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.options import Parser, beginning_from, parser, words_of
from benchmarks.presets import PRESETS, Arm, Preset, Scale, ScaleName

if TYPE_CHECKING:
    import rich.console
    import rich.table

    from benchmarks.presets.verdicts import Reproduction
    from experiments.runs.cell import Cell

Configs = Mapping[tuple[str, ...], ComparisonConfig]  # by the labels of the arms that run together


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 whatever the verdicts, 2 for a mistake of the user's, or what the main command returned."""
    made = Parser("reproduce", __doc__.split("\n\n")[0])
    made.add_argument("name", nargs="?", help="a preset; without one they are listed")
    made.add_argument("--scale", choices=get_args(ScaleName), default="small", help="default: small")
    made.add_argument("--out", type=Path, default=Path(".advalign"), help="below it: reproduce/SCALE")
    made.add_argument(
        "--dry-run", action="store_true", help="show the commands, their plans and the claims; run nothing"
    )
    options, further = made.parse_known_args(arguments)
    if options.name is None and further:
        made.error(f"{' '.join(further)}: name a preset before the options of benchmarks.run")

    def command() -> int:
        from rich.console import Console

        console = Console()
        if options.name is None:
            console.print(listing())
            return 0
        preset = PRESETS[options.name]
        return _reproduce(preset, options.scale, options.out, further, console, dry_run=options.dry_run)

    return guarded(command, out=options.out)


def _reproduce(
    preset: Preset, scale: ScaleName, out: Path, further: Sequence[str], console: rich.console.Console, *, dry_run: bool
) -> int:
    from benchmarks.presets.verdicts import as_json, read

    folder = out / "reproduce" / scale
    configs = {
        tuple(arm.label for arm in stage): config_for(stage, preset.scales[scale], folder, further)
        for stage in preset.stages
    }
    if dry_run:
        status = _plans(preset, configs, console)
        found = read(preset, scale, folder, {})
    else:
        status, found = 0, read(preset, scale, folder, _run(preset, configs, console))
    for table in tables(found):
        console.print(table)
    if not dry_run:
        from experiments.manifest import write_json

        write_json(folder / f"{preset.name}.json", as_json(found))
    return status


def _plans(preset: Preset, configs: Configs, console: rich.console.Console) -> int:
    """The plan of each comparison; the worst status of them."""
    from rich.console import Console

    from benchmarks.run import dry_run

    worst = 0
    for labels, config in configs.items():
        _show([*words_of(config), "--dry-run"], console)
        if preset.arm(labels[0]).after is None:  # the run that it starts from may not exist yet
            worst = worst or dry_run(config, Console(stderr=True))
    return worst


def _run(preset: Preset, configs: Configs, console: rich.console.Console) -> dict[str, list[str]]:
    """Do what is missing; the ids of each arm's runs."""
    from rich.console import Console

    from benchmarks.comparison.execution import execute

    finished: dict[str, list[Cell]] = {}
    for labels, config in configs.items():
        after = preset.arm(labels[0]).after
        starts = [config]
        if after is not None:
            starts = [
                replace(config, seeds=(cell.experiment.seed or 0,), init_from=str(cell.folder))
                for cell in finished[after]
            ]
        for start in starts:
            _show(words_of(start), console)
            cells = execute(start, Console(stderr=True))
            for label in labels:
                own = [cell for cell in cells if cell.experiment.name == preset.arm(label).method]
                finished.setdefault(label, []).extend(own)
    return {label: [cell.experiment.id for cell in cells] for label, cells in finished.items()}


def _show(command: Sequence[str], console: rich.console.Console) -> None:
    console.print(f"python -m benchmarks.run {' '.join(command)}", style="dim", markup=False, highlight=False)


def config_for(stage: Sequence[Arm], scale: Scale, out: Path, further: Sequence[str] = ()) -> ComparisonConfig:
    """The comparison of a group of arms that can be run together; `further` are options of `benchmarks.run`."""
    from benchmarks.presets.arms import settings_of, with_length

    config = replace(
        scale.config,
        methods=tuple(arm.method for arm in stage),
        dataset=stage[0].dataset or scale.config.dataset,
        settings={f"{arm.method}.{key}": value for arm in stage for key, value in settings_of(arm, scale).items()},
        output=replace(scale.config.output, folder=out),
    )
    return with_length(beginning_from(config, parser(), further), stage[0])


def tables(found: Reproduction) -> list[rich.table.Table]:
    """The claims with their verdicts, and the paper's rows beside the measured ones."""
    from rich import box
    from rich.table import Table

    from benchmarks.presets.arms import differences
    from benchmarks.ranking import figures

    preset, scale = found.preset, found.preset.scales[found.scale]
    claims = Table(
        title=f"{preset.name} · {preset.where} of arXiv:{preset.paper.arxiv} · {found.scale}", box=box.SIMPLE_HEAD
    )
    for heading in ("claim", "they differ in", "paper", "measured", "verdict"):
        claims.add_column(heading, justify="right" if heading in ("paper", "measured") else "left")
    for finding in found.findings:
        comparison = finding.comparison
        shown = figures.interval(comparison, share=finding.share, signed=True) if comparison else figures.NONE
        paper = finding.claim.published
        told = f"{finding.verdict}: {finding.why}" if finding.why else finding.verdict
        claims.add_row(
            f"{finding.claim.sentence}, {finding.measure.name}",
            ", ".join(differences(preset, found.scale, finding.claim.first, finding.claim.second)),
            figures.NONE if paper is None else f"{paper:+.2f}".replace("-", figures.MINUS),
            shown,
            told,
        )
    claims.caption = "\n".join(text for text in (preset.note, scale.note) if text)
    claims.title_justify = claims.caption_justify = "left"
    return [claims, _beside(found)]


def _beside(found: Reproduction) -> rich.table.Table:
    from rich import box
    from rich.table import Table

    from benchmarks.ranking import figures

    preset, published = found.preset, found.preset.published
    shares = {f.claim.measure: f.share for f in found.findings}
    made = Table(title="the paper's rows beside the measured ones", title_justify="left", box=box.SIMPLE_HEAD)
    made.add_column("row")
    for column in published.columns if published else ():
        made.add_column(f"paper: {column}", justify="right")
    measures = preset.scales[found.scale].measures
    for measure in measures.values():
        made.add_column(f"here: {measure.name}", justify="right")
    for arm in preset.arms:
        cells = published.cells.get(arm.published or arm.label, ()) if published else ()
        padded = list(cells) or [figures.NONE] * (len(published.columns) if published else 0)
        for key in measures:
            interval = found.scores.get(key, {}).get(arm.label)
            padded.append(figures.interval(interval, share=shares.get(key, False)) if interval else figures.NONE)
        made.add_row(arm.label, *padded)
    return made


def listing() -> rich.table.Table:
    """The list of presets."""
    from rich import box
    from rich.table import Table

    made = Table(title="presets", title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("preset", "paper", "claims"):
        made.add_column(heading)
    for preset in PRESETS.values():
        claims = "\n".join(claim.sentence for claim in preset.claims)
        made.add_row(preset.name, f"{preset.paper.title}, {preset.where}", claims)
    return made


if __name__ == "__main__":
    sys.exit(main())

"""A published comparison by name: run it again, and see whether what the paper claims shows here too.

    python -m benchmarks.reproduce ganpo_table1_gemma --scale small

Runs go through the main command; what is finished is not run again. A claim is a sign or an order: the paper's figures
were measured by other judges on other machines, and only whether one row is above another can be looked for here
(`benchmarks.verdicts`). Options that this command does not know go to `benchmarks.run` behind the preset's own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from benchmarks.presets import PRESETS, Arm, Preset, Scale, ScaleName

if TYPE_CHECKING:
    import rich.console
    import rich.table

    from benchmarks.verdicts import Reproduction


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 whatever the verdicts, 2 for a mistake of the user's, or what the main command returned."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.reproduce", description=__doc__.split("\n\n")[0])
    made.add_argument("name", nargs="?", help="a preset; without one they are listed")
    made.add_argument("--scale", choices=get_args(ScaleName), default="small", help="default: small")
    made.add_argument("--out", type=Path, default=Path(".advalign"), help="below it: reproduce/NAME-SCALE")
    made.add_argument(
        "--dry-run", action="store_true", help="show the commands, their plans and the claims; run nothing"
    )
    options, further = made.parse_known_args(arguments)
    from rich.console import Console

    console = Console()
    if options.name is None:
        console.print(listing())
        return 0
    try:
        preset = PRESETS[options.name]
        scale = preset.scales[options.scale]
        status = _run(preset, scale, options, further, console)
        if status and not options.dry_run:
            return status
        from benchmarks.verdicts import as_json, read

        found = read(preset, options.scale, _folder(options))
    except (KeyError, ValueError) as error:
        sys.stderr.write(f"{error.args[0] if isinstance(error, KeyError) and error.args else error}\n")
        return 2
    for table in tables(found):
        console.print(table)
    if not options.dry_run:
        from experiments.manifest import write_json

        write_json(_folder(options) / "reproduction.json", as_json(found))
    return status


def _folder(options: argparse.Namespace) -> Path:
    out: Path = options.out
    return out / "reproduce" / f"{options.name}-{options.scale}"


def _run(
    preset: Preset, scale: Scale, options: argparse.Namespace, further: Sequence[str], console: rich.console.Console
) -> int:
    """The main command for each group of arms; its first status that is not 0, at which only a dry run goes on."""
    from benchmarks import run

    worst = 0
    for stage in preset.stages:
        command = [*command_of(stage, scale, _folder(options)), *further]
        for given in _staged(preset, stage, command, _folder(options)):
            given += ["--dry-run"] if options.dry_run else []
            console.print(f"python -m benchmarks.run {' '.join(given)}", style="dim", markup=False, highlight=False)
            if options.dry_run and "--init-from" in given:
                continue  # the run that it starts from may not exist yet
            worst = worst or run.main(given)
            if worst and not options.dry_run:
                return worst
    return worst


def command_of(stage: Sequence[Arm], scale: Scale, out: Path) -> list[str]:
    """The arguments of `benchmarks.run` for a group of arms that can be run together."""
    command = ["--methods", ",".join(arm.method for arm in stage), *scale.arguments, "--out", str(out)]
    if stage[0].dataset is not None:
        command += ["--dataset", stage[0].dataset]
    for arm in stage:
        settings = ({"lr": f"{scale.lr:g}"} if scale.lr is not None else {}) | dict(arm.settings)
        command += [text for key, value in settings.items() for text in ("--set", f"{arm.method}.{key}={value}")]
    return command


def _staged(preset: Preset, stage: Sequence[Arm], command: list[str], out: Path) -> Iterator[list[str]]:
    """The command itself, or one a seed, each starting from the earlier arm's policy of that seed."""
    from benchmarks.cli import parser
    from benchmarks.results import load
    from benchmarks.verdicts import label_of

    after = stage[0].after
    if after is None:
        yield command
        return
    for seed in parser().parse_args(command).seeds.split(","):
        found = [run for run in load(out).runs if str(run.seed) == seed and label_of(preset, run) == after]
        start = found[0].folder if found else out / "runs" / f"<{after} at seed {seed}>"
        yield [*command, "--seeds", seed, "--init-from", str(start)]


def tables(found: Reproduction) -> list[rich.table.Table]:
    """The claims with their verdicts, and the paper's rows beside the measured ones."""
    from rich import box
    from rich.table import Table

    from benchmarks import figures

    preset, scale = found.preset, found.preset.scales[found.scale]
    claims = Table(
        title=f"{preset.name} · {preset.where} of arXiv:{preset.paper.arxiv} · {found.scale}", box=box.SIMPLE_HEAD
    )
    for heading, justify in (("claim", "left"), ("paper", "right"), ("measured", "right"), ("verdict", "left")):
        claims.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for finding in found.findings:
        comparison = finding.comparison
        shown = figures.interval(comparison, share=finding.share, signed=True) if comparison else figures.NONE
        paper = finding.claim.published
        told = f"{finding.verdict}: {finding.why}" if finding.why else finding.verdict
        claims.add_row(
            f"{finding.claim.sentence}, {finding.measure.name}",
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

    from benchmarks import figures

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
    """What there is to reproduce."""
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

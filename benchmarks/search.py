"""Search hyperparameters: the same budget for every method, on the dev split.

    python -m benchmarks.search --methods dpo,ganpo_dpo --trials 20

The same command again continues; `python -m benchmarks.run --methods dpo@tuned,ganpo_dpo@tuned` uses what it found.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.command import guarded
from benchmarks.options import read_config, search_parser
from benchmarks.tuning.config import TRIALS, SearchConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from rich.console import Console

    from benchmarks.comparison.progress import Progress
    from benchmarks.tuning.trials import Trials
    from experiments.mirror import Mirror
    from experiments.studies.study import Budget, Design, Outcome, Report, Study
    from methods.protocols import Method

WORKER = "ADVALIGN_SEARCH_WORKER"  # set for the processes that --workers starts


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 2 for a mistake of the user's, told in one line."""
    made = search_parser()
    options = made.parse_args(arguments)
    return guarded(
        lambda: search(read_config(SearchConfig, made, arguments), dry_run=options.dry_run), out=options.folder
    )


def search(config: SearchConfig, *, dry_run: bool = False) -> int:
    """Runs the search, after its options are read."""
    from rich.console import Console

    from benchmarks.comparison.execution import check_output
    from experiments.mirror import open_mirror

    console = Console(stderr=True, quiet=WORKER in os.environ)
    arms, output = _arms(config), config.output
    if not dry_run:
        check_output(output)
    mirror = None if dry_run else open_mirror(output.tracking_uri, output.folder, functools.partial(_say, console))
    try:
        return _search(config, arms, console, mirror, dry_run=dry_run)
    finally:
        if mirror:
            mirror.close()


def _search(
    config: SearchConfig, arms: Sequence[Arm], console: Console, mirror: Mirror | None, *, dry_run: bool
) -> int:
    from benchmarks.comparison.progress import LOG, PATIENCE, Progress
    from benchmarks.tuning import budget as search_plan
    from experiments.studies.study import Study, open_storage, work

    helping = WORKER in os.environ
    progress = Progress(None if helping else console, None if dry_run else config.output.folder / LOG)
    with progress:
        progress.phase("preparing model and data", after=PATIENCE)
        trials = _trials(config, {arm.name: arm.build({}) for arm in arms}, mirror, progress)
    designs = [_design(arm, trials, config.pruner) for arm in arms]
    budgets = [_budget(config, design) for design in designs]
    if not helping:
        console.print(search_plan.render(designs, budgets, {arm.name: arm.build({}) for arm in arms}, trials))
        console.print(trials.bench.data.report.summary(), style="dim", markup=False)
    if dry_run:
        return 0
    folder = config.output.folder / "studies"
    storage = open_storage(config.storage or str(folder / "journal.log"))
    if not helping:
        with progress:
            trials.prepare([arm.build({}) for arm in arms])
    studies = [
        Study(design, storage, budget=budget, folder=folder, run=_runner(arm, design, trials, console, progress))
        for arm, design, budget in zip(arms, designs, budgets, strict=True)
    ]
    others = [] if helping else _start_workers(config)
    try:
        with progress:
            work(studies)
    except BaseException:
        for other in others:
            other.terminate()  # as this process ends: what a worker has begun is taken up again later
        raise
    finally:
        for other in others:
            other.wait()
    if not helping:
        _conclude(studies, trials, console)
    return 0


@dataclass(frozen=True)
class Arm:
    """One method with one sampler: one study."""

    name: str
    sampler: str
    space: Mapping[str, BaseDistribution]
    fixed: Mapping[str, Any]
    model: str

    def build(self, params: Mapping[str, Any]) -> Method:
        """The method with the fixed and the given hyperparameters, every learning rate resolved."""
        from benchmarks.comparison.comparison import method_of
        from benchmarks.comparison.settings import Settings

        values = {f"{self.name}.{key}": value for key, value in (*self.fixed.items(), *params.items())}
        return method_of(self.name, self.model, Settings(values))


def _arms(config: SearchConfig) -> list[Arm]:
    from benchmarks.comparison.settings import Settings
    from benchmarks.tuning.space import Range, space_of
    from experiments.studies.sampler import SAMPLERS
    from methods import resolve
    from registry import nearest

    names = config.methods
    for sampler in config.samplers:
        if sampler not in SAMPLERS:
            raise KeyError(f"no sampler {sampler!r}{nearest(sampler, SAMPLERS)}")
    settings = Settings(config.settings)
    settings.check(names)
    ranges = [Range.parse(f"{name}={text}", names) for name, text in config.space.items()]
    arms = []
    for name in names:
        if resolve(name).trainer:
            raise ValueError(f"{name} is trained by another trainer, as it is given, and cannot be searched")
        fixed = settings.of(name)
        for sampler in config.samplers:
            given = sampler == "grid"
            space = space_of(name, resolve(name).spec, fixed=tuple(fixed), ranges=ranges, tunables=not given)
            arms.append(Arm(name, sampler, space, fixed, config.model))
    return arms


def _budget(config: SearchConfig, design: Design) -> Budget:
    """The budget that was asked for; a grid has as many trials as points."""
    from experiments.studies.study import Budget

    if design.sampler == "grid":
        return Budget(trials=len(design.first))
    if config.budget_minutes is not None:
        return Budget(seconds=60 * config.budget_minutes)
    return Budget(trials=TRIALS if config.trials is None else config.trials)


def _trials(config: SearchConfig, methods: Mapping[str, Method], mirror: Mirror | None, progress: Progress) -> Trials:
    """Model, tokens and reference store, once for all studies."""
    from benchmarks.comparison.comparison import check_roles, data_of, training_of
    from benchmarks.comparison.grid import accelerator
    from benchmarks.comparison.workbench import Workbench
    from benchmarks.tasks import lacks_pairs
    from benchmarks.tasks.held_out import HeldOut
    from benchmarks.tuning.dev_metrics import Constraint, Sampled, known, needs_pairs
    from benchmarks.tuning.trials import Trials
    from experiments.models.limits import check_limits
    from experiments.models.loading import load_tokenizer, resolve_model

    metrics = tuple(known(name) for name in config.metrics)
    constraints = tuple(Constraint.parse(text) for text in config.constraints)
    if config.pruner == "hyperband" and not metrics[0].startswith("dev/"):
        raise ValueError(f"--pruner hyperband measures a trial on its way, which {metrics[0]} does not allow")
    if config.pruner == "wilcoxon" and len(config.seeds) < 2:
        raise ValueError("--pruner wilcoxon compares trials seed by seed; give it --seeds 1000,1001,1002 or more")
    model = resolve_model(config.model)
    tokenizer = load_tokenizer(model)
    data = data_of(config.dataset, config.data, tokenizer, dev_pairs=config.dev_pairs, held_out_pairs=0)
    check_roles(dict(methods), data)
    check_limits(
        model,
        tokenizer=tokenizer,
        data=data,
        max_length=config.data.max_length,
        lora_rank=config.training.lora_rank,
    )
    if not data.dev:
        raise ValueError(f"{data.name} has no dev pairs to measure a trial on; give more data or --dev-pairs")
    if needs_pairs((*config.metrics, *(limit.metric for limit in constraints))) and lacks_pairs(HeldOut(), data.dev):
        raise ValueError(
            f"{', '.join(config.metrics)}: measured on dev pairs of a chosen and a rejected answer, and {data.name}"
            f" ({data.kind}) has none"
        )
    bench = Workbench(
        out=config.output.folder,
        model=model,
        tokenizer=tokenizer,
        data=data,
        training=training_of(config.training, len(data.train), methods),
        accelerator=accelerator(),
        split="dev",
        max_length=config.data.max_length,
        checkpoint_every=config.output.checkpoint_every,
        progress=progress,
    )
    return Trials(
        bench=bench,
        seeds=config.seeds,
        metrics=metrics,
        constraints=constraints,
        pruner=config.pruner,
        sampled=Sampled(num_prompts=config.num_prompts, max_new_tokens=config.max_new_tokens),
        tracker=mirror,
    )


def _design(arm: Arm, trials: Trials, pruner: str) -> Design:
    """The study of an arm; arms of one method that differ in their sampler alone share the end of their names' key."""
    from optuna.distributions import CategoricalDistribution, distribution_to_json

    from benchmarks.tuning.dev_metrics import METRICS
    from benchmarks.tuning.space import grid_of
    from experiments.studies.study import Design
    from registry import flatten

    flat, space = flatten(arm.build({})), dict(arm.space)
    default = {name: flat[name] for name in space}
    for name, distribution in space.items():  # a list that is drawn from holds the default, which is trial 0
        if isinstance(distribution, CategoricalDistribution) and arm.sampler != "grid":
            space[name] = CategoricalDistribution(list(dict.fromkeys([*distribution.choices, default[name]])))
    facts = {
        "model": {
            "name": trials.bench.model.name,
            "weights": trials.bench.weights,
            "adaptation": trials.bench.training.adaptation,
        },
        "data": dict(trials.bench.facts),
        "training": dataclasses.asdict(trials.bench.training),
        "seeds": list(trials.seeds),
        "space": {name: json.loads(distribution_to_json(distribution)) for name, distribution in space.items()},
        "hyperparameters": flat,
        "metrics": list(trials.metrics),
        "constraints": list(map(str, trials.constraints)),
        "pruner": pruner,
        "sampled": dataclasses.asdict(trials.sampled),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return Design(
        name=f"{arm.name}-{arm.sampler}-{key}",
        method=arm.name,
        space=space,
        first=grid_of(space, arm.name) if arm.sampler == "grid" else [default],
        metrics=trials.metrics,
        directions=tuple(METRICS[metric] for metric in trials.metrics),
        sampler=arm.sampler,
        pruner=pruner,
        facts=facts | {"key": key, "default": default},
    )


def _runner(
    arm: Arm, design: Design, trials: Trials, console: Console, progress: Progress
) -> Callable[[int, Mapping[str, Any], Report], Outcome]:
    parent = trials.tracker.comparison(f"study {design.name}", design.facts) if trials.tracker else None

    def run(number: int, params: Mapping[str, Any], report: Report) -> Outcome:
        shown = " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in params.items())
        label = f"{design.name}/{number}"
        try:
            with progress.cell(label):
                outcome = trials.run(arm.name, arm.build(params), parent, label, report)
        except Exception as error:
            _say(console, f"{label} {shown}: {type(error).__name__} {error}")
            raise
        values = ", ".join(f"{m} {v:.4g}" for m, v in zip(design.metrics, outcome.values, strict=True))
        _say(console, f"{label} {shown}: {values}")
        return outcome

    return run


def _start_workers(config: SearchConfig) -> list[subprocess.Popen[str]]:
    """Processes that take trials as this one does, and share its cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {"OMP_NUM_THREADS": str(max(1, cores // config.workers))}
    environment = share | dict(os.environ) | {WORKER: "1"}
    command = [sys.executable, "-m", "benchmarks.search", "--config", "-"]
    started = []
    for _ in range(config.workers - 1):
        process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, text=True)
        assert process.stdin is not None
        with process.stdin:
            json.dump(config.as_json(), process.stdin)
        started.append(process)
    return started


def _conclude(studies: Sequence[Study], trials: Trials, console: Console) -> None:
    """Write the page, say what was found and close the studies' MLflow runs."""
    from benchmarks.reporting.study_page import write_page

    page = write_page(trials.bench.out)
    for study in studies:
        record = study.record()
        if trials.tracker:
            parent = trials.tracker.comparison(f"study {record.name}", record.facts)
            parent.finish(artifacts=(study.folder / f"{record.name}.json",))
        best, start = record.best, record.complete[0] if record.complete else None
        if best is None or start is None:
            _say(console, f"{record.name}: no trial was feasible")
            continue
        found = " ".join(f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}" for k, v in best.params.items())
        gain = f"{record.metrics[0]} {best.values[0]:.4g}, first trial {start.values[0]:.4g}"
        _say(console, f"{record.name}: trial {best.index} is best: {gain}: {found}")
    _say(console, f"written: {page}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())

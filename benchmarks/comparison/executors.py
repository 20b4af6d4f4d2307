"""Calls that are independent of each other, as tasks of a Ray cluster: they outlive the death of a worker."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Job:
    """One call, `function(*arguments)`; it must survive pickling, and being made again after it was interrupted."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Ray:
    """Runs jobs as tasks of the Ray cluster that RAY_ADDRESS names, or of one started on this machine.

    `cpus` and `gpus` are asked for each job; `retries` counts how often a job is started again after its worker died.
    """

    cpus: float = 1
    gpus: float = 0
    retries: int = 3

    def run(self, *stages: Sequence[Job], waiting: Callable[[], None] = lambda: None) -> Iterator[Job]:
        """Yield each job when it is done, in whatever order; `waiting` is called every two seconds or so.

        The jobs of a stage start when those of the one before are done. Where jobs fail, the others of their stage end
        first, then the first failure is raised: what the job raised, or RuntimeError for one whose workers kept dying.
        ValueError if no machine could ever run a job.
        """
        ray = load_ray()
        started = not ray.is_initialized()
        if started:
            environment = {"PYTHONPATH": str(ROOT)}
            ray.init(runtime_env={"env_vars": environment}, include_dashboard=False, log_to_driver=False)
        try:
            self._check([node["Resources"] for node in ray.nodes() if node["Alive"]])
            for jobs in stages:
                yield from self._finish(ray, jobs, waiting)
        finally:
            if started:
                ray.shutdown()

    def _finish(self, ray: Any, jobs: Sequence[Job], waiting: Callable[[], None]) -> Iterator[Job]:
        call = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=self.retries)(_call)
        pending = {call.options(name=job.name).remote(job.function, job.arguments): job for job in jobs}
        failures: list[Exception] = []
        while pending:
            done, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
            for task in done:
                job = pending.pop(task)
                try:
                    ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    failures.append(error.cause if isinstance(error.cause, Exception) else error)
                except ray.exceptions.RayError as error:
                    failures.append(RuntimeError(f"{job.name} was given up: {error}"))
                else:
                    yield job
            waiting()
        if failures:
            raise failures[0]

    def _check(self, machines: Sequence[Mapping[str, float]]) -> None:
        """ValueError if no machine alone has what a cell asks for: Ray would wait for one."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        for name, number in wanted.items():
            largest = max((machine.get(name, 0) for machine in machines), default=0)
            if number > largest:
                raise ValueError(
                    f"a cell asks for {number:g} {name} and the largest machine of the Ray cluster has {largest:g};"
                    f" ask for less with --{name.lower()}s-per-cell, or add a larger machine"
                )
        if not any(all(machine.get(name, 0) >= number for name, number in wanted.items()) for machine in machines):
            raise ValueError(
                f"a cell asks for {self.cpus:g} CPU and {self.gpus:g} GPU, and no machine of the Ray cluster has both;"
                " ask for less with --cpus-per-cell or --gpus-per-cell, or add a larger machine"
            )


def load_ray() -> Any:
    """The library, which is an extra. ValueError if it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the behaviour to come; silences its warning
    try:
        import ray
    except ImportError:
        raise ValueError("--executor ray needs ray: pip install 'ray>=2.40', or leave the option out") from None
    return ray


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    function(*arguments)

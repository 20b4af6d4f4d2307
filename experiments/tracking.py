"""MLflow: a parent run for a comparison, a child run for each of its cells.

`metrics.jsonl` in a run's folder is the truth, MLflow shows it. A step reaches MLflow in one transaction, together
with the metric `step`, whose latest value therefore is the last step that is there: after a kill the run is found
again through its tags, what `metrics.jsonl` has more is logged, and what is logged already is left alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import numbers
import os
import re
import threading
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from experiments.run_folder import EVALUATIONS, MANIFEST, read_steps

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

Status = Literal["FINISHED", "FAILED", "KILLED"]

RUN_TAG = "advalign.run"  # our run id, or the comparison's
WATERMARK = "step"  # the metric whose latest value is the last step logged
BATCH_LIMIT = 1000  # MLflow's, for the metrics of one log_batch
PARAM_LIMIT = 6000  # MLflow's, for the characters of one parameter
FLUSH_SECONDS = 5.0
OPEN_SECONDS = 25.0  # in which a store that is not a local database has to answer before anything is trained
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",  # nothing calls home
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    # A dead server is noticed in seconds: the figures are on disk, and are sent when it is back
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}
SQLITE = b"SQLite format 3\0"
# Packages by the modules that they bring
DRIVERS = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
ARTIFACT_LIMIT = 20 * 2**20  # bytes; policies stay in the run's folder


@runtime_checkable
class RunLog(Protocol):
    """The log of a cell: to MLflow at once (`RunLogger`), or without waiting (`mirror.MirroredRun`)."""

    def catch_up(self, history: Path, *, size: int | None = None) -> None: ...

    def evaluation(self, task: str, metrics: Mapping[str, float], files: Iterable[Path] = ()) -> None: ...

    def manifest(self, manifest: Mapping[str, Any]) -> None: ...

    def finish(self, status: Status = "FINISHED") -> None: ...


def default_uri(out: Path) -> str:
    """The database below the output folder: `sqlite:////home/me/.advalign/mlflow.db`.

    ValueError for a folder whose name a database's address cannot hold.
    """
    path = str((out / "mlflow.db").absolute())
    if odd := sorted(set(path) & set("?#%")):
        raise ValueError(
            f"the address of the tracking database below --out {out} cannot hold {' or '.join(odd)}; name another"
            " folder, or another store with --tracking-uri (none: no tracking)"
        )
    return f"sqlite:///{path}"


class Tracker:
    """A tracking store and one experiment in it. Importing MLflow takes seconds: make one when it is needed."""

    def __init__(self, uri: str, experiment: str = "advalign") -> None:
        """`uri` as MLflow takes it. A sqlite database and its schema are made under a lock, artifacts beside it.

        Asks the store, and raises ValueError within half a minute if it cannot be used.
        """
        self.uri = re.sub(r"//[^/@]*@", "//…@", uri)  # to be named in messages, without a password
        self._database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
        try:
            with self._locked():
                self._client, self._experiment = _asked(uri, experiment, self._database)
        except Exception as error:
            raise ValueError(
                f"the tracking store {self.uri} cannot be opened: {_why(error)}; mend it, name another one with"
                " --tracking-uri, or do without: --tracking-uri none"
            ) from error

    @property
    def page(self) -> str:
        """The path after the address of MLflow's UI that shows the runs."""
        return f"/#/experiments/{self._experiment}/runs"

    def comparison(self, name: str, spec: Mapping[str, Any]) -> str:
        """The id of the parent run of the comparison with this name and spec, which is found again or made."""
        key = hashlib.sha256(json.dumps([name, spec], sort_keys=True, default=str).encode()).hexdigest()[:16]
        return str(self._find_or_create(key, name, spec, {}).info.run_id)

    def run(
        self,
        run_id: str,
        parent: str,
        spec: Mapping[str, Any],
        *,
        name: str | None = None,
        history: Path | None = None,
    ) -> RunLogger:
        """The child of `parent` for our run `run_id`, found again or made; MLflow catches up with `history` first.

        `history` is the run's metrics.jsonl. Calling this and `finish` for a cell that was finished long ago is how a
        later comparison shows it.
        """
        title = name or f"{spec.get('method', run_id)}" + ("" if spec.get("seed") is None else f" seed {spec['seed']}")
        run = self._find_or_create(run_id, title, spec, {"mlflow.parentRunId": parent})
        self._log_inputs(run, spec)
        logger = RunLogger(self._client, run)
        if history is not None:
            logger.catch_up(history)
        return logger

    def finish(self, parent: str, status: Status = "FINISHED", *, artifacts: tuple[Path, ...] = ()) -> None:
        """End a comparison; `artifacts` are its leaderboard and report."""
        for path in artifacts:
            self._client.log_artifact(parent, str(path))
        self._client.set_terminated(parent, status)

    def _find_or_create(self, key: str, name: str, spec: Mapping[str, Any], tags: dict[str, str]) -> Run:
        tags = {RUN_TAG: key, **tags}
        wanted = " and ".join(f"tags.\"{tag}\" = '{value}'" for tag, value in tags.items())
        with self._locked():
            found = self._client.search_runs([self._experiment], wanted, order_by=["start_time ASC"], max_results=1)
            run = found[0] if found else self._client.create_run(self._experiment, tags=tags, run_name=name)
        if run.info.status in ("FAILED", "KILLED"):
            self._client.update_run(run.info.run_id, "RUNNING")
        self._log_params(run, flat_params(spec))
        return run

    def _log_params(self, run: Run, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        missing = [Param(key, value) for key, value in params.items() if key not in run.data.params]
        for start in range(0, len(missing), 100):  # MLflow's limit for one batch
            self._client.log_batch(run.info.run_id, params=missing[start : start + 100])

    def _log_inputs(self, run: Run, spec: Mapping[str, Any]) -> None:
        """The tokens and the weights that the run starts from, by name and hash."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        inputs, data, model = run.inputs, spec.get("data"), spec.get("model")
        if data and not (inputs and inputs.dataset_inputs):
            source, facts = json.dumps({"uri": data["name"]}), json.dumps(data, default=str)
            digest = data["tokens"][:36]  # MLflow takes no more
            dataset = Dataset(data["name"], digest, "advalign", source, profile=facts)
            context = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run.info.run_id, datasets=[DatasetInput(dataset, context)])
        if model and not (inputs and inputs.model_inputs):
            models = [LoggedModelInput(self._model(model["name"], model["weights"]))]
            self._client.log_inputs(run.info.run_id, models=models)

    def _model(self, name: str, weights: str) -> str:
        """The id of the logged model with these weights, which is found again or made."""
        with self._locked():
            wanted = f"tags.`advalign.weights` = '{weights}'"
            if found := self._client.search_logged_models([self._experiment], wanted, max_results=1):
                return found[0].model_id
            title = re.sub(r"[^\w-]", "-", name)  # MLflow refuses / : . % and quotes in a model's name
            tags = {"advalign.weights": weights}
            made = self._client.create_logged_model(self._experiment, title, tags=tags, model_type="pretrained")
            self._client.finalize_logged_model(made.model_id, "READY")
        return made.model_id

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time, for a local database; a server has its own means."""
        if self._database is None:
            yield
            return
        from filelock import FileLock

        self._database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._database}.lock"):
            yield


class RunLogger:
    """Writes one cell's metrics in batches. Made by `Tracker.run`."""

    def __init__(self, client: MlflowClient, run: Run) -> None:
        self._client = client
        self.run_id: str = run.info.run_id
        self.artifact_uri: str = run.info.artifact_uri
        self._status: str = run.info.status
        self._latest: dict[str, float] = dict(run.data.metrics)
        self._tags: dict[str, str] = dict(run.data.tags)
        self._last = int(self._latest.get(WATERMARK, -1))
        self._buffer: list[list[Metric]] = []  # one list a step
        self._flushed = time.monotonic()

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Buffer the numbers among `metrics`; a step that MLflow has already is ignored.

        Now and then the buffer is flushed; where that fails, the steps stay in it for the next attempt.
        """
        if step <= self._last:
            return
        values = {key: float(value) for key, value in metrics.items() if isinstance(value, numbers.Real)}
        self._buffer.append(_metrics(values | {WATERMARK: float(step)}, step))
        self._last = step
        waiting = sum(map(len, self._buffer))
        if waiting >= BATCH_LIMIT // 2 or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def catch_up(self, history: Path, *, size: int | None = None) -> None:
        """Log the steps of a metrics.jsonl, or of its first `size` bytes, that MLflow lacks; a torn line is no step."""
        for row in read_steps(history, size=size):
            self.log(row["step"], row)
        self.flush()

    def flush(self) -> None:
        """Write what is buffered, each step inside one transaction."""
        while self._buffer:
            batch: list[Metric] = []
            taken = 0
            for step in self._buffer:
                if batch and len(batch) + len(step) > BATCH_LIMIT:
                    break
                batch += step
                taken += 1
            self._client.log_batch(self.run_id, metrics=batch)
            del self._buffer[:taken]
        self._flushed = time.monotonic()

    def evaluation(self, task: str, metrics: Mapping[str, float], files: Iterable[Path] = ()) -> None:
        """Log a task's metrics as `task/metric` and its small files as artifacts, once."""
        self.flush()
        named = {f"{task}/{key}": float(value) for key, value in metrics.items() if isinstance(value, numbers.Real)}
        new = {key: value for key, value in named.items() if self._latest.get(key) != value}
        if new:
            for path in files:
                self.artifact(path, EVALUATIONS)
            self._client.log_batch(self.run_id, metrics=_metrics(new, max(self._last, 0)))  # last: the sign of all
            self._latest |= new

    def manifest(self, manifest: Mapping[str, Any]) -> None:
        """Show the run's facts: the manifest as an artifact, its single values as tags and the code's commit."""
        from mlflow.entities import RunTag

        facts = {key: value for key, value in manifest.items() if isinstance(value, (str, int, float))}
        tags = {f"advalign.{key}": str(value) for key, value in facts.items()}
        if commit := (manifest.get("git") or {}).get("commit"):
            tags["mlflow.source.git.commit"] = commit
        changed = {key: value for key, value in tags.items() if self._tags.get(key) != value}
        if changed:
            self._client.log_dict(self.run_id, dict(manifest), MANIFEST)
            self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in changed.items()])
            self._tags |= changed

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a small file to the run's artifacts; a large one (weights) stays where it is."""
        if path.stat().st_size <= ARTIFACT_LIMIT:
            self._client.log_artifact(self.run_id, str(path), folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Write everything and end the run; a run that has ended so already is left alone."""
        self.flush()
        if self._status != status:
            self._client.set_terminated(self.run_id, status)
            self._status = status


def flat_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """`{"method": "dpo", "dpo.beta": "0.1", "model.name": …}`: nested names joined, hyperparameters under their own."""
    flat: dict[str, str] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            prefix = "" if key == "hyperparameters" else f"{key}."
            flat |= {f"{prefix}{inner}": text for inner, text in flat_params(value).items()}
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[key] = text[:PARAM_LIMIT]
    return flat


def _metrics(values: Mapping[str, float], step: int) -> list[Metric]:
    from mlflow.entities import Metric

    if len(values) > BATCH_LIMIT:
        raise ValueError(f"step {step} has {len(values)} metrics; MLflow takes {BATCH_LIMIT} in one transaction")
    moment = int(time.time() * 1000)
    return [Metric(key, value, moment, step) for key, value in values.items()]


def _make(database: Path) -> None:
    """A database with MLflow's tables, whole or not at all: a kill amid its dozens of migrations would spoil it."""
    from mlflow import MlflowClient

    unfinished = database.with_name(f"{database.name}.new")
    for left in (unfinished, database.with_name(f"{unfinished.name}-journal")):
        left.unlink(missing_ok=True)
    MlflowClient(f"sqlite:///{unfinished.absolute()}")
    os.replace(unfinished, database)


def _asked(uri: str, experiment: str, database: Path | None) -> tuple[MlflowClient, str]:
    """`_open`, bounded in time but for a local database, whose making takes as long as it takes."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a line for each of dozens of migrations
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MLflow's own use of SQLAlchemy
        import mlflow  # noqa: F401 - here and not in the thread, where a Ctrl-C would not reach it

        logging.getLogger("mlflow.store.db.utils").setLevel(logging.ERROR)  # a page for each try to reach a database
        if database is not None:
            return _open(uri, experiment, database)
        found: list[tuple[MlflowClient, str]] = []
        raised: list[BaseException] = []

        def ask() -> None:
            try:
                found.append(_open(uri, experiment, None))
            except BaseException as error:
                raised.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(OPEN_SECONDS)
    if raised:
        raise raised[0]
    if not found:
        raise TimeoutError(f"it did not answer within {OPEN_SECONDS:g} seconds")
    return found[0]


def _open(uri: str, experiment: str, database: Path | None) -> tuple[MlflowClient, str]:
    """A client and the id of the experiment; the first client of a fresh database makes its tables (seconds)."""
    from mlflow import MlflowClient

    if database is not None and not database.exists():
        _make(database)
    if database is not None and (begins := database.read_bytes()[:16] if database.is_file() else b"") != SQLITE:
        what = "a folder" if database.is_dir() else "no SQLite database" if begins else "an empty file"
        raise ValueError(f"{database} is {what}")
    client = MlflowClient(uri)
    if found := client.get_experiment_by_name(experiment):
        if found.lifecycle_stage != "active":
            raise ValueError(
                f"its experiment {experiment!r} was deleted; `MLFLOW_TRACKING_URI={uri} mlflow experiments restore"
                f" --experiment-id {found.experiment_id}` brings it back"
            )
        return client, found.experiment_id
    artifacts = (database.absolute().parent / "mlartifacts").as_uri() if database else None
    return client, client.create_experiment(experiment, artifact_location=artifacts)


def _why(error: BaseException) -> str:
    """One sentence that says what is wrong with a store; MLflow's own message is pages long."""
    text = short(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"it needs a driver that is not installed: pip install {DRIVERS.get(error.name, error.name)}"
    if "Max retries exceeded" in text or "Connection refused" in text or "timed out" in text.lower():
        return "no server answers there"
    return text


def short(error: BaseException) -> str:
    """An error's words on one line, without addresses' passwords and no more than fit on two lines of a terminal."""
    text = re.sub(r"//[^/@\s]*@", "//…@", " ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"

"""Other abilities: GSM8K, MMLU, ANLI-R3 and TruthfulQA through lm-evaluation-harness. (GANPO, Table 2)

Prompts, few-shot examples, answer extraction and metrics are the harness's own. Its data sets come from the hub, or
from a local copy that `data` names, with a file for each split of the hub's data set that the harness reads:

    DATA/gsm8k/{train,test}.jsonl               DATA/mmlu/<subject>/{dev,test}.jsonl
    DATA/anli_r3/{train_r3,dev_r3,test_r3}.jsonl    DATA/truthfulqa_mc2/validation.jsonl    (.json, .parquet work too)

Of MMLU's 57 subjects those that have a folder are asked. Needs the extra `[lm-eval]`; without it, or without data, the
task is skipped and says why.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.tasks import Item, Subject, TaskResult, TaskSkipped, task
from registry import Paper, nearest
from registry.assets import hub_reachable
from registry.fields import bounded

PAPER = Paper(
    title="Lessons from the Trenches on Reproducible Evaluation of Language Models",
    arxiv="2405.14782",
    year=2024,
    code="https://github.com/EleutherAI/lm-evaluation-harness",
)
# Where the harness keeps each, the metric, and of several ways to read an answer the strict one.
FOLDERS = {"gsm8k": "gsm8k", "mmlu": "mmlu/default", "anli_r3": "anli", "truthfulqa_mc2": "truthfulqa"}
METRICS = {"gsm8k": "exact_match", "mmlu": "acc", "anli_r3": "acc", "truthfulqa_mc2": "acc"}
FILTERS = {"gsm8k": "strict-match"}
LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
BATCH = 8  # no setting: it moves log-probs by float error alone


@task(PAPER, note="GSM8K, MMLU, ANLI-R3, TruthfulQA; needs the extra [lm-eval]")
@dataclass(frozen=True, kw_only=True)
class LmEval:
    """`accuracy` is over all questions; every benchmark's own stands beside it under its name.

    TruthfulQA's (mc2) is the probability on true answers, 0 … 1.
    """

    name: ClassVar[str] = "lm_eval"
    revision: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("accuracy",)
    shares: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    benchmarks: tuple[str, ...] = tuple(FOLDERS)
    data: str | None = None  # a folder; None: the hub
    num_fewshot: int | None = bounded(None, low=0)  # None: each benchmark's own
    num_prompts: int | None = bounded(None, low=1)  # the first of each benchmark, of each subject in MMLU; None: all
    chat_template: bool = False

    def __post_init__(self) -> None:
        for name in self.benchmarks:
            if name not in FOLDERS:
                raise ValueError(f"lm_eval has no benchmark {name!r} here{nearest(name, FOLDERS)}")
        if not self.benchmarks:
            raise ValueError("lm_eval needs a benchmark: " + ", ".join(FOLDERS))

    def evaluate(self, subject: Subject) -> TaskResult:
        """One item for each question. TaskSkipped without the harness or its data, ValueError for damaged data."""
        if importlib.util.find_spec("lm_eval") is None:
            raise TaskSkipped("lm_eval needs lm-evaluation-harness: pip install '.[lm-eval]'")
        if self.data is None and not hub_reachable():
            raise TaskSkipped("lm_eval needs its data: the hub does not answer, and no local copy is named (--lm-data)")
        packaged = Path(str(importlib.util.find_spec("lm_eval").submodule_search_locations[0])) / "tasks"  # type: ignore[union-attr,index]
        leaves = {name: _leaves(packaged / FOLDERS[name], name) for name in self.benchmarks}
        samples: dict[str, list[Mapping[str, Any]]] = {}
        with _task_files(leaves, self.data) as (paths, chosen):
            asked = [leaf for of_benchmark in chosen.values() for leaf in of_benchmark]
            samples = self._ask(subject, paths or [packaged / FOLDERS[name] for name in self.benchmarks], asked)
        items = tuple(item for name in chosen for leaf in chosen[name] for item in _items(name, leaf, samples[leaf]))
        metrics = {"accuracy": _mean(items)}
        metrics |= {name: _mean([item for item in items if _benchmark(item) == name]) for name in chosen}
        extras = {"questions": {leaf: len({s["doc_id"] for s in samples[leaf]}) for leaf in asked}}
        return TaskResult(metrics, items, extras)

    def _ask(self, subject: Subject, paths: Sequence[Path], leaves: Sequence[str]) -> dict[str, list[Any]]:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager

        from experiments.models.loading import quiet_transformers

        model: Any = subject.policy.model
        training = model.training
        try:
            with quiet_transformers(), _quiet_harness():
                found = simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=subject.tokenizer, batch_size=BATCH),
                    tasks=list(leaves),
                    task_manager=TaskManager(include_defaults=False, include_path=[str(path) for path in paths]),
                    num_fewshot=self.num_fewshot,
                    limit=self.num_prompts,
                    apply_chat_template=self.chat_template,
                    bootstrap_iters=0,  # intervals are ours
                )
        except KeyError as error:
            raise ValueError(f"lm_eval's data lack {error}: a split or column that a benchmark asks for") from error
        finally:
            model.train(training)
        samples: dict[str, list[Any]] = found["samples"]
        return samples


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Silences the harness's warnings about intended settings: a model in memory, another number of examples."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _leaves(folder: Path, name: str) -> dict[str, Path]:
    """The harness's task files of one benchmark by task name: itself, or MMLU's subjects."""
    if name == "mmlu":
        return {path.stem: path for path in sorted(folder.glob("mmlu_*.yaml"))}
    return {name: folder / f"{name}.yaml"}


@contextmanager
def _task_files(
    leaves: Mapping[str, Mapping[str, Path]], data: str | None
) -> Iterator[tuple[list[Path], dict[str, list[str]]]]:
    """Folders of task files that read local data, for as long as they are needed; and which tasks of each benchmark."""
    if data is None:
        yield [], {name: list(tasks) for name, tasks in leaves.items()}
        return
    with tempfile.TemporaryDirectory(prefix="advalign-lm-eval-") as scratch:
        chosen: dict[str, list[str]] = {}
        for name, tasks in leaves.items():
            for leaf, packaged in tasks.items():
                folder = Path(data) / name / (leaf.removeprefix("mmlu_") if name == "mmlu" else "")
                if name == "mmlu" and not folder.is_dir():
                    continue
                content = {"include": str(packaged), "task": leaf} | _local(folder, Path(scratch) / "cache")
                # JSON is YAML
                (Path(scratch) / f"{leaf}.yaml").write_text(json.dumps(content), encoding="utf-8")
                chosen.setdefault(name, []).append(leaf)
            if name not in chosen:
                raise ValueError(f"{Path(data) / name} holds no subject of MMLU; it needs a folder for each")
        yield [Path(scratch)], chosen


def _local(folder: Path, cache: Path) -> dict[str, Any]:
    files = {path.stem: path for path in sorted(folder.glob("*")) if path.suffix in LOADERS}
    kinds = {LOADERS[path.suffix] for path in files.values()}
    if len(kinds) != 1:
        raise ValueError(
            f"{folder} holds {len(files)} data files of {len(kinds)} kinds; it needs one for each split, of one kind,"
            " such as test.jsonl"
        )
    arguments = {"data_files": {split: str(path.resolve()) for split, path in files.items()}, "cache_dir": str(cache)}
    return {"dataset_path": kinds.pop(), "dataset_name": None, "dataset_kwargs": arguments}


def _items(name: str, leaf: str, samples: Sequence[Mapping[str, Any]]) -> list[Item]:
    """Items in the order of the questions; a question that was read in several ways counts by the strict reading."""
    wanted = FILTERS.get(name)
    kept = [sample for sample in samples if wanted is None or sample["filter"] == wanted]
    kept.sort(key=lambda sample: int(sample["doc_id"]))
    ids = [f"{name}/{leaf}/{sample['doc_id']}" for sample in kept]
    return [Item(key, key, {"accuracy": float(sample[METRICS[name]])}) for key, sample in zip(ids, kept, strict=True)]


def _benchmark(item: Item) -> str:
    return item.id.partition("/")[0]


def _mean(items: Sequence[Item]) -> float:
    return sum(item.values["accuracy"] for item in items) / len(items)

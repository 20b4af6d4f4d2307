"""How often the policy finds the shorter response of a held-out pair likelier, by mean log-probability."""

from dataclasses import dataclass
from typing import ClassVar

from benchmarks.tasks import Item, Subject, TaskResult, task
from methods.types import Role
from registry import Paper

PAPER = Paper(title="A Long Way to Go: Investigating Length Correlations in RLHF", arxiv="2310.03716", year=2023)
PAIR: tuple[Role, Role] = ("chosen", "rejected")


@task(PAPER, note="describes and does not rank: the share of pairs whose shorter response is likelier")
@dataclass(frozen=True, kw_only=True)
class Brevity:
    name: ClassVar[str] = "brevity"
    revision: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("shorter",)
    ranks: ClassVar[bool] = False
    needs_pairs: ClassVar[bool] = True

    threshold: float = 0.0  # nats a token by which the shorter response must lead

    def evaluate(self, subject: Subject) -> TaskResult:
        from experiments.models.forward import score  # here, so that a list of tasks loads no model code

        items = []
        for row, logps in zip(subject.held_out, score(subject.policy, subject.held_out, PAIR), strict=True):
            short, long = sorted((logps[role] for role in PAIR), key=len)
            lead = float(short.mean() - long.mean())
            items.append(Item(str(row.row), row.prompt_id, {"shorter": float(lead > self.threshold)}))
        return TaskResult({"shorter": sum(item.values["shorter"] for item in items) / len(items)}, tuple(items))

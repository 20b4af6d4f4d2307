"""SFT: maximum likelihood of the expert's response, averaged over its tokens, then over rows."""

from dataclasses import dataclass
from typing import ClassVar

from methods.catalogue import objective
from methods.types import Batch, Blocks, Loss, Need, Reduction, Role
from registry import Paper

PAPER = Paper(
    title="Training language models to follow instructions with human feedback", arxiv="2203.02155", year=2022
)


@objective(PAPER, lr=2e-5, note="the learning rate is Alpaca's")
@dataclass(frozen=True, kw_only=True)
class SFT:
    name: ClassVar[str] = "sft"
    reads: ClassVar[tuple[Role, ...]] = ("expert",)
    logp_reduction: ClassVar[Reduction] = "mean"
    needs: ClassVar[frozenset[Need]] = frozenset()

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss:
        return Loss(-policy["expert"].mean_logps.mean())

"""Drift: how far training moved a policy from the model it started from, in hidden states and next-token distribution.

On the held-out completions, which are the same for every method:

- `cosine`: between policy's and reference's last hidden state of a token, averaged over the response's tokens;
- `kl`: KL(π ‖ π_ref) of the next token in nats, exactly, over the whole vocabulary, averaged over the tokens;
- `cka`: linear centred kernel alignment (Kornblith et al. 2019, eq. 3) of the two clouds of hidden states: 1 if one is
  the other turned and scaled, whatever cosine says;
- `effective_rank`: exp of the entropy of the normalised singular values of the centred cloud (Roy and Vetterli 2007),
  of policy and reference: training that collapses states onto few directions lowers it.

The responses are the data's and not the policy's own, so this is drift where methods can be compared, and not the KL
that on-policy training pays. It describes: a policy that learned nothing has not drifted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from jaxtyping import Float

from benchmarks.tasks import Item, Subject, TaskResult, task
from benchmarks.tasks.learned import untrained
from registry import Paper
from registry.fields import bounded

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.data.tokens import Example, TokenPair
    from experiments.models.forward import Policy
    from methods.types import Outputs, Role

PAPER = Paper(title="Similarity of Neural Network Representations Revisited", arxiv="1905.00414", year=2019)
ROLES: tuple[Role, ...] = ("chosen", "rejected", "expert")
BATCH = 8  # rows a forward
KL_CHUNK = 256  # tokens whose logits exist at a time, twice


@task(PAPER, note="describes and does not rank; drift from the untrained model on held-out completions")
@dataclass(frozen=True, kw_only=True)
class Geometry:
    """One item for each completion, `cosine` and `kl`; the two clouds of states are compared as wholes."""

    name: ClassVar[str] = "geometry"
    revision: ClassVar[int] = 1
    columns: ClassVar[tuple[str, ...]] = ("kl",)
    ranks: ClassVar[bool] = False
    shares: ClassVar[frozenset[str]] = frozenset()

    num_pairs: int | None = bounded(200, low=1)  # of the held-out rows, the first; None: all
    # Evenly spread, of each completion, into the clouds of states; all into cosine and KL
    tokens_a_completion: int = bounded(32, low=1)

    def evaluate(self, subject: Subject) -> TaskResult:
        """Raises ValueError where no row was held out."""
        if not subject.held_out:
            raise ValueError("geometry measures drift on held-out completions, and no row was held out")
        items, clouds = [], _Clouds()
        for item, states in self._completions(subject, subject.held_out[: self.num_pairs]):
            items.append(item)
            clouds.add(*states)
        means = {name: float(np.mean([item.values[name] for item in items])) for name in ("cosine", "kl")}
        return TaskResult(means | clouds.metrics(), tuple(items), {"num_states": clouds.number})

    def _completions(
        self, subject: Subject, examples: tuple[Example, ...]
    ) -> Iterator[tuple[Item, tuple[Tensor, Tensor]]]:
        import torch

        from experiments.data.tokens import collate

        reference, as_reference = untrained(subject)
        for start in range(0, len(examples), BATCH):
            rows = examples[start : start + BATCH]
            roles = [role for role in ROLES if role != "expert" or "chosen" not in rows[0].sequences]
            blocks = collate(rows, roles).blocks
            with torch.no_grad():
                ours = subject.policy(blocks, logps=False, padded_hidden=True)
                with as_reference():
                    theirs = reference(blocks, logps=False, padded_hidden=True)
                for role in blocks:
                    owners = [row for row in rows if role in row.sequences]
                    for i, row in enumerate(owners):
                        x, y = (_states(outputs[role], i, row.sequences[role]) for outputs in (ours, theirs))
                        kl = _kl(x[:-1], y[:-1], subject.policy, reference)
                        kept = torch.linspace(1, len(x) - 1, min(len(x) - 1, self.tokens_a_completion)).long()
                        values = {"cosine": _cosine(x[1:], y[1:]), "kl": kl}
                        yield Item(f"{row.row}/{role}", row.prompt_id, values), (x[kept], y[kept])
            subject.progress(start + len(rows), len(examples))


class _Clouds:
    """Sums over all states of policy and reference: CKA and effective rank follow from d × d matrices."""

    def __init__(self) -> None:
        self.number = 0
        self.sums: Float[np.ndarray, "2 d"] | None = None
        self.products: Float[np.ndarray, "3 d d"] | None = None  # policy², reference², policy × reference

    def add(self, policy: Tensor, reference: Tensor) -> None:
        x, y = (states.double().cpu().numpy() for states in (policy, reference))
        sums, products = np.stack([x.sum(0), y.sum(0)]), np.stack([x.T @ x, y.T @ y, x.T @ y])
        self.number += len(x)
        self.sums = sums if self.sums is None else self.sums + sums
        self.products = products if self.products is None else self.products + products

    def metrics(self) -> dict[str, float]:
        assert self.sums is not None
        assert self.products is not None
        mean = self.sums / self.number
        pairs = ((0, 0), (1, 1), (0, 1))
        xx, yy, xy = (
            product - self.number * np.outer(mean[a], mean[b])
            for product, (a, b) in zip(self.products, pairs, strict=True)
        )
        scale = np.linalg.norm(xx) * np.linalg.norm(yy)
        return {
            "cka": float(np.linalg.norm(xy) ** 2 / scale) if scale else 1.0,
            "effective_rank": effective_rank(xx),
            "effective_rank_reference": effective_rank(yy),
        }


def effective_rank(scatter: Float[np.ndarray, "d d"]) -> float:
    """exp H(σ / Σσ) of the cloud whose XᵀX this is; σ are the singular values of X."""
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(scatter), 0, None))
    shares = singular[singular > 1e-12 * singular.max()] / singular.sum() if singular.any() else np.ones(1)
    shares = shares / shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _states(outputs: Outputs, row: int, sequence: TokenPair) -> Tensor:
    """The states of the completion's tokens behind that of the prompt's last token, which predicts the first."""
    assert outputs.padded_hidden is not None
    return outputs.padded_hidden[row, len(sequence.prompt) - 1 : len(sequence)].float()


def _cosine(policy: Tensor, reference: Tensor) -> float:
    from torch.nn import functional as F

    return float(F.cosine_similarity(policy, reference, dim=-1).double().mean())


def _kl(policy_states: Tensor, reference_states: Tensor, policy: Policy, reference: Policy) -> float:
    """Mean over tokens of KL(π ‖ π_ref) in nats."""
    from experiments.models.head import next_token_logps

    total = 0.0
    for start in range(0, len(policy_states), KL_CHUNK):
        ours, theirs = (
            next_token_logps(
                states[start : start + KL_CHUNK],
                model.causal.get_output_embeddings().weight,
                cap=model.cap,
                scale=model.scale,
            )
            for model, states in ((policy, policy_states), (reference, reference_states))
        )
        total += float((ours.exp() * (ours - theirs)).sum(-1).double().sum())
    return max(total / len(policy_states), 0.0)  # rounding may leave −1e-9 of equal distributions

"""The parts of a method: one objective and any regularizers.

A regularizer does one or more of three things, each a protocol of its own: it penalizes (speaks to the policy by
gradient), rewards (speaks to it through its samples) and learns (trains a network of its own against it).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Float
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

from methods.types import Batch, Blocks, Loss, Need, Outputs, Reduction, Role, Samples
from registry import tunable
from registry.fields import bounded


@runtime_checkable
class Part(Protocol):
    """Every part declares its name, the roles it reads and what it needs besides the policy's log-probs."""

    name: ClassVar[str]

    @property
    def reads(self) -> tuple[Role, ...]: ...

    @property
    def needs(self) -> frozenset[Need]: ...


@runtime_checkable
class Objective(Part, Protocol):
    """`logp_reduction` says what the loss makes of the log-probs of a response's tokens.

    Gradients of a sum grow with the response, those of a mean do not: the two want learning rates of their own.
    """

    logp_reduction: ClassVar[Reduction]

    def loss(self, batch: Batch, policy: Blocks, reference: Blocks) -> Loss: ...


@runtime_checkable
class ImplicitReward(Objective, Protocol):
    """An objective that compares the rewards of responses, which it reads off the policy's own log-probs."""

    def implicit_reward(self, policy: Outputs, reference: Outputs | None) -> Float[Tensor, " b"]:
        """The implicit reward of each response of a block; `reference` is None for an objective that needs none."""
        ...


@runtime_checkable
class Estimator(Objective, Protocol):
    """An objective whose loss reads a mean over the whole update, which no single micro-batch can give.

    The trainer takes it first, over all micro-batches and processes, by a forward without gradient on the roles in
    `estimates_from`, and hands it to `loss` as `batch.estimate`; `loss` reads those roles for nothing else.
    """

    estimates_from: ClassVar[tuple[Role, ...]]

    def estimate(self, policy: Blocks, reference: Blocks) -> Float[Tensor, " b"]:
        """The value of each row that the estimate averages."""
        ...


@runtime_checkable
class Regularizer(Part, Protocol):
    @property
    def weight(self) -> float: ...


@runtime_checkable
class Learner(Part, Protocol):
    """A part that owns a network, built from the width of the policy's hidden states."""

    def build(self, hidden_size: int) -> nn.Module | None: ...


# How a network that reads text is fitted: `once` before any policy is trained, to rank expert responses above samples,
# and then never again; the others before each rollout is scored, on preference pairs alone (`pairs`), on golden
# responses above samples beside pairs (`golden`, APO), on accepted, rejected and generated responses (`stages`, GAPO)
Curriculum: TypeAlias = Literal["once", "pairs", "golden", "stages"]


@runtime_checkable
class TextLearner(Part, Protocol):
    """A part whose network reads text with a tokenizer of its own; it names the model, and `experiments` builds it."""

    @property
    def scorer(self) -> str: ...


@runtime_checkable
class Curricular(TextLearner, Protocol):
    """A text learner that says how its network is fitted, and at which rate, batch and number of passes."""

    curriculum: ClassVar[Curriculum]

    @property
    def rm_lr(self) -> float | None: ...  # None: what suits the scorer

    @property
    def rm_batch_size(self) -> int: ...

    @property
    def rm_epochs(self) -> int: ...

    @property
    def rm_max_length(self) -> int: ...  # tokens


@runtime_checkable
class Unpaired(Protocol):
    """An objective that trains on rows which have only one of the roles `one_of`."""

    one_of: ClassVar[tuple[Role, ...]]


@runtime_checkable
class SampleJudge(Protocol):
    """A part that may judge a sample against the other samples of its prompt: one alone would tell it nothing."""

    @property
    def compares_samples(self) -> bool: ...


@runtime_checkable
class Critic(Objective, Learner, Protocol):
    """An objective that owns a network which predicts, from the policy's hidden states, the reward to come.

    It descends on `value_loss`, on detached outputs, before the policy does, under a rate of its own.
    """

    @property
    def critic_lr(self) -> float: ...

    def values(self, net: nn.Module, policy: Outputs) -> Float[Tensor, "b c"]: ...

    def estimate(self, samples: Samples) -> Samples:
        """Advantages and returns of one whole rollout, from its values; once, when it has been drawn and rewarded."""
        ...

    def value_loss(self, net: nn.Module, batch: Batch, policy: Blocks) -> Loss: ...


@runtime_checkable
class Rewarder(Regularizer, Protocol):
    """Scores samples once, when they are drawn, without gradient: `batch.samples` has their text, groups and log-probs,
    and its `rewards` are still zero. `batch.blocks` has every role that the part reads.

    The score is kept as `samples.terms[name]`, and `reward_weight` times it is added to the reward; a weight of 0 only
    keeps it, for a penalty that weighs samples by it.
    """

    @property
    def reward_weight(self) -> float: ...

    def reward(self, net: nn.Module | None, batch: Batch) -> Float[Tensor, " b"]: ...


@runtime_checkable
class Penalizer(Regularizer, Protocol):
    """`net` is frozen and in evaluation mode: gradients pass through it, not into it."""

    def penalty(self, net: nn.Module | None, batch: Batch, policy: Blocks, reference: Blocks) -> Loss: ...


@runtime_checkable
class Adversary(Learner, Regularizer, Protocol):
    """A regularizer whose network descends on its own loss, on detached outputs, before the policy does.

    Called with the player's private random state installed, so that adding a player changes no other's randomness.
    Only for a network that exists (`build` may return None). In training mode the network may keep statistics of what
    it sees (they are its buffers); in evaluation mode nothing moves.
    """

    @property
    def lr(self) -> float | None: ...  # None: half the policy's, set before the run is hashed

    @property
    def learns(self) -> bool: ...  # False: its network, if it has one, is built and called but has no optimizer

    @property
    def update_every(self) -> int: ...  # updates of the policy for one of the network; gradients add up in between

    def adversary_loss(self, net: nn.Module, batch: Batch, policy: Blocks, reference: Blocks) -> Loss: ...

    def end_step(self, net: nn.Module) -> None:
        """Called once after each update of the policy, on the unwrapped network of every process."""


@runtime_checkable
class Starter(Adversary, Protocol):
    """An adversary whose statistics begin at a mean over the whole first update.

    Where that update comes in parts, all of them are shown to the network first, without gradient; `start` ends that.
    """

    def started(self, net: nn.Module) -> bool: ...

    def start(self, net: nn.Module) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings of sampling, for a method that reads `sampled`: it draws a rollout at a time from the current policy.

    A rollout answers the prompts of `batches` updates and serves `batches · epochs` of them. `keep="pair"` reads
    samples itself: the best and the worst of a prompt become `chosen` and `rejected`.
    """

    name: ClassVar[str] = "sampling"
    needs: ClassVar[frozenset[Need]] = frozenset()

    num_generations: int = bounded(8, low=1)  # samples of each prompt
    temperature: float = bounded(1.0, above=0)
    top_p: float = bounded(1.0, above=0, high=1)
    max_new_tokens: int = bounded(256, low=1)
    batches: int = bounded(1, low=1)  # updates that a rollout has fresh prompts for
    epochs: int = bounded(1, low=1)  # passes over them
    verifier_weight: float = bounded(1.0, low=0)  # of the data set's verifiers in the reward; 0: they are only logged
    keep: Literal["all", "best", "pair"] = "all"  # pair: the best and the worst become `chosen` and `rejected`

    @property
    def reads(self) -> tuple[Role, ...]:
        return ("sampled",) if self.keep == "pair" else ()

    def __post_init__(self) -> None:
        for field in ("num_generations", "max_new_tokens", "batches", "epochs"):
            if getattr(self, field) < 1:
                raise ValueError(f"sampling.{field} is at least 1, not {getattr(self, field)}")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling needs temperature > 0 ({self.temperature}) and 0 < top_p <= 1 ({self.top_p})")
        if self.keep == "pair" and self.num_generations < 2:
            raise ValueError("sampling.keep=pair sets two samples against each other; num_generations is 1")


@dataclass(frozen=True)
class Method:
    """One objective and any regularizers. `Method(DPO(), (LatentAdversary(),))` is GANPO-DPO.

    `sampling` counts only where a part reads "sampled".
    """

    objective: Objective
    regularizers: tuple[Regularizer, ...] = ()
    sampling: Sampling = Sampling()
    lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-3, log=True), low=0)  # the policy's; None: the preset's

    @property
    def parts(self) -> Mapping[str, Any]:
        """The parts by name; a method that draws samples has `sampling` as the last of them."""
        parts = {part.name: part for part in (self.objective, *self.regularizers)}
        return parts | ({"sampling": self.sampling} if self.on_policy else {})

    def with_parts(self, parts: Mapping[str, Any]) -> "Method":
        own = {name: part for name, part in parts.items() if name != "sampling"}
        objective, *regularizers = own.values()
        sampling = parts.get("sampling", self.sampling)
        return dataclasses.replace(self, objective=objective, regularizers=tuple(regularizers), sampling=sampling)

    @property
    def reads(self) -> tuple[Role, ...]:
        parts = (self.objective, *self.regularizers, self.sampling)
        return tuple(dict.fromkeys(role for part in parts for role in part.reads))

    @property
    def offline_reads(self) -> tuple[Role, ...]:
        """The roles that the data set must give: samples, and what is made of them, it need not."""
        made = {"sampled", *(("chosen", "rejected") if self.on_policy and self.sampling.keep == "pair" else ())}
        return tuple(role for role in self.reads if role not in made)

    @property
    def forwards(self) -> tuple[Role, ...]:
        """The roles that the policy is run on in a step: what only rewards has read its roles before."""
        parts = [part for part in self.regularizers if isinstance(part, (Penalizer, Adversary))]
        return tuple(dict.fromkeys(role for part in (self.objective, *parts) for role in part.reads))

    @property
    def trained_roles(self) -> tuple[Role, ...]:
        """The roles of `forwards` whose outputs the policy's gradient comes from.

        A part of weight 0 adds none: it watches roles of its own by a forward without gradient, so that the policy's
        forward is to the bit the one without that part.
        """
        estimated = self.objective.estimates_from if isinstance(self.objective, Estimator) else ()
        own = [role for role in self.objective.reads if role not in estimated]
        parts = [part for part in self.regularizers if isinstance(part, (Penalizer, Adversary)) and part.weight]
        return tuple(dict.fromkeys([*own, *(role for part in parts for role in part.reads)]))

    @property
    def watched_roles(self) -> tuple[Role, ...]:
        """Roles that parts of weight 0 look at beside the trained roles."""
        parts = [part for part in self.regularizers if isinstance(part, (Penalizer, Adversary))]
        read = dict.fromkeys(role for part in parts for role in part.reads)
        return tuple(role for role in read if role not in self.trained_roles)

    @property
    def acting(self) -> "Method":
        """Without the parts that reward at weight 0: whatever they learnt, the samples would be what they are."""
        acting = [part for part in self.regularizers if part.weight or not isinstance(part, Rewarder)]
        return dataclasses.replace(self, regularizers=tuple(acting))

    @property
    def on_policy(self) -> bool:
        return "sampled" in self.reads

    def needs(self, what: Need, role: Role | None = None) -> bool:
        """Whether any part does, or any that reads `role`."""
        parts = (self.objective, *self.regularizers)
        return any(what in part.needs for part in parts if role is None or role in part.reads)

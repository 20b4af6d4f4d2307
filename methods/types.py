"""The nouns. b: sequences, t: tokens of a padded row, c: tokens of the longest completion, d: hidden size.

A batch is one block of token sequences for each role that a method reads; a model's outputs keep the same roles.
A method that reads "sampled" is thereby on-policy.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Role: TypeAlias = Literal["chosen", "rejected", "sampled", "expert", "mismatched"]
# hidden, padded_hidden: the reference's too, where a part needs a reference; states: the policy's only
Need: TypeAlias = Literal["reference", "hidden", "padded_hidden", "states"]
Reduction: TypeAlias = Literal["sum", "mean"]


@dataclass(frozen=True)
class Tokens:
    """One block of sequences, each `prompt · completion · padding`.

    `ids [[5, 6, 7, 8, 0]]`, `attention [[1, 1, 1, 1, 0]]`, `completion [[0, 0, 1, 1, 0]]`: a prompt of two tokens, a
    response of two (the last one ends the turn), one token of padding.
    """

    ids: Int[Tensor, "b t"]
    attention: Bool[Tensor, "b t"]
    completion: Bool[Tensor, "b t"]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Outputs:
    """A model's outputs for one block, completion tokens only: column 0 is the first token of each response.

    `logps` is the natural log-probability of each completion token, zero where `mask` is False (the end of a shorter
    response). `hidden` is the final-layer hidden state (after the final norm) at each completion token;
    `padded_hidden` the same at every position of the padded row, prompt and padding included; `states` the same at the
    token before each completion token: what the policy knew when it chose it.
    """

    logps: Float[Tensor, "b c"]
    mask: Bool[Tensor, "b c"]
    hidden: Float[Tensor, "b c d"] | None = None
    padded_hidden: Float[Tensor, "b t d"] | None = None
    states: Float[Tensor, "b c d"] | None = None

    @property
    def sequence_logps(self) -> Float[Tensor, " b"]:
        return self.logps.sum(-1)

    @property
    def mean_logps(self) -> Float[Tensor, " b"]:
        return self.logps.sum(-1) / self.lengths

    @property
    def lengths(self) -> Int[Tensor, " b"]:
        """Tokens in each completion."""
        return self.mask.sum(-1)

    def detach(self) -> "Outputs":
        return dataclasses.replace(
            self,
            logps=self.logps.detach(),
            hidden=None if self.hidden is None else self.hidden.detach(),
            padded_hidden=None if self.padded_hidden is None else self.padded_hidden.detach(),
            states=None if self.states is None else self.states.detach(),
        )


Blocks: TypeAlias = Mapping[Role, Outputs]


@dataclass(frozen=True)
class Samples:
    """Facts about the `sampled` block besides its tokens, fixed when it was drawn; row i is row i of that block.

    `group` is the number of the sample's prompt in its batch, which is also its row in the blocks of the offline roles:
    `expert.mean_logps[samples.group]`. A group is never split: a batch holds all samples of a prompt, side by side.
    Log-probabilities are at temperature 1, whatever the temperature of sampling.
    """

    group: Int[Tensor, " b"]
    rewards: Float[Tensor, " b"]  # all that rewards, weighted and summed
    logps: Float[Tensor, "b c"]  # of the policy that drew them, zero outside mask
    mask: Bool[Tensor, "b c"]
    mean_length: float  # tokens a sample over the whole update, all micro-batches and processes
    finished: Bool[Tensor, " b"]  # ended by the policy itself, not by the limit on new tokens
    terms: Mapping[str, Float[Tensor, " b"]] = field(default_factory=dict)  # rewards by who gave them, unweighted
    reference: Float[Tensor, "b c"] | None = None  # log-probs, where a part on samples needs the reference
    values: Float[Tensor, "b c"] | None = None  # a critic's, when the samples were drawn
    advantages: Float[Tensor, "b c"] | None = None  # set by `Critic.estimate`, as are the returns
    returns: Float[Tensor, "b c"] | None = None
    prompts: tuple[str, ...] = ()  # text, of each sample's prompt, its response and the expert's response to it
    responses: tuple[str, ...] = ()
    experts: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def num_groups(self) -> int:
        return int(self.group.max()) + 1


@dataclass(frozen=True)
class Batch:
    """Blocks of tokens by role. Row i of every block comes from row i of the data, unless a block is shorter; the
    `sampled` block holds several rows for one row of the data (see `Samples.group`)."""

    blocks: Mapping[Role, Tokens]
    samples: Samples | None = None  # exactly where blocks has "sampled"
    step: int = 0  # updates of the policy before this one
    num_steps: int | None = None  # updates of the whole run, where there is one
    estimate: Float[Tensor, ""] | None = None  # an `Estimator`'s, over the whole update; None: this batch is all of it


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise, the mean over the batch's rows, and what to log about it (detached, on its device).

    `distributions` are values of single sequences; their quantiles over the whole step are logged.
    """

    value: Float[Tensor, ""]
    metrics: dict[str, Float[Tensor, ""]] = field(default_factory=dict)
    distributions: dict[str, Float[Tensor, " _"]] = field(default_factory=dict)


def mean_metrics(**values: Tensor) -> dict[str, Tensor]:
    """Detached means. `mean_metrics(accuracy=chosen > rejected)`."""
    return {name: value.detach().float().mean() for name, value in values.items()}


def reward_metrics(chosen: Float[Tensor, " b"], rejected: Float[Tensor, " b"]) -> dict[str, Tensor]:
    """The metrics that every pairwise objective logs about its implicit rewards; a tie counts as wrong."""
    return mean_metrics(
        reward_chosen=chosen,
        reward_rejected=rejected,
        reward_margin=chosen - rejected,
        reward_accuracy=chosen > rejected,
    )


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of `value` over all processes of a distributed run; `value` itself in a single one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()

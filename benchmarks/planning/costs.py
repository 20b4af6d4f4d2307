"""The cost model of one cell: memory and time.

Memory is counted, tensor by tensor where that matters, in float32; measured on llama, qwen3 and gemma2 decoders it is
within a tenth of what autograd keeps. It is not what a fragmented heap or an allocator's cache takes on top.
Time is rough (a factor of two either way): operations over what a short matrix product reaches on this machine.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

from benchmarks.planning.machine import Machine
from benchmarks.tasks.responses import BATCH_SIZE
from registry.encoders import ENCODERS

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from experiments.experiment import Training
    from methods.protocols import Learner, Method
    from methods.types import Role

FLOAT = 4  # bytes
MOMENTS = 2  # AdamW keeps two numbers a parameter
ADAMW_PASSES = 7  # over memory: weight, gradient and two moments are read, all but the gradient written
HEAD_TOKENS = 1024  # of one chunk of the language model's head
LESSONS = 3  # responses for each row of an update that an encoder learns from: a pair and a sample
SETS = 3  # of hidden states that one discriminator looks at: policy's and two of the reference's
# Of this machine's measured speed; docs/speed.json has what it predicts of SmolLM2-135M's steps and generation
EFFICIENCY = 0.4
GENERATION_EFFICIENCY = 0.25  # lower: each step is many small operations
LIBRARIES = 500_000_000  # resident once torch, transformers, peft and MLflow are imported: .44 to .51 GB measured


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the peak of one cell, by what takes them. `Memory(weights=538_060_032, activations=…).total`.

    `discriminators` are all networks that play against the policy or reward it; `generation` is what sampling takes
    above the activations, which are gone by then. `libraries` is the interpreter with what it has imported: on a GPU,
    whose memory they do not take, it is 0.
    """

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    reference: int = 0
    discriminators: int = 0
    generation: int = 0
    libraries: int = 0

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def in_shards(self, number: int, gathered: int) -> Memory:
        """Peak memory per process when `number` processes hold the policy in shards (FSDP2) and the rest whole.

        `gathered` are the bytes of weights, and at most as many of gradients, that stand whole while they are used.
        """
        if number == 1:
            return self
        sharded = {name: getattr(self, name) // number for name in ("weights", "gradients", "optimizer")}
        sharded["weights"] += gathered
        sharded["gradients"] += min(gathered, self.gradients)
        return replace(self, **sharded)

    @property
    def parts(self) -> dict[str, int]:
        return {part.name: getattr(self, part.name) for part in fields(self)}


def gathered_bytes(model: PreTrainedModel) -> int:
    """Bytes of a sharded policy that a process holds whole at a time: embeddings, head and two layers, one
    in transfer.
    """
    total = sum(parameter.numel() for parameter in model.parameters())
    layers = int(model.config.num_hidden_layers)
    given: Any = model  # its methods have no types
    tables = {id(table.weight): table.weight for table in (given.get_input_embeddings(), given.get_output_embeddings())}
    outside: int = sum(weight.numel() for weight in tables.values())
    return FLOAT * (outside + 2 * (total - outside) // layers)


def num_trainable(model: PreTrainedModel, lora_rank: int | None) -> int:
    """All parameters, or those of adapters of a rank on every linear layer but the head."""
    if lora_rank is None:
        return sum(parameter.numel() for parameter in model.parameters())
    return sum(lora_rank * (layer.in_features + layer.out_features) for layer in _linears(model))


def memory(
    method: Method | None,
    training: Training,
    model: PreTrainedModel,
    *,
    longest_row_tokens: int,
    completion_tokens: int,
    sequences_per_row: int | None = None,
    device: str = "cpu",
) -> Memory:
    """The peak of one cell; `model` may be on the meta device, a method of None is the untrained model.

    `longest_row_tokens` and `completion_tokens` are the longest of one sequence: the worst micro-batch is made of
    nothing else. A row is as many sequences as the method has trained roles, unless `sequences_per_row` says otherwise
    (unpaired data has one role fewer). What autograd keeps of an encoder that reads text is left out: it learns between
    the updates of the policy, when the policy's activations are gone.
    """
    from experiments.runs.assembly import runs_reference

    weights = FLOAT * sum(parameter.numel() for parameter in model.parameters())
    rows = training.micro_batch_size or training.batch_size
    own = sequences_per_row or (_sequences(method, method.trained_roles) if method else 1)
    # the trainer takes fewer rows at a time where each has many samples
    sequences = max(own, 2 * rows) if method and method.on_policy and own > 2 else rows * own
    shape = {"tokens": sequences * longest_row_tokens, "length": longest_row_tokens}
    completions = sequences * completion_tokens
    libraries = LIBRARIES if device == "cpu" else 0
    if method is None:
        activations = _layer_bytes(model, training, **shape) + _head(model, completions)
        return Memory(weights=weights, activations=activations, libraries=libraries)
    trained = FLOAT * num_trainable(model, training.lora_rank)
    hidden = _needs_hidden(method)
    seen = rows * SETS * (longest_row_tokens if method.needs("padded_hidden") else completion_tokens)
    discriminators = 0
    for size, outputs, learns in _networks(method, model):
        discriminators += FLOAT * (size * (1 + (1 + MOMENTS if learns else 0)) + outputs * seen)
    discriminators += sum(FLOAT * size * (2 + MOMENTS) for size, _ in _encoders(method))
    activations = _activations(model, training, hidden=hidden, **shape) + _head(model, completions)
    sampling = _sampling(method, training, model, longest_row_tokens - completion_tokens, device)
    return Memory(
        weights=weights if training.lora_rank is None else weights + trained,
        gradients=trained,
        optimizer=MOMENTS * trained,
        activations=activations,
        # adapters are switched off instead
        reference=weights if runs_reference(method) and training.lora_rank is None else 0,
        discriminators=discriminators,
        generation=max(0, sampling - activations),
        libraries=libraries,
    )


def seconds(
    method: Method,
    training: Training,
    model: PreTrainedModel,
    machine: Machine,
    *,
    mean_row_tokens: float,
    mean_completion_tokens: float,
    sequences_per_row: int | None = None,
) -> float:
    """Seconds of training one cell, roughly. Reference log-probs come from the store and are `scoring_seconds`, once.

    `mean_row_tokens` and `mean_completion_tokens` are those of a sequence. The sequences of a row share its prompt,
    but where a part reads the states of padded rows. An encoder that reads text scores every sample once, and learns
    from about three responses for each row of an update.
    """
    from experiments.runs.assembly import runs_reference

    rows = training.steps * training.batch_size
    sequences = sequences_per_row or _sequences(method, method.forwards)
    prompt = mean_row_tokens - mean_completion_tokens
    if method.needs("padded_hidden"):
        backbone = rows * sequences * _backbone_flops(model, mean_row_tokens)
    else:
        backbone = rows * _backbone_flops(model, prompt + sequences * mean_completion_tokens)
    head = rows * sequences * mean_completion_tokens * _head_flops(model)
    backward = 2 if training.lora_rank is None else 1  # forwards; frozen weights have no gradients to compute
    passes = 1 + backward + int(training.gradient_checkpointing) + int(runs_reference(method))
    accumulates = (training.micro_batch_size or training.batch_size) < training.batch_size
    passes += int(accumulates and any(learns for _, _, learns in _networks(method, model)))  # the adversaries' own
    total = passes * backbone + 2 * head * (1 if training.lora_rank else 1.5)
    seen = mean_row_tokens if method.needs("padded_hidden") else mean_completion_tokens
    for size, _, learns in _networks(method, model):
        # 6 a parameter and token to learn, 4 to pass the gradient on to the policy
        total += size * rows * seen * ((6 if learns else 2) * SETS + 4)
    drawn = rows * method.sampling.num_generations // method.sampling.epochs
    for size, part in _encoders(method):
        total += size * min(mean_row_tokens, part.rm_max_length) * (2 * drawn + 6 * LESSONS * part.rm_epochs * rows)
    updating = training.steps * ADAMW_PASSES * FLOAT * num_trainable(model, training.lora_rank) / machine.bandwidth
    sampling = 0.0
    if method.on_policy:
        longest = method.sampling.max_new_tokens
        sampling = generation_seconds(
            model, machine, num_prompts=drawn, max_new_tokens=longest, together=_decoded_together(machine.device)
        )
    return total / (EFFICIENCY * machine.flops) + updating + sampling


def _sequences(method: Method, roles: Sequence[Role]) -> int:
    """Number of sequences of one row in an update: one a role, and the samples that are kept."""
    kept = {"all": method.sampling.num_generations, "best": 1, "pair": 0}[method.sampling.keep]
    return sum(kept if role == "sampled" else 1 for role in roles)


def scoring_seconds(model: PreTrainedModel, machine: Machine, *, num_sequences: int, mean_row_tokens: float) -> float:
    """Seconds of one forward over so many sequences: the reference store, or a task that scores held-out pairs."""
    return num_sequences * _backbone_flops(model, mean_row_tokens) / (EFFICIENCY * machine.flops)


def generation_seconds(
    model: PreTrainedModel, machine: Machine, *, num_prompts: int, max_new_tokens: int, together: int = BATCH_SIZE
) -> float:
    """Seconds of generation, roughly: every step reads all weights once for `together` responses, as many as a task
    has in the making unless told, and no response ends before its limit.
    """
    size = sum(parameter.numel() for parameter in model.parameters())
    rounds = -(-num_prompts // together) * max_new_tokens
    reading = rounds * size * FLOAT / machine.bandwidth
    computing = num_prompts * max_new_tokens * 2 * size / machine.flops
    return (reading + computing) / GENERATION_EFFICIENCY


def _decoded_together(device: str) -> int:
    """How many responses a training method's sampler has in the making."""
    from experiments.rewards.rollouts import DECODED_TOGETHER

    return DECODED_TOGETHER.get(device, DECODED_TOGETHER["cuda"])


def _sampling(method: Method, training: Training, model: PreTrainedModel, prompt_tokens: int, device: str) -> int:
    """Bytes that drawing samples takes at its peak, beside weights and moments; 0 for a method that draws none.

    They are keys and values, the last logits (as logits, and in float64 probabilities and their sum), on a CPU the
    copy of the weights that oneDNN packs, and the weights that an adapter is merged into, kept to be put back.
    """
    from experiments.models.packed_linear import MAX_COPY

    if not method.on_policy:
        return 0
    given: Any = model  # its methods have no types
    rows, config = _decoded_together(device), given.config
    _, attention, _, layers = _sizes(model)
    heads = config.num_attention_heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    length = prompt_tokens + method.sampling.max_new_tokens
    cache: int = 2 * FLOAT * layers * (attention * shared // heads) * rows * length
    linears = FLOAT * sum(layer.weight.numel() for layer in _linears(model))
    head = FLOAT * int(given.get_output_embeddings().weight.numel())
    packed = linears + head if device == "cpu" and linears + head <= MAX_COPY else 0
    kept = 0 if training.lora_rank is None else linears
    return cache + (FLOAT + 2 * 8) * rows * int(config.vocab_size) + packed + kept


def _needs_hidden(method: Method) -> bool:
    return method.needs("hidden") or method.needs("padded_hidden")


def _linears(model: PreTrainedModel) -> list[nn.Linear]:
    from torch import nn

    given: Any = model  # its method has no types
    head = given.get_output_embeddings()
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer is not head]


def _sizes(model: PreTrainedModel) -> tuple[int, int, int, int]:
    """Sizes of the hidden states, of all heads together and of the feed-forward layer; the number of layers."""
    config: Any = model.config
    hidden = config.hidden_size
    head = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    feed_forward = getattr(config, "intermediate_size", None) or 4 * hidden
    return hidden, config.num_attention_heads * head, feed_forward, config.num_hidden_layers


def _activations(model: PreTrainedModel, training: Training, *, tokens: int, length: int, hidden: bool) -> int:
    """Bytes that autograd keeps of all layers; with checkpointing, of their inputs and of one layer while it is
    recomputed.
    """
    width, _, _, layers = _sizes(model)
    layer = _layer_bytes(model, training, tokens=tokens, length=length)
    states = FLOAT * width * tokens
    kept = layers * states + layer if training.gradient_checkpointing else layers * layer
    return kept + states * (3 if hidden else 2)  # final states, their gradient, the reference's


def _layer_bytes(model: PreTrainedModel, training: Training, *, tokens: int, length: int) -> int:
    """4·d around the two norms, 5·a (query, repeated keys and values, output twice), 4 of the gated feed-forward."""
    width, attention, feed_forward, _ = _sizes(model)
    frozen = training.lora_rank is not None
    # Soft-capped attention is not fused: it keeps each head's matrix twice; a fused one the mask of the row
    softcapped = getattr(model.config, "attn_logit_softcapping", None)
    matrices = 2 * int(model.config.num_attention_heads) if softcapped else 1
    numbers = (4 if frozen else 6) * width + 5 * attention + 4 * feed_forward + matrices * length
    return FLOAT * numbers * tokens


def _head(model: PreTrainedModel, completions: int) -> int:
    """Logits, their softmax and their gradient of one chunk."""
    return 3 * FLOAT * int(model.config.vocab_size) * min(completions, HEAD_TOKENS)


def _backbone_flops(model: PreTrainedModel, length: float) -> float:
    """One forward of one sequence: two a weight and token, and causal attention."""
    _, attention, _, layers = _sizes(model)
    weights = sum(layer.in_features * layer.out_features for layer in _linears(model))
    return length * (2 * weights + layers * 2 * attention * length)


def _head_flops(model: PreTrainedModel) -> int:
    """One forward of one completion token."""
    return 2 * int(model.config.hidden_size) * int(model.config.vocab_size)


def _networks(method: Method, model: PreTrainedModel) -> Iterator[tuple[int, int, bool]]:
    """Each part with a network: its parameters, the numbers it keeps a token, and whether it learns."""
    from methods.protocols import Adversary, Learner

    for part in method.parts.values():
        if isinstance(part, Learner):
            learns = part.learns if isinstance(part, Adversary) else True
            yield *_network_size(cast(Hashable, part), model.config.hidden_size), learns


def _encoders(method: Method) -> Iterator[tuple[int, Any]]:
    """Each part that reads text with an encoder: the encoder's parameters, and the part.

    A head on the policy's backbone and counted words weigh nothing. Of an encoder that is not registered nothing is
    known before it is loaded, and it counts as nothing.
    """
    from methods.protocols import TextLearner

    for part in method.parts.values():
        if isinstance(part, TextLearner) and part.scorer in ENCODERS:
            yield ENCODERS[part.scorer].num_parameters, part


@functools.cache
def _network_size(part: Hashable, hidden_size: int) -> tuple[int, int]:
    """Parameters of the network that a part builds, and numbers that it keeps for each token that it looks at.

    Both are of all its discriminators together, each of which sees sets of its own.
    """
    import torch

    with torch.device("meta"):
        net = cast("Learner", part).build(hidden_size)
    if net is None:
        return 0, 0
    matrices = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    return sum(p.numel() for p in net.parameters()), sum(sum(matrix.shape) for matrix in matrices)

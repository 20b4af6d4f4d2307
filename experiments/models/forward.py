"""The only place that runs a language model on given tokens: blocks in, `Outputs` of the same roles out.

One module holds the backbone and the head, so that the hooks of DDP and FSDP fire. The head sees completions only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor, nn

from experiments.data.tokens import Example, collate
from experiments.experiment import Precision
from experiments.models.head import token_logps
from experiments.models.layout import Layout, arrange
from experiments.models.linear import use_onednn
from experiments.models.weights import quiet_peft
from methods.types import Outputs, Role, Tokens
from registry.families import HEAD_BIAS, RUNNING_STATE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LAYOUT_TOLERANCE = 1e-3  # nats a token between two ways to compute the same thing in float32
Scored = dict[Role, Float32[np.ndarray, " _"]]


class Policy(nn.Module):
    """A causal language model as methods see it, with an adapter (peft) or without.

    `share_prompts` is settled by a probe: a model for which the shared layout does not reproduce the padded one uses
    the padded one. ValueError for a model whose logits are not its output embeddings times its last hidden state, and
    for one that cannot be run so.
    """

    def __init__(self, model: PreTrainedModel, *, lora_rank: int | None = None, seed: int = 0) -> None:
        super().__init__()
        _check(model, lora_rank)
        self.causal: Any = model
        self.model: Any = _adapted(model, lora_rank, seed) if lora_rank else model
        self.has_adapter = bool(lora_rank)
        use_onednn(self.model)
        config = model.config.get_text_config()
        self.hidden_size = int(config.hidden_size)
        self.cap = getattr(config, "final_logit_softcapping", None)
        self.scale = float(getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1))
        self.window = (
            config.sliding_window if "sliding_attention" in (getattr(config, "layer_types", None) or ()) else 0
        )
        # A window that no layer names (Mistral's) cannot be laid on a shared row
        unnamed = getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None)
        self.share_prompts = self._probe() and not unnamed

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def layout_name(self) -> str:
        return "shared" if self.share_prompts else "padded"

    def forward(
        self,
        blocks: Mapping[Role, Tokens],
        *,
        logps: bool = True,
        hidden: bool = False,
        padded_hidden: bool = False,
        states: bool = False,
        precision: Precision = "float32",
    ) -> dict[Role, Outputs]:
        """All blocks in one pass; `logps=False` skips the head.

        `padded_hidden` takes the padded layout, with padding as transformers has it where nobody says otherwise: the
        model's padding token, at positions that run on.

        `precision` is that of the matrix products; log-probs and hidden states are float32 (or finer) either way.
        """
        padding = int(getattr(self.causal.config, "pad_token_id", None) or 0) if padded_hidden else None
        layout = arrange(blocks, share=self.share_prompts and not padded_hidden, padding=padding).to(self.device)
        lower = precision == "bfloat16"
        # Without autocast's cache, which would keep a second copy of all weights: each is used once in a forward
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False) if lower else nullcontext():
            final = self._states(layout, torch.bfloat16 if lower else self.causal.dtype)
        final = final.float() if lower else final
        flat = final.flatten(0, 1)
        if logps:
            before, weight = flat[layout.predict], self.causal.get_output_embeddings().weight
            if lower:
                before, weight = before.bfloat16(), weight.bfloat16()
            values = token_logps(before, weight, layout.targets, cap=self.cap, scale=self.scale)
        else:
            values = flat.new_zeros(len(layout.at), dtype=torch.float32)
        outputs = {}
        rows = 0
        for role, shape in layout.shapes.items():
            mine = layout.blocks[role]
            place = tuple(layout.place[:, mine])
            real = torch.ones((), dtype=torch.bool, device=self.device)
            mask = torch.zeros(shape, dtype=torch.bool, device=self.device).index_put(place, real)
            scattered = values.new_zeros(shape).index_put(place, values[mine])
            empty = flat.new_zeros(*shape, flat.shape[-1]) if hidden or states else None
            latent = empty.index_put(place, flat[layout.at[mine]]) if empty is not None and hidden else None
            previous = empty.index_put(place, flat[layout.predict[mine]]) if empty is not None and states else None
            padded = final[rows : rows + shape[0]] if padded_hidden else None
            outputs[role] = Outputs(scattered, mask, latent, padded, previous)
            rows += shape[0]
        return outputs

    def checkpoint_activations(self) -> None:
        """Keep the inputs of layers only and compute the rest again in the backward pass."""
        new = hasattr(self.causal, "activation_checkpointing_enable")  # the older name is deprecated
        enable = self.causal.activation_checkpointing_enable if new else self.causal.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        self.causal.train()  # transformers checkpoints in training mode only; every dropout is zero

    @contextmanager
    def adapter_disabled(self) -> Iterator[None]:
        """The model as it was before training: only with an adapter."""
        assert self.has_adapter, "without an adapter the reference is a model of its own"
        with self.model.disable_adapter():
            yield

    def _states(self, layout: Layout, dtype: torch.dtype) -> Tensor:
        mask: Any = (layout.segments > 0).long()
        if layout.shared:
            mask = _additive(layout.visible(), dtype)
            if self.window:
                mask = {"full_attention": mask, "sliding_attention": _additive(layout.visible(self.window), dtype)}
        states: Tensor = self.causal.base_model(
            input_ids=layout.ids, position_ids=layout.positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        return states

    @torch.no_grad()
    def _probe(self) -> bool:
        """Whether the shared layout is exact here; ValueError if the head is not the model's own."""
        ids = torch.arange(3, 3 + 12, device=self.device) % self.causal.config.get_text_config().vocab_size
        rows = torch.stack([ids, torch.cat([ids[:5], ids[:7]])])
        completion = (torch.arange(12, device=self.device) >= 5).expand(2, 12)
        blocks: dict[Role, Tokens] = {
            "chosen": Tokens(rows[:1], torch.ones_like(rows[:1], dtype=torch.bool), completion[:1]),
            "rejected": Tokens(rows[1:], torch.ones_like(rows[1:], dtype=torch.bool), completion[1:]),
        }
        self.share_prompts = False
        try:
            own = self.causal(input_ids=rows, use_cache=False).logits.float().log_softmax(-1)
            own = own[:, 4:-1].gather(-1, rows[:, 5:, None]).squeeze(-1)
            padded = torch.cat([output.logps for output in self(blocks).values()])
        except (AttributeError, RuntimeError, TypeError, ValueError, KeyError, IndexError) as error:
            said = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{type(self.causal).__name__} cannot be run through its backbone and its head alone"
                f" ({type(error).__name__}: {said}); docs/models.md names the families that can"
            ) from error
        if not torch.allclose(padded, own, atol=LAYOUT_TOLERANCE):
            raise ValueError(
                f"{type(self.causal).__name__} makes its logits in a way this project does not know (its own log-probs"
                f" differ by {(padded - own).abs().max():.3g}); known: output embeddings, logit_scale, logits_scaling,"
                " final_logit_softcapping"
            )
        self.share_prompts = True
        try:
            shared = torch.cat([output.logps for output in self(blocks).values()])
        except (RuntimeError, TypeError, ValueError, KeyError):
            return False
        return torch.allclose(shared, padded, atol=LAYOUT_TOLERANCE)


@torch.no_grad()
def score(
    policy: Policy,
    examples: Sequence[Example],
    roles: Sequence[Role],
    *,
    batch_tokens: int = 4096,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Scored]:
    """Per-token log-probs of every example's roles, in the order of `examples`.

    Batches hold rows of like length, and side by side those of one prompt, which the shared layout computes once.
    """

    def size(i: int) -> int:
        return sum(len(examples[i].sequences[role]) for role in roles if role in examples[i].sequences)

    def prompt(i: int) -> bytes:
        return b"".join(examples[i].sequences[role].prompt.tobytes() for role in roles if role in examples[i].sequences)

    scored: list[Scored] = [{} for _ in examples]
    batch: list[int] = []
    longest: dict[bytes, tuple[int, int]] = {}  # and the number that stands for the prompt among others as long
    for i in range(len(examples)):
        longest[prompt(i)] = max(longest.get(prompt(i), (0, 0)), (size(i), i))
    order = sorted(range(len(examples)), key=lambda i: (*longest[prompt(i)], size(i), i), reverse=True)
    for place, i in enumerate(order):
        batch.append(i)
        if place + 1 == len(order) or size(batch[0]) * (len(batch) + 1) > batch_tokens:
            outputs = policy(collate([examples[j] for j in batch], roles).blocks, precision=precision)
            for role, block in outputs.items():
                owners = [j for j in batch if role in examples[j].sequences]
                for row, j in enumerate(owners):
                    scored[j][role] = block.logps[row, : block.mask[row].sum()].float().cpu().numpy()
            batch = []
            progress(place + 1, len(order))
    return scored


def _check(model: Any, lora_rank: int | None) -> None:
    """ValueError for a model that the probe's few tokens might let pass, and for an adapter wider than the layers."""
    name = type(model).__name__
    if getattr(model, "_is_stateful", False):
        raise ValueError(f"{name} cannot be trained here: {RUNNING_STATE}")
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{name} has no output embeddings, so there are no log-probs; give a causal language model")
    if getattr(head, "bias", None) is not None:
        raise ValueError(f"{name} cannot be trained here: {HEAD_BIAS}")
    width = int(model.config.get_text_config().hidden_size)
    if lora_rank and lora_rank > width:
        raise ValueError(f"an adapter of rank {lora_rank} is wider than the layers of {name} ({width}); lower --lora")


def _additive(visible: Bool[Tensor, "n 1 t t"], dtype: torch.dtype) -> Float[Tensor, "n 1 t t"]:
    """The additive attention mask: 0, or the lowest number of `dtype` at positions that stay hidden."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, torch.finfo(dtype).min)


def lora_config(rank: int) -> Any:
    """peft's configuration of an adapter on every linear layer but the head; α is twice the rank."""
    import peft

    return peft.LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _adapted(model: PreTrainedModel, rank: int, seed: int) -> Any:
    import peft

    with torch.random.fork_rng(), quiet_peft():
        torch.manual_seed(seed)
        return peft.get_peft_model(model, lora_config(rank))

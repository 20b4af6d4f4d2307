"""Responses from a model: batched decoding that keeps the batch full.

Rows that end make room for the next prompts at once, so that no row is computed that nobody reads. The prompts are
taken longest first, which keeps the padding of each prefill small and lets every newcomer fit into the window.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from experiments.data.chat import ChatFormat
from experiments.models.packed_linear import packed_linears
from experiments.sampling.kv_cache import RowCache

Message = Mapping[str, str]  # {"role": "user", "content": "…"}

PREFILL_TOKENS = 8192  # padded tokens of one prefill at most: bounds the memory that its activations take


@dataclass(frozen=True)
class Response:
    """A model's response. `token_ids` holds the token that ended the turn too, where there is one; `text`
    never does.
    """

    text: str
    token_ids: tuple[int, ...]
    finished: bool  # by the model itself, not by the limit on new tokens
    logps: tuple[float, ...] = ()  # of each token, at temperature 1, where they were asked for

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[Message] | Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    batch_size: int = 16,
    logps: bool = False,
    progress: Callable[[int, int], None] | None = None,
    on_response: Callable[[int, Response], None] | None = None,
) -> list[Response]:
    """One response to each prompt, in the order of `prompts`; greedy at temperature 0.

    A prompt is a conversation, which goes through the chat template, or tokens, which go in as they are. Each draws
    from a generator of its own, seeded by `seed`, its tokens and how many equal prompts come before it: its response
    depends neither on the batch it shares (but for float error) nor on the other prompts, and equal prompts differ.
    With `logps` it says how likely each of its tokens was.

    `on_response(index, response)` is called as soon as a response is complete, `progress(done, total)` after it.
    Raises ValueError for an empty prompt, one that the model's context cannot hold together with `max_new_tokens`,
    or a setting out of range.
    """
    _check(max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, batch_size=batch_size)
    chat = ChatFormat.of(tokenizer)
    encoded = [encode(chat, prompt) for prompt in prompts]
    _check_lengths(model, encoded, max_new_tokens)
    seeds = _seeds(encoded, seed)
    queue = [_Row(i, encoded[i], torch.Generator().manual_seed(seeds[i])) for i in range(len(encoded))]
    queue.sort(key=lambda row: -len(row.prompt))
    stops = stop_tokens(model, chat)
    responses: dict[int, Response] = {}
    # no_grad, not inference_mode: what a model caches must stay fit for training
    with _evaluating(model), torch.no_grad(), packed_linears(model):
        decoding = _Decoding(max_new_tokens, temperature, top_p, batch_size, logps)
        for row in _decode(model, queue, stops, decoding):
            finished = row.tokens[-1] in stops
            text = tokenizer.decode(row.tokens[:-1] if finished else row.tokens, skip_special_tokens=True)
            assert isinstance(text, str)
            response = Response(text, tuple(row.tokens), finished, tuple(row.logps))
            responses[row.index] = response
            if on_response:
                on_response(row.index, response)
            if progress:
                progress(len(responses), len(encoded))
    return [responses[i] for i in range(len(encoded))]


def encode(chat: ChatFormat, prompt: Sequence[Message] | Sequence[int]) -> list[int]:
    """The tokens of a conversation up to where the assistant begins to speak; tokens stay as they are."""
    if not prompt:
        raise ValueError("cannot answer an empty prompt; give it at least one message or token")
    tokens = [token for token in prompt if not isinstance(token, Mapping)]
    return tokens or chat.prompt_ids((m["role"], m["content"]) for m in prompt if isinstance(m, Mapping))


def stop_tokens(model: nn.Module, chat: ChatFormat) -> frozenset[int]:
    """The tokens that end a response: the model's, the tokenizer's and what the chat template ends a turn with."""
    stops = {chat.end_of_turn}
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None), chat.tokenizer):
        ids = getattr(config, "eos_token_id", None)
        stops.update(ids if isinstance(ids, (list, tuple)) else () if ids is None else (ids,))
    return frozenset(stops)


@dataclass
class _Row:
    """One response in the making."""

    index: int  # of its prompt
    prompt: list[int]
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens in the cache: all but the last, which is yet to be read."""
        return len(self.prompt) + len(self.tokens) - 1


@dataclass(frozen=True)
class _Decoding:
    max_new_tokens: int
    temperature: float
    top_p: float
    batch_size: int
    logps: bool


def _decode(model: nn.Module, queue: list[_Row], stops: frozenset[int], decoding: _Decoding) -> Iterator[_Row]:
    """Yield rows as they end. `queue` holds the longest prompts first."""
    cache, live, waiting = RowCache(decoding.batch_size), list[_Row](), list(reversed(queue))
    # A prefill costs about as much as a step even for one short prompt: wait until a quarter of the rows is free.
    patience = max(1, decoding.batch_size // 4)
    while live or waiting:
        free = decoding.batch_size - len(live)
        newcomers = _admit(waiting, free) if free >= patience else []
        if newcomers:
            logits = _prefill(model, newcomers, cache)
            read = newcomers
            live += newcomers
        else:
            logits = _step(model, live, cache)
            read = live
        for row, token in zip(read, _choose(logits, read, decoding.temperature, decoding.top_p), strict=True):
            row.tokens.append(token)
        if decoding.logps:
            exact, taken = logits.float(), torch.tensor([[row.tokens[-1]] for row in read], device=logits.device)
            values = exact.gather(-1, taken)[:, 0] - exact.logsumexp(-1)
            for row, value in zip(read, values.tolist(), strict=True):
                row.logps.append(value)
        for i in reversed(range(len(live))):
            if live[i].tokens[-1] in stops or len(live[i].tokens) == decoding.max_new_tokens:
                yield live[i]
                cache.remove(i)
                live[i] = live[-1]
                live.pop()
        if live:
            cache.narrow(max(row.length for row in live))


def _admit(waiting: list[_Row], free: int) -> list[_Row]:
    """Take the next prompts, at most `free` of them, as one prefill can hold them."""
    newcomers: list[_Row] = []
    while waiting and len(newcomers) < free:
        width = len((newcomers or waiting[-1:])[0].prompt)
        if newcomers and width * (len(newcomers) + 1) > PREFILL_TOKENS:
            break
        newcomers.append(waiting.pop())
    return newcomers


def _prefill(model: nn.Module, rows: list[_Row], cache: RowCache) -> Float[Tensor, "b v"]:
    """Read the prompts of `rows` into the cache, equal ones once, padded on the left; the logits of first tokens."""
    places: dict[tuple[int, ...], int] = {}
    owner = [places.setdefault(tuple(row.prompt), len(places)) for row in rows]
    width = max(map(len, places))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in places]
    pads = torch.tensor([width - len(prompt) for prompt in places])[:, None]
    columns = torch.arange(width)
    prompts = DynamicCache()  # without a config: sliding layers keep all their keys, as the mask expects
    logits = _forward(model, torch.tensor(ids), columns >= pads, (columns - pads).clamp(min=0), prompts)
    own = torch.tensor(owner, device=logits.device)
    cache.add(prompts, own)
    return logits[own]


def _step(model: nn.Module, rows: list[_Row], cache: RowCache) -> Float[Tensor, "b v"]:
    """Read the last token of each row; the logits of the next."""
    positions = torch.tensor([[row.length] for row in rows])
    ids = torch.tensor([[row.tokens[-1]] for row in rows])
    attention = torch.arange(cache.width + 1) >= cache.width - positions
    logits = _forward(model, ids, attention, positions, cache)
    cache.advance()
    return logits


def _forward(
    model: nn.Module,
    ids: Int[Tensor, "b t"],
    attention: Tensor,
    positions: Int[Tensor, "b t"],
    cache: DynamicCache | RowCache,
) -> Float[Tensor, "b v"]:
    device = next(model.parameters()).device
    result = model(
        input_ids=ids.to(device),
        attention_mask=attention.to(device),
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    logits: Tensor = result.logits[:, -1]
    return logits


def _choose(logits: Float[Tensor, "b v"], rows: list[_Row], temperature: float, top_p: float) -> list[int]:
    """The next token of each row: the likeliest, or by inversion of the distribution at the row's own random number."""
    if temperature == 0:
        greedy: list[int] = logits.argmax(-1).tolist()
        return greedy
    uniform = torch.cat([torch.rand(1, generator=row.generator, dtype=torch.float64) for row in rows])
    probabilities, order = (logits.double() / temperature).softmax(-1), None
    if top_p < 1:
        probabilities, order = probabilities.sort(stable=True, dim=-1, descending=True)
        # the nucleus: the likeliest tokens until their sum reaches top_p, the one that crosses it included
        probabilities = probabilities.masked_fill(probabilities.cumsum(-1) - probabilities >= top_p, 0.0)
    cumulative = probabilities.cumsum(-1)
    thresholds = uniform.to(logits.device)[:, None] * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, thresholds, right=True).clamp(max=logits.shape[-1] - 1)
    drawn: list[int] = (chosen if order is None else order.gather(-1, chosen))[:, 0].tolist()
    return drawn


def _seeds(prompts: list[list[int]], seed: int) -> list[int]:
    """A seed for each prompt, from its tokens and its number among equal ones: prompts left out change nothing."""
    seen: Counter[tuple[int, ...]] = Counter()
    seeds = []
    for prompt in map(tuple, prompts):
        digest = hashlib.sha256(f"{seed} {seen[prompt]} {prompt}".encode()).digest()
        seeds.append(int.from_bytes(digest[:8]) >> 1)  # torch takes 63 bits
        seen[prompt] += 1
    return seeds


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for as long as it lasts: dropout off, gradient checkpointing off."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _check(*, max_new_tokens: int, temperature: float, top_p: float, batch_size: int) -> None:
    if max_new_tokens < 1 or batch_size < 1:
        raise ValueError(f"max_new_tokens ({max_new_tokens}) and batch_size ({batch_size}) must be at least 1")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature ({temperature}) must be at least 0 and top_p ({top_p}) in (0, 1]")


def _check_lengths(model: nn.Module, prompts: list[list[int]], max_new_tokens: int) -> None:
    config: Any = getattr(model, "config", None)
    context = getattr(config, "max_position_embeddings", None)
    longest = max(map(len, prompts), default=0)
    if context is not None and longest + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed the model's context of {context};"
            " shorten the prompt or lower max_new_tokens"
        )

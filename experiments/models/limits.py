"""Compares what a model can hold, its vocabulary, positions and the width of its layers, with what is asked of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from experiments.models.loading import meta_model, model_config
from experiments.models.weights import ResolvedModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from experiments.data.tokens import TokenizedData


def context_of(config: Any) -> int | None:
    """The positions that the model was made for: prompt and response together. None where it has no such limit."""
    found = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if found is None else int(found)


def check_limits(
    model: str | Path | ResolvedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    data: TokenizedData | None,
    max_length: int,
    lora_rank: int | None,
    new_tokens: int = 0,
) -> list[str]:
    """Notes for the plan. ValueError for what the model cannot hold; `new_tokens` is the longest response asked for."""
    config = model_config(model)
    name = model.name if isinstance(model, ResolvedModel) else str(model)
    width, context = int(config.get_text_config().hidden_size), context_of(config)
    if lora_rank is not None and lora_rank > width:
        raise ValueError(f"--lora {lora_rank} is wider than the layers of {name} ({width}); give at most {width}")
    if tokenizer is not None:
        _check_vocabulary(int(config.get_text_config().vocab_size), name, tokenizer, data)
    if context is None:
        return []
    if new_tokens >= context:
        raise ValueError(
            f"a response of {new_tokens} tokens and its prompt do not fit into the {context} positions of {name};"
            f" give --max-new-tokens below {context}"
        )
    if max_length <= context:
        return []
    if has_position_table(meta_model(model), context):
        raise ValueError(
            f"--max-length {max_length} is more than the {context} positions that {name} has embeddings for;"
            f" give --max-length {context}"
        )
    return [
        f"--max-length {max_length} is beyond the {context} positions that {name} was trained on: rows longer than that"
        " are read worse than shorter ones"
    ]


def has_position_table(model: Any, context: int) -> bool:
    """Whether positions are looked up in a table of about `context` rows, as GPT-2's are (OPT's has two more)."""
    tables = (m for m in model.modules() if isinstance(m, nn.Embedding) and m is not model.get_input_embeddings())
    return any(context <= table.num_embeddings <= context + 2 for table in tables)


def _check_vocabulary(rows: int, name: str, tokenizer: PreTrainedTokenizerBase, data: TokenizedData | None) -> None:
    """Tokens that nothing uses may lie beyond the embeddings, as Gemma 3's image token does."""
    if len(tokenizer) <= rows:
        return
    ids = {tokenizer.vocab_size - 1, *(i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None)}
    if data is not None:
        for example in (*data.train, *data.dev, *data.held_out):
            parts = (part for s in example.sequences.values() for part in (s.prompt, s.completion) if len(part))
            ids.update(int(part.max()) for part in parts)
    if max(ids) >= rows:
        raise ValueError(
            f"the tokenizer of {name} has the token {tokenizer.convert_ids_to_tokens(max(ids))!r} (id {max(ids)}), and"
            f" the model has embeddings for {rows} tokens; give the tokenizer that the model was trained with"
        )

"""Preference data for tests: sound rows by number, written as a user would have them, and a tokenizer of bytes."""

import gzip
import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer("llama3")
SPLITS = ("train", "dev", "held_out")


def pair(i: int, **changes):
    return {"prompt": f"Question {i}?", "chosen": f"Good answer {i}.", "rejected": f"Bad answer {i}."} | changes


def write_jsonl(path: Path, rows) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def plain_tokenizer(merges=(), **specials):
    """Bytes as tokens, merged as told; no chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    bpe = Tokenizer(BPE({token: i for i, token in enumerate(tokens)}, list(merges)))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **specials)


def every_example(data):
    return [example for split in SPLITS for example in getattr(data, split)]

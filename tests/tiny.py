"""Tiny random chat models in the style of three families, made without a network.

Each has the traps of its family: Llama-3's tokenizer and its template both add BOS, and it has no pad token; Gemma-2
refuses a system message, ends a turn with another token than EOS, soft-caps and slides its attention; Qwen-3 has no BOS
and puts an empty thought before the last answer.
"""

import functools
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from experiments.models.loading import quiet_transformers
from registry.models import MODELS

FAMILIES = ("llama3", "gemma2", "qwen3")
PRESETS = {"llama3": "llama3_8b", "gemma2": "gemma2_2b", "qwen3": "qwen3_0_6b"}
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,  # enough for two tokens to differ by more than rounding
}
SPECIALS = {
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "gemma2": ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"],
    "qwen3": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
NAMED = {
    "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    "gemma2": {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"},
    "qwen3": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
}
END_OF_TURN = {"llama3": "<|eot_id|>", "gemma2": "<end_of_turn>", "qwen3": "<|im_end|>"}
TEMPLATES = {
    "llama3": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim"
        " + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "gemma2": (
        "{{ bos_token }}"
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n'"
        " + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
    ),
    "qwen3": (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% if loop.last and message['role'] == 'assistant' and '</think>' not in message['content'] %}"
        "{{ '<think>\n\n</think>\n\n' }}{% endif %}{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
        "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{% endif %}"
    ),
}
# What the byte-pair merges are learned from.
TEXT = (
    "The quick brown fox jumps over the lazy dog while the children are playing in the garden. "
    "You are a helpful assistant. What is the capital of France? The capital of France is Paris. "
    "Write a short story about a friend who is afraid of the water and learns to swim. "
    "I think that this is a good question, and I would like to answer it as well as I can. "
    "Please list three reasons for your answer, and explain each of them in one sentence. "
    "user assistant system model human"
)


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most 600 tokens with the family's special tokens and chat template."""
    bpe = Tokenizer.from_str(_trained_bpe(family))
    if bos := NAMED[family].get("bos_token"):
        bpe.post_processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, bpe.token_to_id(bos))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **NAMED[family], clean_up_tokenization_spaces=False)
    tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


def tiny_model(family: str, seed: int = 0) -> PreTrainedModel:
    """Two layers of width 32 with the family's architecture, in float32 and eval mode."""
    tokenizer = tiny_tokenizer(family)
    config = {**MODELS[PRESETS[family]].config, **SMALL, "vocab_size": len(tokenizer)}
    ends = sorted({tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(END_OF_TURN[family])})
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": ends}
    if family == "gemma2":
        config |= {"sliding_window": 16, "query_pre_attn_scalar": 8}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config | ids), dtype=torch.float32)
    return model.eval()


def save_tiny(family: str, folder: Path, seed: int = 0) -> Path:
    """Save model and tokenizer so that `folder` can be given as a model; returns `folder`."""
    with quiet_transformers():
        tiny_model(family, seed).save_pretrained(folder)
        tiny_tokenizer(family).save_pretrained(folder)
    return folder


@functools.cache
def _trained_bpe(family: str) -> str:
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=SPECIALS[family],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([TEXT], trainer)
    if family == "qwen3":
        bpe.add_tokens([AddedToken(thought, normalized=False) for thought in ("<think>", "</think>")])
    return bpe.to_str()

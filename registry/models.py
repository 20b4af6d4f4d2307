"""The models that a name stands for: where each comes from, how large it is, and its architecture.

The architecture is written out, so that a plan (`--dry-run`) needs neither weights nor a network nor a licence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.assets import PackageAsset
from registry.cards import Paper
from registry.catalogue import Catalogue
from registry.packages import SMOLLM2


@dataclass(frozen=True, kw_only=True)
class ModelPreset:
    """A chat model by name. `config` is what transformers' configuration of its `model_type` takes."""

    name: str
    hub: str
    num_parameters: int  # as published; a matrix that is tied counts once
    licence: str
    config: Mapping[str, Any]
    paper: Paper
    gated: bool = False  # the hub asks to accept the licence first
    # The policy's learning rate, where the papers' do not suit this size. By objective: what a sweep chose whose
    # intervals tell the rates apart; by what a loss makes of log-probs ("sum", "mean"): for objectives that none saw
    lr: Mapping[str, float] = field(default_factory=dict)
    borrowed_lr: Mapping[str, float] = field(default_factory=dict)
    package: PackageAsset | None = None  # a copy that needs no hub
    note: str = ""


MODELS: Catalogue[ModelPreset] = Catalogue("model")
DEFAULT_MODEL = "smollm2_135m"

MODELS.add(
    ModelPreset(
        name="smollm2_135m",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        num_parameters=134_515_008,
        licence="Apache-2.0",
        package=SMOLLM2,
        # docs/learning_rates.md: rates at which a dozen updates move this model; no sweep has told them from others
        borrowed_lr={"sum": 1e-4, "mean": 3e-4},
        note="without the hub: dequantised from the 4-bit (Q4_1) copy in a package, so not the published weights",
        paper=Paper(
            title="SmolLM2: When Smol Goes Big - Data-Centric Training of a Small Language Model",
            arxiv="2502.02737",
            year=2025,
        ),
        config={
            "model_type": "llama",
            "vocab_size": 49152,
            "hidden_size": 576,
            "intermediate_size": 1536,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "head_dim": 64,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 100_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 2,
        },
    )
)

MODELS.add(
    ModelPreset(
        name="gemma2_2b",
        hub="google/gemma-2-2b-it",
        num_parameters=2_614_341_888,
        licence="Gemma",
        gated=True,
        paper=Paper(title="Gemma 2: Improving Open Language Models at a Practical Size", arxiv="2408.00118", year=2024),
        config={
            "model_type": "gemma2",
            "vocab_size": 256_000,
            "hidden_size": 2304,
            "intermediate_size": 9216,
            "num_hidden_layers": 26,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "hidden_activation": "gelu_pytorch_tanh",
            "max_position_embeddings": 8192,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": [1, 107],
            "pad_token_id": 0,
        },
    )
)

MODELS.add(
    ModelPreset(
        name="llama3_8b",
        hub="meta-llama/Meta-Llama-3-8B-Instruct",
        num_parameters=8_030_261_248,
        licence="Meta Llama 3 Community",
        gated=True,
        paper=Paper(title="The Llama 3 Herd of Models", arxiv="2407.21783", year=2024),
        config={
            "model_type": "llama",
            "vocab_size": 128_256,
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "hidden_act": "silu",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
            "tie_word_embeddings": False,
            "bos_token_id": 128_000,
            "eos_token_id": [128_001, 128_009],
        },
    )
)


def _qwen3(name: str, hub: str, num_parameters: int, **config: int) -> ModelPreset:
    return MODELS.add(
        ModelPreset(
            name=name,
            hub=hub,
            num_parameters=num_parameters,
            licence="Apache-2.0",
            paper=Paper(title="Qwen3 Technical Report", arxiv="2505.09388", year=2025),
            config={
                "model_type": "qwen3",
                "vocab_size": 151_936,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "hidden_act": "silu",
                "max_position_embeddings": 40_960,
                "rms_norm_eps": 1e-6,
                "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
                "tie_word_embeddings": True,
                "bos_token_id": 151_643,
                "eos_token_id": 151_645,
                **config,
            },
        )
    )


_qwen3(
    "qwen3_0_6b",
    "Qwen/Qwen3-0.6B",
    596_049_920,
    hidden_size=1024,
    intermediate_size=3072,
    num_hidden_layers=28,
    num_attention_heads=16,
)
_qwen3(
    "qwen3_4b",
    "Qwen/Qwen3-4B",
    4_022_468_096,
    hidden_size=2560,
    intermediate_size=9728,
    num_hidden_layers=36,
    num_attention_heads=32,
)

MODELS.add(
    ModelPreset(
        name="qwen2_5_7b",
        hub="Qwen/Qwen2.5-7B-Instruct",
        num_parameters=7_615_616_512,
        licence="Apache-2.0",
        paper=Paper(title="Qwen2.5 Technical Report", arxiv="2412.15115", year=2024),
        config={
            "model_type": "qwen2",
            "vocab_size": 152_064,
            "hidden_size": 3584,
            "intermediate_size": 18_944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "hidden_act": "silu",
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "tie_word_embeddings": False,
            "bos_token_id": 151_643,
            "eos_token_id": 151_645,
        },
    )
)

"""A model by name or folder: loaded for training, or only planned on the meta device.

Weights are read from safetensors only, so that loading a model never unpickles anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.models.soundness import check_config, load_whole
from experiments.models.weights import (
    CONFIG_FILES,
    ResolvedModel,
    cached_snapshot,
    download,
    given_folder,
    identify,
    quiet_transformers,
    resolve_model,
    weights_hash,
)
from registry.assets import AssetError, hub_reachable

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ResolvedModel",
    "load_model",
    "load_tokenizer",
    "meta_model",
    "model_config",
    "num_parameters",
    "quiet_transformers",
    "resolve_model",
    "weights_hash",
]


def load_tokenizer(
    model: str | Path | ResolvedModel, *, cache: Path | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The model's tokenizer. One without a pad token pads with its end token: mask by length, never by the pad id."""
    import transformers

    resolved = model if isinstance(model, ResolvedModel) else resolve_model(model, cache=cache)
    with quiet_transformers():
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            resolved.folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    model: str | Path | ResolvedModel, *, cache: Path | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The causal language model in float32, in eval mode, with every dropout at zero.

    Dropout is off because a policy and its reference must agree exactly before the first step. ValueError for a family
    that the forward cannot run, and for weights that are missing, left over, damaged or not finite.
    """
    import torch
    import transformers

    library: Any = transformers  # its loaders have no types
    resolved = model if isinstance(model, ResolvedModel) else resolve_model(model, cache=cache)
    with quiet_transformers():
        config = library.AutoConfig.from_pretrained(
            resolved.folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
        check_config(config, resolved.name)
        _zero_dropout(config)
        loaded: PreTrainedModel = load_whole(
            library.AutoModelForCausalLM,
            resolved.folder,
            config=config,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
        ).eval()
    for module in loaded.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return loaded


def meta_model(model: str | Path | ResolvedModel, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model without its weights, on torch's meta device; a preset's needs neither files nor a network."""
    import torch
    import transformers

    library: Any = transformers  # its loaders have no types
    config = model_config(model, trust_remote_code=trust_remote_code)
    with quiet_transformers(), torch.device("meta"):
        built: PreTrainedModel = library.AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=trust_remote_code
        ).eval()
    return built


def model_config(model: str | Path | ResolvedModel, *, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The architecture, of a folder, of a preset, or as the hub describes it.

    Errors as those of resolve_model; ValueError for a family that cannot be trained here.
    """
    import transformers

    loader: Any = transformers.AutoConfig
    folder = model.folder if isinstance(model, ResolvedModel) else given_folder(model)
    if folder is None:
        _, hub_id, preset = identify(str(model))
        if preset:
            written: PreTrainedConfig = loader.for_model(**preset.config)
            return written
        folder = cached_snapshot(hub_id, CONFIG_FILES)
        if folder is None and not hub_reachable():
            raise AssetError(f"{hub_id} is not on this disk, and the hub may not be asked or does not answer")
        folder = folder or download(hub_id, CONFIG_FILES)
    with quiet_transformers():
        read: PreTrainedConfig = loader.from_pretrained(
            folder, local_files_only=True, trust_remote_code=trust_remote_code
        )
    check_config(read, model.name if isinstance(model, ResolvedModel) else str(model))
    return read


def num_parameters(model: nn.Module) -> int:
    """Number of all parameters, trained or not; a tied matrix counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _zero_dropout(config: Any) -> None:
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)

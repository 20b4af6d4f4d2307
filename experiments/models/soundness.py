"""Refuses models that would be misread: damaged files, weights that do not fit, families that the forward cannot run.

transformers fills weights that a file lacks with random numbers and drops those that it does not know, with a warning
that nobody reads. Here that is an error, for policies, reward models, encoders and judges alike.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.families import REFUSED, TWO_STACKS

if TYPE_CHECKING:
    from torch import nn

POINTER = b"version https://git-lfs"
BUFFERS = ("inv_freq", "attn.bias", "masked_bias", "attention.bias", "position_ids")  # old files hold them; rebuilt
SHOWN = 3  # keys that a message names


def damage(file: Path) -> str | None:
    """The damage of a safetensors file, judged by its header and its size alone; None for a whole file."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        first = opened.read(len(POINTER))
        if first == POINTER:
            return f"{file} is a pointer of Git LFS, not the weights; fetch them with: git lfs pull"
        if size < 8:
            return f"{file} is {'empty' if size == 0 else 'cut off'} ({size} bytes); copy or download it again"
        length = int.from_bytes(first[:8], "little")
        opened.seek(8)
        try:
            header = json.loads(opened.read(length)) if length <= size - 8 else None
            ends = [entry["data_offsets"][1] for name, entry in (header or {}).items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return f"{file} is no safetensors file; save the model again with save_pretrained"
    if header is None or size < 8 + length + max(ends, default=0):
        return f"{file} is cut off at {size:,} bytes; copy or download it again"
    return None


def check_config(config: Any, name: str) -> None:
    """ValueError for an architecture or a form of weights that cannot be a policy here; `name` is the model's."""
    reason = REFUSED.get(config.model_type)
    if reason is None and getattr(config, "is_encoder_decoder", False):
        reason = TWO_STACKS
    if reason:
        raise ValueError(f"{name} is a {config.model_type} model, which cannot be trained here: {reason}")
    if quantised := getattr(config, "quantization_config", None):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised.quant_method
        raise ValueError(
            f"{name} holds weights quantised by {getattr(method, 'value', method)}, and a policy is trained and scored"
            " in float32; give the model from which it was quantised"
        )


def load_whole(loader: Any, folder: Path, *, new_head: bool = False, extra_heads: bool = False, **settings: Any) -> Any:
    """The model that `loader.from_pretrained` makes of the folder, with every weight from its files and finite.

    `new_head`: weights outside the backbone may be missing (a classifier that is trained here); `extra_heads`: files
    may hold other heads. ValueError says what is missing, left over, of another shape, unreadable or not a number.
    """
    for file in sorted(folder.glob("*.safetensors")):
        if problem := damage(file):
            raise ValueError(problem)
    try:
        model, found = loader.from_pretrained(
            folder,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **settings,
        )
    except MemoryError:
        raise
    except Exception as error:  # files, configurations and missing libraries fail in as many classes
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ValueError(f"{folder} cannot be loaded ({type(error).__name__}): {said}") from error
    if problem := misfit(model, found, new_head=new_head, extra_heads=extra_heads):
        raise ValueError(f"the weights in {folder} do not fit {type(model).__name__}: {problem}")
    if broken := not_finite(model):
        raise ValueError(f"{folder} holds weights that are NaN or infinite: {_some(broken)}; take another copy")
    return model


def misfit(model: nn.Module, found: dict[str, Any], *, new_head: bool, extra_heads: bool) -> str | None:
    """A sentence about keys that are missing, unexpected or of another shape, and about the prefix that would fit."""
    backbone = f"{getattr(model, 'base_model_prefix', '')}."
    missing = [key for key in found["missing_keys"] if not (new_head and _is_head(key, backbone))]
    unexpected = [
        key
        for key in found["unexpected_keys"]
        if not key.endswith(BUFFERS) and not (extra_heads and _is_head(key, backbone) and not missing)
    ]
    told = []
    if missing:
        told.append(f"{len(missing)} missing ({_some(missing)})")
    if unexpected:
        told.append(f"{len(unexpected)} unexpected ({_some(unexpected)})")
    for key, theirs, ours in sorted(found["mismatched_keys"])[:SHOWN]:
        told.append(f"{key} has the shape {tuple(theirs)} instead of {tuple(ours)}")
    if not told:
        return None
    if hint := _hint(missing, unexpected):
        told.append(hint)
    return "; ".join(told)


def check_adapter(model: Any, tensors: Collection[str], folder: Path) -> None:
    """ValueError unless `tensors` are the names of exactly the weights that the model's adapter has."""
    import peft

    own = set(peft.get_peft_model_state_dict(model, save_embedding_layers=False))  # "auto" asks the hub
    missing, unexpected = own - set(tensors), set(tensors) - own
    if missing or unexpected:
        raise ValueError(
            f"the adapter in {folder} does not fit the model: {len(missing)} missing ({_some(missing)}),"
            f" {len(unexpected)} unexpected ({_some(unexpected)})"
        )


def not_finite(model: nn.Module) -> list[str]:
    """The names of the parameters that hold NaN or an infinity."""
    import torch

    suspects = [(name, p) for name, p in model.named_parameters() if not p.detach().sum().isfinite()]
    return [name for name, p in suspects if not torch.isfinite(p).all()]  # a sum may overflow


def _is_head(key: str, backbone: str) -> bool:
    return not key.startswith(backbone) or ".pooler." in key


def _hint(missing: Collection[str], unexpected: Collection[str]) -> str | None:
    prefixes = Counter(
        key.removesuffix(wanted) for wanted in missing for key in unexpected if key.endswith(f".{wanted}")
    )
    for prefix, count in prefixes.most_common(1):
        if count > len(missing) / 2:
            return f"without the prefix {prefix!r} {count} would fit: save them without it"
    if any(key.startswith(("score.", "classifier.", "v_head.")) for key in unexpected):
        return "they are a reward model's or a critic's: give the language model"
    if missing and all(key.startswith(("score.", "classifier.")) for key in missing):
        return "it has no trained head and would score at random: name a reward model"
    if any("lora_" in key for key in unexpected):
        return "they are an adapter's: merge it into its base model first"
    return None


def _some(keys: Iterable[str]) -> str:
    named = sorted(keys)
    more = f", … {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + more

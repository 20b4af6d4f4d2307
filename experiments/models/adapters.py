"""An adapter added into the weights for as long as a policy samples: decoding has no small products to wait for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from experiments.models.forward import Policy


@contextmanager
def merged(policy: Policy) -> Iterator[None]:
    """Afterwards the weights are what they were, to the bit: they are put back, not subtracted from."""
    if not policy.has_adapter:
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers: list[Any] = [module for module in policy.model.modules() if isinstance(module, BaseTunerLayer)]
    weights = [layer.get_base_layer().weight for layer in layers]
    kept = [weight.detach().clone() for weight in weights]
    policy.model.merge_adapter()
    try:
        yield
    finally:
        policy.model.unmerge_adapter()
        with torch.no_grad():
            for weight, before in zip(weights, kept, strict=True):
                weight.copy_(before)

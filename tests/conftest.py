"""Tests that are slow, need a network or need a GPU carry a marker, and are skipped with a reason unless asked for."""

import os

import pytest
import torch

ASKED = {
    "slow": ("ADVALIGN_SLOW" in os.environ, "minutes; set ADVALIGN_SLOW=1"),
    "network": ("ADVALIGN_NETWORK" in os.environ, "needs a hub or a package index; set ADVALIGN_NETWORK=1"),
    "gpu": (torch.cuda.is_available(), "needs a CUDA device"),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, (run, reason) in ASKED.items():
            if not run and item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=reason))

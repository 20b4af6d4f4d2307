"""Many experiments compared: from Python by what this module exports, from a shell by the commands beside it.

from benchmarks import ComparisonConfig, compare
results = compare(ComparisonConfig(methods=("dpo", "ganpo_dpo"), dataset="constraints", seeds=(0, 1, 2)))
results.difference("ganpo_dpo", "dpo", task="held_out")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.api import Results, compare, load_results
    from benchmarks.comparison.config import (
        ComparisonConfig,
        DataConfig,
        ExecutionConfig,
        OutputConfig,
        TrainingConfig,
    )
    from benchmarks.tuning.config import SearchConfig

__all__ = [
    "ComparisonConfig",
    "DataConfig",
    "ExecutionConfig",
    "OutputConfig",
    "Results",
    "SearchConfig",
    "TrainingConfig",
    "compare",
    "load_results",
]

_API = ("Results", "compare", "load_results")


def __getattr__(name: str) -> Any:
    """Each name is imported when it is asked for: importing this package loads neither torch nor pandas."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "api" if name in _API else "tuning.config" if name == "SearchConfig" else "comparison.config"
    return getattr(importlib.import_module(f"benchmarks.{module}"), name)

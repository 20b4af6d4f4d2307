"""The registry: cards of every method, model, data set and task, and how to look one up.

Imports nothing of ours, so that everything of ours may import it.
"""

from registry.cards import Card, Paper
from registry.catalogue import Catalogue, import_submodules, nearest
from registry.space import flatten, override, search_space, tunable

__all__ = [
    "Card",
    "Catalogue",
    "Paper",
    "flatten",
    "import_submodules",
    "nearest",
    "override",
    "search_space",
    "tunable",
]

"""Dotted settings, `ganpo_dpo.latent.weight` or `ifeval.temperature`, sorted to the methods and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """`Settings({"ganpo_dpo.latent.weight": 0.3}).of("ganpo_dpo")` is `{"latent.weight": 0.3}`."""

    values: Mapping[str, Any]

    def check(self, methods: Iterable[str], tasks: Iterable[str] = ()) -> None:
        """ValueError for a name that starts with none of the methods and tasks."""
        methods, tasks = list(methods), list(tasks)
        for name in self.values:
            if not any(name.startswith(f"{owner}.") for owner in (*methods, *tasks)):
                owners = "no method or task of this run" if tasks else "no method of this search"
                raise ValueError(f"{name} names {owners}; start with {' or '.join((*methods, *tasks))}")

    def of(self, owner: str) -> dict[str, Any]:
        """The settings of one method or task, by its dotted names."""
        prefix = f"{owner}."
        return {name.removeprefix(prefix): value for name, value in self.values.items() if name.startswith(prefix)}

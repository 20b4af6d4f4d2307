"""The ledger of judgements on disk: each is appended as soon as it arrives, so that none is bought twice.

Whoever judges holds the ledger's lock, so that two processes never buy the same judgement side by side.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.disk import writing
from registry.assets import locked


def ledger_key(*facts: str) -> str:
    """32 hexadecimal digits that name one judgement: judge, prompt and what was shown, in its order."""
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


class Ledger:
    """Lines `{"key": "…", …}` by key. A key that stands there twice keeps its first line: what was paid for counts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, dict[str, Any]] = {}
        self._writing = threading.Lock()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, path: Path) -> Iterator[Ledger]:
        """The ledger, locked among all processes of this machine for as long as the context lasts."""
        with locked(path.with_name(f"{path.name}.lock")):
            ledger = cls(path)
            ledger._read()
            yield ledger

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> dict[str, Any] | None:
        return self._entries.get(key)

    def add(self, key: str, **entry: Any) -> None:
        """Append one line and hand it to the operating system: a killed process loses nothing. Any thread may call."""
        line = json.dumps({"key": key} | entry) + "\n"
        with self._writing:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                remaining = line.encode()
                with writing(self.path, len(remaining)):
                    while remaining:
                        remaining = remaining[os.write(descriptor, remaining) :]
            finally:
                os.close(descriptor)
            self._entries.setdefault(key, {"key": key} | entry)

    def _read(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        for line in content.split(b"\n"):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                entry = json.loads(line)
                self._entries.setdefault(entry["key"], entry)
        if content and not content.endswith(b"\n"):  # killed while writing: what follows begins on a line of its own
            with self.path.open("ab") as file:
                file.write(b"\n")

"""A read-only mapping from name to entry, filled by the modules that own the entries."""

import contextlib
import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    @property
    def name(self) -> str: ...


Entry = TypeVar("Entry", bound=Named)


class Catalogue(Mapping[str, Entry], Generic[Entry]):
    """Entries by name, in alphabetical order; an unknown name raises KeyError with the nearest ones."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, entry: Entry) -> Entry:
        if entry.name in self._entries:
            raise ValueError(f"{self._kind} {entry.name!r} is registered twice")
        self._entries[entry.name] = entry
        return entry

    @contextlib.contextmanager
    def temporarily(self) -> Iterator[None]:
        """Forget at the end what was added inside: for trying an entry out."""
        kept = dict(self._entries)
        try:
            yield
        finally:
            self._entries = kept

    def __getitem__(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise KeyError(f"no {self._kind} {name!r}{nearest(name, self)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: `; did you mean dpo?`, or what is known when nothing is near."""
    names = list(known)
    close = difflib.get_close_matches(name, names)
    return f"; did you mean {' or '.join(close)}?" if close else f"; known: {', '.join(names)}"


def import_submodules(package: str) -> None:
    """Import every module of `package`, so that each adds its entries."""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")

"""Parts declare facts; nobody asks who they are.

Outside a part's own file, no code asks for a concrete part's class (`isinstance`, `issubclass`, `match`) and none
compares a name with that of a registered part, method or task.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.tasks import TASKS, load_tasks
from methods import METHODS, OBJECTIVES, REGULARIZERS
from tests import ROOT

load_tasks()
SPECS = [card.spec for entries in (OBJECTIVES, REGULARIZERS, TASKS) for card in entries.values()]
CLASSES = {type(spec).__name__ for spec in SPECS}
NAMES = {name for entries in (OBJECTIVES, REGULARIZERS, METHODS, TASKS) for name in entries}
QUESTIONS = ("isinstance", "issubclass")
PACKAGES = ("methods", "experiments", "benchmarks", "registry")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def asks(source: str, owned: frozenset[str] = frozenset()) -> Iterator[str]:
    """Each place where a source asks for a concrete class or compares a `name` with a registered one."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("isinstance", "issubclass")
        ):
            asked = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            asked |= {n.attr for n in ast.walk(node.args[1]) if isinstance(n, ast.Attribute)}
            yield from (f"line {node.lineno}: {node.func.id} of {name}" for name in asked & CLASSES - owned)
        if isinstance(node, ast.MatchClass) and isinstance(node.cls, ast.Name) and node.cls.id in CLASSES - owned:
            yield f"line {node.lineno}: matches {node.cls.id}"
        if isinstance(node, ast.Compare) and any(_is_name(side) for side in (node.left, *node.comparators)):
            constants = [
                n for side in (node.left, *node.comparators) for n in ast.walk(side) if isinstance(n, ast.Constant)
            ]
            named = {n.value for n in constants if isinstance(n.value, str)} & NAMES - owned
            yield from (f"line {node.lineno}: compares a name with {name!r}" for name in named)


def _is_name(node: ast.expr) -> bool:
    """`name`, `part.name`, `task_name`, `column.task`, `row.method`: what may hold a registered name."""
    text = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return text in ("name", "task", "method", "part") or text.endswith("_name")


def own(path: Path) -> frozenset[str]:
    """Classes and names that a file registers itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} & CLASSES
    return frozenset(classes | {spec.name for spec in SPECS if type(spec).__name__ in classes})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_asks_who_a_part_is(path):
    assert not list(asks(path.read_text(encoding="utf-8"), own(path)))


def test_the_rule_sees_what_it_forbids():
    forbidden = [
        "isinstance(part, GRPO | CHORD)",
        "isinstance(part, (methods.aapa.Anchor, int))",
        "issubclass(cls, DPO)",
        "part.name == 'latent'",
        "'held_out' != task.name",
        "column.task in ('alpaca_eval', 'ifeval')",
        "method_name == 'trl_dpo'",
        "match part:\n    case DPO(): pass",
    ]
    assert all(list(asks(source)) for source in forbidden)
    assert not list(asks("isinstance(part, Adversary) and kind == 'latent'"))
    assert not list(asks("part.name == 'latent'", frozenset({"latent"})))

"""What may import what: packages point downwards, each knows its own third parties, and no modules form a circle.

Every import statement counts, at the top of a file, inside a function and under TYPE_CHECKING.
"""

import ast
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests import ROOT

MAY_IMPORT = {
    "registry": set(),
    "methods": {"registry"},
    "experiments": {"registry", "methods"},
    "benchmarks": {"registry", "methods", "experiments"},
}
NUMBERS = {"numpy", "torch", "jaxtyping"}
# A dotted entry allows that module and not its package
THIRD_PARTIES = {
    "registry": {"optuna.distributions"},
    "methods": {"torch", "jaxtyping", "optuna.distributions"},
    "experiments": NUMBERS
    | {"transformers", "accelerate", "peft", "datasets", "trl", "mlflow", "optuna"}
    | {"if_verifiable", "langdetect", "nltk", "punkt"}
    | {"filelock", "gguf", "huggingface_hub", "jinja2", "psutil", "pyarrow", "rich", "safetensors", "tokenizers"},
    "benchmarks": NUMBERS
    | {"alpaca_eval", "lm_eval", "scipy", "jinja2", "statsmodels", "markupsafe", "pandas"}
    | {"if_verifiable", "accelerate", "filelock", "mlflow", "optuna", "ray", "rich", "transformers"},
}
FILES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]
by_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path) for path in FILES}


def imported(source: str) -> Iterator[str]:
    """Full names of the modules that a source imports; of `from a import b`, a.b where that is a module of ours."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, "relative imports hide which package a file reaches into"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def within(name: str, allowed: set[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


def package_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@by_file
def test_imports_point_downwards(path):
    ours = {name.split(".")[0] for name in imported(path.read_text())} & set(MAY_IMPORT)
    assert ours <= MAY_IMPORT[package_of(path)] | {package_of(path)}


@by_file
def test_a_package_knows_only_its_own_third_parties(path):
    allowed = THIRD_PARTIES[package_of(path)]
    foreign = {
        name
        for name in imported(path.read_text())
        if name.split(".")[0] not in sys.stdlib_module_names | set(MAY_IMPORT) and not within(name, allowed)
    }
    assert not foreign, f"{foreign} is not for {package_of(path)}: see THIRD_PARTIES in this file"


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module_name(path): {name for name in imported(path.read_text()) if name in MODULES} - {module_name(path)}
        for path in FILES
    }
    assert not cycle(graph)


def folder_of(module: str) -> str:
    """`benchmarks.results` of `benchmarks.results.tuned_methods`, and of the folder itself."""
    return module if (ROOT / Path(*module.split("."))).is_dir() else module.rpartition(".")[0]


def test_no_folders_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for path in FILES:
        own = folder_of(module_name(path))
        others = {folder_of(name) for name in imported(path.read_text()) if name in MODULES}
        graph.setdefault(own, set()).update(others - {own})
    assert not cycle(graph)


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in FILES}), ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_folder_reads_as_a_table_of_contents(folder):
    most = 30 if folder.name == "methods" else 18  # a paper a file, a task a file
    assert len(list(folder.glob("*.py"))) <= most, "more files than a reader takes in: a folder answers one question"


def test_options_are_read_by_commands_alone():
    """What runs below a command is given a configuration, so that notebooks, presets and Ray tasks can give one too."""
    reading = {path for path in FILES if "argparse" in path.read_text()}
    commands = {path for path in FILES if path.parent.name == "benchmarks" and "__main__" in path.read_text()}
    assert reading <= {*commands, ROOT / "benchmarks" / "options.py"}
    using = {path for path in FILES if {"benchmarks.options"} & set(imported(path.read_text()))}
    assert using <= commands


NAMES = ("metrics.jsonl", "manifest.json", "spec.json", "evaluations", "tuning.json", ".responses.jsonl")


@by_file
def test_one_module_knows_the_files_of_a_run(path):
    if path == ROOT / "experiments" / "run_folder.py":
        return
    texts = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    named = {text for text in texts if isinstance(text, str) and text.removesuffix("/") in NAMES}
    assert not named, f"{named}: ask experiments.run_folder for it"


def test_both_kinds_of_import_are_seen_wherever_they_stand():
    source = "import torch.nn as nn, scipy\ndef f():\n    from methods import types, resolve\n    import experiments"
    assert list(imported(source)) == ["torch.nn", "scipy", "methods.types", "methods", "experiments"]
    assert within("torch.nn", {"torch"})
    assert not within("torchvision", {"torch"})
    assert not within("optuna", {"optuna.distributions"})


def test_a_circle_is_found():
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    assert not cycle({"a": {"b"}, "b": {"c"}, "c": set()})

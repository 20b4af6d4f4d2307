"""`--list`: every entry of the registry, with its paper, and without the libraries that load models and data."""

import io
import subprocess
import sys

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from rich.console import Console

from benchmarks.comparison.listing import LISTINGS, listing, spell_range
from benchmarks.tasks import TASKS
from methods import METHODS
from registry.datasets import DATASETS
from registry.models import MODELS


def text(kind):
    console = Console(file=io.StringIO(), width=240)
    console.print(listing(kind))
    return console.file.getvalue()


@pytest.mark.parametrize("kind", LISTINGS)
def test_every_entry_is_listed_with_its_paper(kind):
    shown = text(kind)
    catalogue = {"methods": METHODS, "models": MODELS, "datasets": DATASETS, "tasks": TASKS}[kind]
    assert len(catalogue) > 1
    for entry in catalogue.values():
        assert entry.name in shown
        assert entry.paper.arxiv in shown


def rows(kind):
    """The lines of each entry, by its name."""
    found, name = {}, ""
    for line in text(kind).splitlines():
        name = line.split()[0] if line[2:3].strip() else name
        found.setdefault(name, []).append(line)
    return {name: "\n".join(lines) for name, lines in found.items()}


def test_methods_show_what_they_read_and_need_and_their_ranges():
    shown = rows("methods")
    assert "reads chosen, rejected" in shown["dpo"]
    assert "needs reference " in shown["dpo"]
    assert "5e-07" in shown["dpo"]
    assert "needs nothing" in shown["simpo"]
    assert "reference's hidden states; a network that learns (latent)" in shown["ganpo_dpo"]
    assert "learns" not in shown["ganpo_dpo_frozen"]
    assert "latent.weight: 0.01 to 10 (log)" in shown["ganpo_dpo"]


def test_models_show_size_and_what_must_be_accepted():
    lines = text("models").splitlines()
    llama = next(line for line in lines if line.split()[:1] == ["llama3_8b"])
    assert "8,030,261,248" in llama
    assert "gated" in llama
    smol = next(line for line in lines if line.split()[:1] == ["smollm2_135m"])
    assert "gated" not in smol
    assert "the default" in smol


def test_data_sets_show_what_they_contaminate():
    shown = next(line for line in text("datasets").splitlines() if line.split()[:1] == ["hh_rlhf"])
    assert "contaminates alpaca_eval" in shown
    assert "160,800" in shown


def test_tasks_show_their_settings():
    shown = text("tasks")
    assert "max_new_tokens = 1280" in shown
    assert "prompt_strict" in shown


def test_an_unknown_kind_suggests_the_nearest():
    with pytest.raises(KeyError, match="'method'; did you mean methods"):
        listing("method")


@pytest.mark.parametrize(
    ("distribution", "spelled"),
    [
        (FloatDistribution(1e-7, 1e-3, log=True), "1e-07 to 0.001 (log)"),
        (IntDistribution(2, 8, step=2), "2 to 8 in steps of 2"),
        (CategoricalDistribution(["mlp", "mse"]), "mlp | mse"),
    ],
)
def test_a_range_is_spelled(distribution, spelled):
    assert spell_range(distribution) == spelled


def test_no_listing_imports_what_loads_models_data_or_tracking():
    program = (
        "import sys; from benchmarks.comparison.listing import LISTINGS, listing\n"
        "for kind in LISTINGS: listing(kind)\n"
        "print(sorted({'transformers', 'mlflow', 'datasets'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"

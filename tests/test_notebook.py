"""The notebook in docs/ is kept without outputs, and each of its cells runs in order on a tiny model."""

import json

import pytest

from tests import ROOT
from tests.tiny import save_tiny

NOTEBOOK = ROOT / "docs" / "comparing.ipynb"


@pytest.fixture
def cells():
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def test_it_is_committed_without_outputs(cells):
    assert cells
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)


def test_every_cell_runs_on_a_tiny_model(cells, tmp_path, capsys):
    values = {}
    given = {
        "MODEL": str(save_tiny("llama3", tmp_path / "model")),
        "OUT": str(tmp_path / "out"),
        "TRAINING": {"max_steps": 1, "batch_size": 4, "lora_rank": 4},
        "MAX_LENGTH": 96,
    }
    for cell in cells:
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}: {cell['id']}", "exec"), values)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert given.keys() <= values.keys(), "the cell of parameters names what the test replaces"
            values |= given
    assert len(values["same"].runs) == 7, "two methods at three seeds, and the untrained model"
    assert set(values["items"]["method"]) == {"base", "dpo", "ganpo_dpo"}
    assert "p = " in capsys.readouterr().out
    assert "<html" in (tmp_path / "out" / "comparison.html").read_text()

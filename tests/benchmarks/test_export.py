"""What a run leaves can be used elsewhere: loaded in a fresh process, it gives the log-probs that it was trained to."""

import json
import os
import re
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from benchmarks import export, run
from benchmarks.comparison.comparison import resolve
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.comparison.grid import Grid
from benchmarks.comparison.progress import Progress
from benchmarks.options import parser, read_config
from experiments.models.loading import load_tokenizer
from experiments.models.portable import base_of
from experiments.models.weights import MARK, ResolvedModel
from experiments.runs.cell import trained
from registry.models import MODELS
from tests.benchmarks.test_run import QUICK, write_pairs
from tests.tiny import save_tiny

MESSAGES = [
    {"role": "user", "content": "Tell me 7 facts about rain."},
    {"role": "assistant", "content": "Rain is wet."},
]
LOG_PROBS = """
import json, sys, torch
ids = tokenizer.apply_chat_template({messages}, return_dict=False, return_tensors="pt")
with torch.no_grad():
    logits = model(ids).logits.float()
logps = logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
print(json.dumps({{"dtype": str(model.dtype), "logps": logps.tolist()}}))
"""


@pytest.fixture(scope="module", params=["lora", "full"])
def finished(request, tmp_path_factory):
    """The output folder of a comparison, the cell of its method, and log-probs as its policy gives them."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny("llama3", folder / "model", 0)
    words = ["--model", folder / "model", "--dataset", write_pairs(folder / "pairs.jsonl"), "--out", folder / "out"]
    words += ["--methods", "ganpo_dpo", "--set", "ganpo_dpo.lr=3e-2", "--tracking-uri", "none", *QUICK]
    words = [*map(str, words), *(["--full"] if request.param == "full" else [])]
    assert run.main(words) == 0
    config = read_config(ComparisonConfig, parser(), words)
    cell = Grid(resolve(config), Accelerator(), None, Progress()).cells()[1]
    policy, tokenizer = trained(cell, torch.device("cpu")), load_tokenizer(str(folder / "model"))
    ids = tokenizer.apply_chat_template(MESSAGES, return_dict=False, return_tensors="pt")
    with torch.no_grad():
        logps = policy.model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    return folder, cell, logps


def as_the_card_says(card, cwd):
    """The card's own code, in a fresh process that knows nothing of this repository."""
    (code,) = re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)
    assert 'folder = "."' in code
    code = code.replace('folder = "."', f"folder = {str(card.parent)!r}") + LOG_PROBS.format(messages=MESSAGES)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    return found["dtype"], torch.tensor(found["logps"])


def test_the_saved_policy_loads_as_its_card_says(finished):
    folder, cell, expected = finished
    dtype, found = as_the_card_says(cell.folder / "policy" / "README.md", folder)
    assert dtype == "torch.float32"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_the_full_model_loads_as_its_card_says_and_needs_no_base(finished, dtype, tolerance, tmp_path, capsys):
    folder, cell, expected = finished
    words = [cell.experiment.id, "--out", str(folder / "out"), "--model", str(folder / "model")]
    assert export.main([*words, "--merge", str(tmp_path / "merged"), "--dtype", dtype]) == 0, capsys.readouterr().err
    found_dtype, found = as_the_card_says(tmp_path / "merged" / "README.md", tmp_path)
    assert found_dtype == f"torch.{dtype}"
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
    weights = load_file(tmp_path / "merged" / "model.safetensors")
    assert not [name for name in weights if "lora" in name]
    assert export.main([*words, "--merge", str(tmp_path / "merged")]) == 2
    assert "is not empty; name a new folder" in capsys.readouterr().err


def test_nothing_that_is_exported_names_a_path_of_this_machine(finished, tmp_path):
    folder, cell, _ = finished
    words = [str(cell.folder), "--model", str(folder / "model"), "--merge", str(tmp_path / "merged")]
    assert export.main(words) == 0
    for path in (*(cell.folder / "policy").iterdir(), *(tmp_path / "merged").iterdir()):
        assert str(folder.parent).encode() not in path.read_bytes(), path
    adapter = cell.folder / "policy" / "adapter_config.json"
    if adapter.is_file():
        assert json.loads(adapter.read_text())["base_model_name_or_path"] == "model"


def test_the_card_says_how_it_was_made_and_what_was_measured(finished):
    _, cell, _ = finished
    card = (cell.folder / "policy" / "README.md").read_text()
    for words in (
        "trained by ganpo_dpo on pairs",
        "arxiv.org/abs/2601.22083",
        "| `latent.weight` | `1.0` |",
        "| `lr` | `0.03` |",
        "| seed | 0 |",
        f"`{cell.experiment.data['tokens']}`",
        f"| run | `{cell.experiment.id}`",
    ):
        assert words in card, words
    (row,) = re.findall(r"^\| held_out \| average log-prob \| (.*) \|$", card, re.MULTILINE)
    ours, untrained, items = row.split(" | ")
    assert re.fullmatch(r"[\d.]+ \[[\d.]+, [\d.]+\] %", ours)
    assert untrained != "–"
    assert int(items) == cell.experiment.data["num_held_out"]


def test_what_cannot_be_exported_is_refused_in_a_line(finished, tmp_path, capsys):
    folder, cell, _ = finished
    out = ["--out", str(folder / "out")]
    base = next(path.name for path in (folder / "out" / "runs").glob("*") if path.is_dir() and path != cell.folder)
    for words, told in (
        ([cell.experiment.id[:-1] + "x"], f"did you mean {cell.experiment.id}"),
        ([base], "is the untrained model"),
    ):
        assert export.main([*words, *out]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert len(error.splitlines()) == 1
    if cell.experiment.training.lora_rank is not None:
        other = save_tiny("llama3", tmp_path / "other", 1)
        words = [cell.experiment.id, *out, "--model", str(other), "--merge", str(tmp_path / "merged")]
        assert export.main(words) == 2
        assert "give the right model with --model" in capsys.readouterr().err


def test_a_base_model_has_the_hubs_name_and_revision_and_says_if_it_was_dequantised(tmp_path):
    preset, commit = MODELS["smollm2_135m"], "0123456789abcdef0123456789abcdef01234567"
    converted, snapshot = tmp_path / "smollm2_135m", tmp_path / "snapshots" / commit
    for folder in (converted, snapshot):
        folder.mkdir(parents=True)
    (converted / MARK).write_text("{}")
    made = base_of(ResolvedModel(name=preset.name, folder=converted, origin="cache", preset=preset))
    assert (made.name, made.revision, made.dequantised) == ("HuggingFaceTB/SmolLM2-135M-Instruct", None, True)
    made = base_of(ResolvedModel(name=preset.name, folder=snapshot, origin="cache", preset=preset))
    assert (made.name, made.revision, made.dequantised) == (preset.hub, commit, False)
    made = base_of(ResolvedModel(name="owner/name", folder=snapshot, origin="hub"))
    assert (made.name, made.on_hub, made.revision) == ("owner/name", True, commit)
    made = base_of(ResolvedModel(name="smollm2_135m+dpo-1", folder=tmp_path, origin="path", preset=preset))
    assert not made.on_hub, "what another run has made is on no hub"

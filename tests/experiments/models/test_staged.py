"""A run that starts where another ended: what the next stage takes for its untrained model."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.models.forward import Policy, score
from experiments.models.loading import load_model, load_tokenizer, quiet_transformers, resolve_model, weights_hash
from experiments.models.staged import staged_model
from tests.experiments.training.toy_rows import rows
from tests.subjects import write_spec
from tests.tiny import save_tiny


@pytest.fixture
def base(tmp_path):
    return resolve_model(save_tiny("llama3", tmp_path / "base"))


def finished_run(folder, base, *, lora):
    """A run's folder as the trainer leaves it, and what its policy makes of some rows."""
    policy = Policy(load_model(base), lora_rank=lora)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    folder.mkdir(parents=True)
    with quiet_transformers():
        policy.model.save_pretrained(folder / "policy")
    write_spec(folder, "sft", model=base.name, weights=weights_hash(base.folder))
    (folder / "manifest.json").write_text(json.dumps({"status": "finished"}))
    return [entry["chosen"] for entry in score(policy, rows(3), ["chosen"])]


@pytest.mark.parametrize("lora", [4, None], ids=["lora", "full"])
def test_the_next_stage_starts_where_the_run_ended_with_its_adapter_off(tmp_path, base, lora):
    run = tmp_path / "runs" / "abc"
    ended = finished_run(run, base, lora=lora)
    staged = staged_model(run, base)
    policy = Policy(load_model(staged), lora_rank=4)
    with policy.adapter_disabled():
        began = [entry["chosen"] for entry in score(policy, rows(3), ["chosen"])]
    assert all(abs(a - b).max() < 1e-4 for a, b in zip(began, ended, strict=True))
    assert weights_hash(staged.folder) != weights_hash(base.folder)
    assert load_tokenizer(staged).get_vocab() == load_tokenizer(base).get_vocab()
    assert "sft" in staged.name


def test_an_adapter_is_merged_once_and_again_when_it_has_changed(tmp_path, base):
    run = tmp_path / "runs" / "abc"
    finished_run(run, base, lora=4)
    first = staged_model(run, base).folder / "model.safetensors"
    made, identity = first.stat().st_mtime_ns, weights_hash(first.parent)
    staged_model(run, base)
    assert first.stat().st_mtime_ns == made
    adapter = run / "policy" / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(adapter).items()}, adapter)
    staged_model(run, base)
    assert weights_hash(first.parent) != identity


def test_what_cannot_be_started_from_is_refused(tmp_path, base):
    run = tmp_path / "runs" / "abc"
    with pytest.raises(ValueError, match="no finished run"):
        staged_model(run, base)
    finished_run(run, base, lora=4)
    other = resolve_model(save_tiny("llama3", tmp_path / "other", seed=5))
    with pytest.raises(ValueError, match="give the same --model"):
        staged_model(run, other)

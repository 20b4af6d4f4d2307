"""Weights that do not fit, damaged files and families that cannot be run end in a sentence, never in random numbers."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from experiments.models.forward import Policy
from experiments.models.loading import load_model, model_config, quiet_transformers, resolve_model
from experiments.rewards.reward_models import reward_model
from registry.families import REFUSED
from tests.tiny import SMALL, save_tiny, tiny_model, tiny_tokenizer

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return save_tiny("llama3", tmp_path_factory.mktemp("sound") / "llama")


def changed(sound, folder, change):
    """A copy of the folder whose tensors went through `change`."""
    shutil.copytree(sound, folder)
    save_file(change(load_file(sound / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def without(*names):
    return lambda tensors: {key: value for key, value in tensors.items() if not any(name in key for name in names)}


def prefixed(prefix):
    return lambda tensors: {prefix + key: value for key, value in tensors.items()}


def with_one(name, value):
    return lambda tensors: tensors | {name: value}


def untied(tensors):
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("layers.1."), r"9 missing \(model\.layers\.1\.input_layernorm\.weight.*, … 6 more\)"),
        (without("model.norm"), r"1 missing \(model\.norm\.weight\)"),
        (without("lm_head"), r"1 missing \(lm_head\.weight\)"),
        (prefixed("module."), r"without the prefix 'module\.' \d+ would fit"),
        (prefixed("policy."), r"without the prefix 'policy\.' \d+ would fit"),
        (prefixed("base_model.model."), r"without the prefix 'base_model\.model\.' \d+ would fit"),
        (with_one("score.weight", torch.zeros(1, 32)), r"1 unexpected \(score\.weight\); they are a reward model's"),
        (with_one("v_head.summary.weight", torch.zeros(1, 32)), r"v_head.*a critic's"),
        (with_one("model.layers.2.mlp.up_proj.weight", torch.zeros(64, 32)), r"1 unexpected \(model\.layers\.2"),
        (with_one("model.norm.weight", torch.zeros(33)), r"norm\.weight has the shape \(33,\) instead of \(32,\)"),
        (with_one("model.norm.weight", torch.full((32,), torch.nan)), r"NaN or infinite: model\.norm\.weight"),
        (with_one("model.norm.weight", torch.full((32,), torch.inf)), r"NaN or infinite: model\.norm\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_their_names(change, said, sound, tmp_path):
    folder = changed(sound, tmp_path / "bad", change)
    with pytest.raises(ValueError, match=said) as refused:
        load_model(folder)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tied_head_is_no_missing_key(tmp_path):
    folder = save_tiny("gemma2", tmp_path / "tied")
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)
    load_model(folder)


def test_buffers_of_old_files_are_left_out_and_a_large_sum_is_no_infinity(sound, tmp_path):
    old = with_one("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(4))
    load_model(changed(sound, tmp_path / "old", old))
    large = with_one("model.norm.weight", torch.full((32,), 3e38))
    assert load_model(changed(sound, tmp_path / "large", large)).model.norm.weight[0].item() == pytest.approx(3e38)


def test_a_reward_models_checkpoint_is_no_policy(sound, tmp_path):
    config = AutoConfig.from_pretrained(sound, num_labels=1)
    with quiet_transformers():
        AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "rm")
    tiny_tokenizer("llama3").save_pretrained(tmp_path / "rm")
    with pytest.raises(ValueError, match=r"lm_head\.weight.*score\.weight.*reward model's"):
        load_model(tmp_path / "rm")


def pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.write_bytes(b""), r"is empty \(0 bytes\)"),
        (lambda file: file.write_bytes(b"abc"), r"is cut off \(3 bytes\)"),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), r"is cut off at 5,000 bytes"),
        (lambda file: file.write_bytes(file.read_bytes()[:-1]), "is cut off at"),
        (lambda file: file.write_bytes(b"\x08\0\0\0\0\0\0\0no json!"), "is no safetensors file"),
        (pointer, "is a pointer of Git LFS, not the weights; fetch them with: git lfs pull"),
    ],
)
def test_a_damaged_file_is_named_before_anything_is_loaded(harm, said, sound, tmp_path):
    folder = tmp_path / "harmed"
    shutil.copytree(sound, folder)
    harm(folder / WEIGHTS)
    with pytest.raises(ValueError, match=rf"model\.safetensors {said}"):
        resolve_model(folder)


def test_a_shard_is_looked_at_too(sound, tmp_path):
    folder = tmp_path / "shards"
    with quiet_transformers():
        tiny_model("llama3").save_pretrained(folder, max_shard_size="60KB")
    resolve_model(folder)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    pointer(shards[-1])
    with pytest.raises(ValueError, match=f"{shards[-1].name} is a pointer"):
        resolve_model(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')
    with pytest.raises(ValueError, match=r"index\.json cannot be read"):
        resolve_model(folder)


def test_pickled_weights_are_refused(sound, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(sound, folder)
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ValueError, match="pickled weights are never loaded"):
        resolve_model(folder)


def rewritten(sound, folder, **values):
    shutil.copytree(sound, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "mxfp4"])
def test_quantised_weights_are_refused_with_or_without_their_library(method, sound, tmp_path):
    folder = rewritten(sound, tmp_path / "q", quantization_config={"quant_method": method, "bits": 4})
    for read in (model_config, load_model):
        with pytest.raises(ValueError, match=f"quantised by {method}.*give the model from which it was quantised"):
            read(folder)


@pytest.mark.parametrize("model_type", REFUSED)
def test_a_family_that_cannot_be_run_is_refused_by_its_configuration(model_type, tmp_path):
    AutoConfig.for_model(model_type).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{re.escape(REFUSED[model_type])}"):
        model_config(tmp_path)


def test_an_unknown_encoder_decoder_is_refused_too(tmp_path):
    AutoConfig.for_model("pegasus").save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="pegasus model, which cannot be trained here: it has an encoder and a decoder"
    ):
        model_config(tmp_path)


@pytest.mark.parametrize("model_type", ["gptj", "phi"])
def test_a_bias_of_the_head_is_refused_though_it_is_zero(model_type):
    own = {"rotary_dim": 4} if model_type == "gptj" else {}
    ids = {"vocab_size": 60, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SMALL | ids | own))
    with pytest.raises(ValueError, match=r"ForCausalLM cannot be trained here: its head adds a bias"):
        Policy(model)


def test_a_model_that_breaks_in_the_probe_is_refused_in_a_sentence(monkeypatch):
    model = tiny_model("llama3")
    monkeypatch.setattr(type(model.model), "forward", lambda self, **_: {"no": "states"})
    with pytest.raises(ValueError, match=r"LlamaForCausalLM cannot be run through its backbone and its head alone \("):
        Policy(model)


def test_a_rank_above_the_width_of_the_layers_is_refused():
    Policy(tiny_model("llama3"), lora_rank=32)
    with pytest.raises(ValueError, match=r"rank 33 is wider than the layers of LlamaForCausalLM \(32\)"):
        Policy(tiny_model("llama3"), lora_rank=33)


def scorer(folder):
    policy = Policy(tiny_model("llama3"))
    return reward_model(str(folder), policy=policy, policy_tokenizer=tiny_tokenizer("llama3"), seed=0, max_length=64)


def test_an_encoder_may_lack_its_head_and_nothing_else(sound, tmp_path):
    assert torch.isfinite(scorer(sound).encoder.score.weight).all()
    for number, change in enumerate((without("layers.1."), prefixed("module."))):
        folder = changed(sound, tmp_path / str(number), change)
        with pytest.raises(ValueError, match=r"do not fit LlamaForSequenceClassification: \d+ missing"):
            scorer(folder)

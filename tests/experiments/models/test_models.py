"""A model by name: found in the promised order, loaded exactly, never half written, never unpickled."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch

from experiments.models import weights
from experiments.models.loading import (
    load_model,
    load_tokenizer,
    meta_model,
    num_parameters,
    quiet_transformers,
    resolve_model,
    weights_hash,
)
from registry import Catalogue, Paper
from registry.assets import AssetError, file_sha256
from registry.models import MODELS, ModelPreset
from tests import ROOT
from tests.hub import local_hub
from tests.packages import asset_of, make_wheel
from tests.tiny import FAMILIES, save_tiny, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def without_a_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def llama(tmp_path):
    return save_tiny("llama3", tmp_path / "my-llama")


@pytest.mark.parametrize("preset", MODELS.values(), ids=list(MODELS))
def test_the_written_architecture_has_the_published_number_of_parameters(preset):
    model = meta_model(preset.name)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert num_parameters(model) == pytest.approx(preset.num_parameters, rel=0.01)


@pytest.mark.parametrize(("name", "published"), [("llama3_8b", 8_030_261_248), ("qwen3_0_6b", 596_049_920)])
def test_tied_embeddings_count_once_and_untied_ones_twice(name, published):
    assert num_parameters(meta_model(name)) == published


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_loads_in_float32_without_dropout(family, tmp_path):
    folder = save_tiny(family, tmp_path / family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.3}))
    model, saved = load_model(folder), tiny_model(family).state_dict()
    assert not model.training
    assert model.config.attention_dropout == 0.0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_has_a_tokenizer_with_a_chat_template_and_a_pad_token(family, tmp_path):
    tokenizer = load_tokenizer(save_tiny(family, tmp_path / family))
    assert len(tokenizer) <= 600
    assert tokenizer.pad_token_id is not None
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Grüße 漢"}], tokenize=False)
    assert "Grüße 漢" in text
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_gemma_caps_its_attention_which_sdpa_cannot(tmp_path):
    model = load_model(save_tiny("gemma2", tmp_path))
    assert model.config.attn_logit_softcapping == 50.0
    assert model.config._attn_implementation == "eager"


def test_a_folder_is_filed_under_its_name(llama):
    resolved = resolve_model(str(llama))
    assert (resolved.name, resolved.folder, resolved.origin) == ("my-llama", llama, "path")
    assert num_parameters(meta_model(llama)) == num_parameters(load_model(resolved))


def test_a_hub_id_of_a_preset_is_the_preset():
    preset = MODELS["llama3_8b"]
    with pytest.raises(AssetError, match=r"llama3_8b .*accept its licence.*hf auth login.*--model FOLDER"):
        resolve_model(preset.hub)


def test_a_typo_suggests_the_nearest_name():
    with pytest.raises(KeyError, match="did you mean smollm2_135m"):
        resolve_model("smollm_135m")
    with pytest.raises(KeyError, match="did you mean llama3_8b"):
        meta_model("llama_8b")


def test_an_unknown_hub_id_without_a_hub_says_what_to_do():
    with pytest.raises(AssetError, match=r"nobody/nothing .*make the hub reachable.*--model FOLDER"):
        resolve_model("nobody/nothing")
    with pytest.raises(AssetError, match="nobody/nothing"):
        meta_model("nobody/nothing")


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", Path("nowhere")])
def test_a_path_that_is_not_there_is_named(path):
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        resolve_model(path)


def test_folders_without_a_model_say_why(llama):
    (llama / "model.safetensors").rename(llama / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled weights are never loaded"):
        load_model(llama)
    with pytest.raises(ValueError, match="is a file"):
        resolve_model(llama / "config.json")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lacks model-00001-of-00002"):
        resolve_model(llama)
    (llama / "config.json").rename(llama / "adapter_config.json")
    with pytest.raises(ValueError, match="LoRA adapter"):
        resolve_model(llama)


def test_the_hash_follows_the_weights_and_nothing_else(llama, tmp_path):
    before = weights_hash(llama, cache=tmp_path / "cache")
    (llama / "generation_config.json").unlink()
    assert weights_hash(llama, cache=tmp_path / "cache") == before
    assert weights_hash(save_tiny("llama3", tmp_path / "same"), cache=tmp_path / "cache") == before
    assert weights_hash(save_tiny("llama3", llama, seed=1), cache=tmp_path / "cache") != before
    with pytest.raises(ValueError, match="no weights to hash"):
        weights_hash(tmp_path)


def test_loading_restores_the_users_logging(llama):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet_transformers():
        assert logging.get_verbosity() == logging.ERROR
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


# From here on: a tiny Llama as a package carries it, quantised to nothing (F32), so that conversion must be exact.


def write_gguf(path: Path) -> None:
    """The tiny Llama as llama.cpp writes it, with the rows of q and k in its order of rotary pairs."""
    model, tokenizer = tiny_model("llama3"), tiny_tokenizer("llama3")
    config, bpe = model.config, json.loads(tokenizer.backend_tokenizer.to_str())
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(bpe["model"]["vocab"], key=bpe["model"]["vocab"].__getitem__))
    special = set(tokenizer.get_added_vocab().values())
    types = [gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL for i in range(config.vocab_size)]
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(merge) for merge in bpe["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:
            tensor = tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A preset whose weights come in a package, alone in the catalogue; pip's only index has that package."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    write_gguf(tmp_path / "tiny.gguf")
    archive = make_wheel(index, "tiny-llama", "1", {"tiny_llama/tiny.gguf": (tmp_path / "tiny.gguf").read_bytes()})
    asset = asset_of(archive, "tiny-llama", "1", "tiny_llama/tiny.gguf", file_sha256(tmp_path / "tiny.gguf"))
    preset = ModelPreset(
        name="tiny_llama",
        hub="owner/tiny-llama",
        num_parameters=1,
        licence="MIT",
        config={},
        paper=Paper(title="None", arxiv="0000.00000", year=2025),
        package=asset,
    )
    catalogue = Catalogue("model")
    catalogue.add(preset)
    monkeypatch.setattr(weights, "MODELS", catalogue)
    return preset


def test_a_packaged_model_is_converted_exactly_and_once(packaged, tmp_path, capfd):
    cache = tmp_path / "cache"
    first = resolve_model("tiny_llama", cache=cache)
    assert first.origin == "package"
    assert not any(capfd.readouterr())
    original = tiny_model("llama3").state_dict()
    converted = load_model(first).state_dict()
    assert converted.keys() == original.keys()
    assert all(torch.equal(tensor, original[name]) for name, tensor in converted.items())
    tokenizer = load_tokenizer(first)
    assert tokenizer.chat_template == tiny_tokenizer("llama3").chat_template
    text = "What is the capital?<|eot_id|>"
    expected = tiny_tokenizer("llama3")(text, add_special_tokens=False).input_ids
    assert tokenizer(text, add_special_tokens=False).input_ids == expected

    again = resolve_model("tiny_llama", cache=cache)
    assert (again.origin, again.folder) == ("cache", first.folder)
    assert sorted(path.name for path in (cache / "models").iterdir()) == ["tiny_llama", "tiny_llama.lock"]


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "complete.json"])
def test_a_damaged_conversion_is_made_again(packaged, tmp_path, file):
    cache = tmp_path / "cache"
    folder = resolve_model("tiny_llama", cache=cache).folder
    good = (folder / file).read_bytes()
    (folder / file).write_bytes(good[: len(good) // 2])
    (cache / "models" / ".tiny_llama-killed").mkdir()
    assert resolve_model("tiny_llama", cache=cache).origin == "package"
    assert (folder / file).read_bytes() == good
    assert not (cache / "models" / ".tiny_llama-killed").exists()


def test_another_package_replaces_an_older_conversion(packaged, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    resolve_model("tiny_llama", cache=cache)
    newer = Catalogue("model")
    newer.add(dataclasses.replace(packaged, package=dataclasses.replace(packaged.package, sha256="0" * 64)))
    monkeypatch.setattr(weights, "MODELS", newer)
    with pytest.raises(AssetError, match="another sha-256"):
        resolve_model("tiny_llama", cache=cache)


RESOLVE = """
import logging, pathlib
logging.basicConfig(level="INFO")
from registry import Paper
from registry.assets import AssetError, PackageAsset
from registry.models import MODELS, ModelPreset
from experiments.models.loading import resolve_model
preset, cache, names = PRESET, pathlib.Path(CACHE), NAMES
MODELS.add(preset)
for name in names:
    try:
        print(resolve_model(name, cache=cache).origin)
    except AssetError as error:
        print(error)
"""


def start(preset, cache, names, **environment):
    values = {"PRESET": preset, "CACHE": str(cache), "NAMES": names}
    code = RESOLVE
    for name, value in values.items():
        code = code.replace(name, repr(value), 1)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_convert_once(packaged, tmp_path):
    running = [start(packaged, tmp_path / "cache", ["tiny_llama"]) for _ in range(2)]
    results = [process.communicate(timeout=300) for process in running]
    assert [out.strip() for out, _ in results] == ["package", "package"], results
    assert sum(err.count("converting") for _, err in results) == 1


def test_the_hub_comes_before_the_package_and_the_cache_before_the_hub(packaged, llama, tmp_path):
    environment = {"HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    with local_hub({"owner/tiny-llama": llama}, gated=("owner/gated",)) as endpoint:
        names = ["tiny_llama", "tiny_llama", "owner/gated", "owner/none"]
        process = start(packaged, tmp_path / "cache", names, HF_ENDPOINT=endpoint, **environment)
        out, err = process.communicate(timeout=120)
    origins = out.splitlines()
    assert origins[:2] == ["hub", "cache"], err
    assert "owner/gated is gated" in origins[2]
    assert "accept its licence" in origins[2]
    assert "the hub has no owner/none" in origins[3]


def test_a_revision_of_the_hub_is_pinned_and_named(llama, monkeypatch):
    asked = []

    def snapshot(repo_id, *, revision=None, **_):
        asked.append((repo_id, revision))
        return str(llama)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    resolved = resolve_model("owner/name@v1.0")
    assert (resolved.name, resolved.folder) == ("owner/name@v1.0", llama)
    resolve_model("owner/name")
    assert asked == [("owner/name", "v1.0"), ("owner/name", None)]


def test_a_revision_without_a_hub_says_what_to_do():
    with pytest.raises(
        AssetError, match=r"owner/name@v1\.0 cannot be had: .*the hub may not be asked or does not answer"
    ):
        resolve_model("owner/name@v1.0")

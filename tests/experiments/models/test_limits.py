"""What is asked of a model is compared with its vocabulary, its positions and its width before anything is trained."""

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from experiments.models.limits import check_limits, context_of
from experiments.models.loading import quiet_transformers, resolve_model
from tests.tiny import SMALL, save_tiny, tiny_tokenizer

ASKED = {"data": None, "max_length": 64, "lora_rank": 8}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny("llama3", tmp_path_factory.mktemp("limits") / "llama")


def saved(folder, model_type, **own):
    ids = {"vocab_size": len(tiny_tokenizer("llama3")), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with quiet_transformers():
        AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SMALL | ids | own)).save_pretrained(folder)
        tiny_tokenizer("llama3").save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("model_type", "own"),
    [
        ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
        ("gpt_neo", {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}),
    ],
)
def test_a_table_of_positions_bounds_max_length(model_type, own, tmp_path):
    folder = saved(tmp_path / model_type, model_type, **own)
    assert check_limits(folder, tokenizer=None, **ASKED | {"max_length": 512}) == []
    with pytest.raises(
        ValueError, match=r"--max-length 513 is more than the 512 positions that .* give --max-length 512"
    ):
        check_limits(folder, tokenizer=None, **ASKED | {"max_length": 513})


def test_a_rotary_model_may_go_beyond_its_context_and_the_plan_says_so(llama):
    (note,) = check_limits(llama, tokenizer=None, **ASKED | {"max_length": 513})
    assert "--max-length 513 is beyond the 512 positions" in note
    assert check_limits(llama, tokenizer=None, **ASKED) == []


def test_a_response_that_the_context_cannot_hold_is_refused_before_training(llama):
    assert check_limits(llama, tokenizer=None, **ASKED, new_tokens=511) == []
    with pytest.raises(ValueError, match="512 tokens and its prompt do not fit into the 512 positions"):
        check_limits(llama, tokenizer=None, **ASKED, new_tokens=512)


def test_a_rank_above_the_width_is_refused(llama):
    with pytest.raises(ValueError, match=r"--lora 33 is wider than the layers of llama \(32\); give at most 32"):
        check_limits(resolve_model(llama), tokenizer=None, **ASKED | {"lora_rank": 33})


def test_embeddings_smaller_than_the_vocabulary_are_refused(tmp_path):
    folder = saved(tmp_path / "few", "llama", vocab_size=100)
    with pytest.raises(
        ValueError, match=r"tokenizer of .* has the token .* \(id \d+\), and the model has embeddings for 100"
    ):
        check_limits(folder, tokenizer=tiny_tokenizer("llama3"), **ASKED)


def test_a_token_that_nothing_uses_may_lie_beyond_the_embeddings(llama):
    """Gemma 3's image token does."""
    tokenizer = tiny_tokenizer("llama3")
    assert tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]}) == 1
    check_limits(llama, tokenizer=tokenizer, **ASKED)


def test_the_context_of_gpt2_has_another_name():
    assert context_of(AutoConfig.for_model("gpt2", n_positions=77)) == 77
    assert context_of(AutoConfig.for_model("bloom")) is None

"""What options mean before anything is trained."""

import pytest

from benchmarks.cli import Overrides, parser
from benchmarks.comparison import _limited, method_of, settle, unique
from tests.tiny import save_tiny


def test_a_limit_of_new_tokens_holds_for_samples_and_never_lengthens_them():
    grpo = method_of("grpo", "smollm2_135m", Overrides({}))
    assert _limited(grpo, 64).sampling.max_new_tokens == 64
    assert _limited(grpo, 10_000) == grpo
    assert _limited(grpo, None) == grpo


def test_a_limit_of_new_tokens_leaves_an_offline_method_as_it_is():
    dpo = method_of("dpo", "smollm2_135m", Overrides({}))
    assert _limited(dpo, 64) == dpo


def test_the_adversary_learns_at_half_the_policys_rate_unless_it_is_given():
    assert method_of("ganpo_dpo", "smollm2_135m", Overrides({"ganpo_dpo.lr": "1e-4"})).regularizers[0].lr == 5e-5
    given = Overrides({"ganpo_dpo.lr": "1e-4", "ganpo_dpo.latent.lr": "1e-6"})
    assert method_of("ganpo_dpo", "smollm2_135m", given).regularizers[0].lr == 1e-6


def test_an_empty_list_of_names_is_refused():
    with pytest.raises(ValueError, match="empty"):
        unique(" , ")


def test_no_held_out_pairs_are_noticed_before_anything_is_trained(tmp_path):
    words = [
        "--model",
        str(save_tiny("llama3", tmp_path / "model")),
        "--dataset",
        "constraints",
        "--max-pairs",
        "4",
        "--methods",
        "dpo",
    ]
    with pytest.raises(ValueError, match="no held-out pairs"):
        settle(parser().parse_args([*words, "--held-out-pairs", "0", "--tasks", "held_out"]))


def test_a_run_to_start_from_must_be_finished(tmp_path):
    words = ["--model", str(save_tiny("llama3", tmp_path / "model")), "--dataset", "constraints", "--methods", "dpo"]
    with pytest.raises(ValueError, match="no finished run"):
        settle(parser().parse_args([*words, "--init-from", "abc", "--out", str(tmp_path)]))

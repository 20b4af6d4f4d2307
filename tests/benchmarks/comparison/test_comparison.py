"""What options mean before anything is trained."""

import dataclasses
import json

import pytest

from benchmarks.comparison.comparison import _limited, check_roles, method_of, resolve, task_of
from benchmarks.comparison.config import ComparisonConfig, DataConfig
from benchmarks.comparison.settings import Settings
from benchmarks.options import config_of, parser, search_parser, words_of
from benchmarks.results import learning_rates
from benchmarks.results.learning_rates import PAPER, SWEPT, Rate, usual_rate
from benchmarks.tuning.config import SearchConfig
from experiments.data.tokens import prepare
from methods import METHODS, OBJECTIVES, REGULARIZERS
from methods import resolve as card_of
from registry import override
from registry.models import MODELS
from tests.tiny import save_tiny, tiny_tokenizer


def test_a_limit_of_new_tokens_holds_for_samples_and_never_lengthens_them():
    grpo = method_of("grpo", "smollm2_135m", Settings({}))
    assert _limited(grpo, 64).sampling.max_new_tokens == 64
    assert _limited(grpo, 10_000) == grpo
    assert _limited(grpo, None) == grpo


def test_a_limit_of_new_tokens_leaves_an_offline_method_as_it_is():
    dpo = method_of("dpo", "smollm2_135m", Settings({}))
    assert _limited(dpo, 64) == dpo


def test_the_adversary_learns_at_half_the_policys_rate_unless_it_is_given():
    assert method_of("ganpo_dpo", "smollm2_135m", Settings({"ganpo_dpo.lr": "1e-4"})).regularizers[0].lr == 5e-5
    given = Settings({"ganpo_dpo.lr": "1e-4", "ganpo_dpo.latent.lr": "1e-6"})
    assert method_of("ganpo_dpo", "smollm2_135m", given).regularizers[0].lr == 1e-6


@pytest.mark.parametrize("model", [*MODELS, "somewhere/else"])
def test_a_composition_a_variant_and_a_control_have_their_objectives_rate(model):
    formulas = [f"{base}+{part}" for base in OBJECTIVES for part in REGULARIZERS]
    for name in (*METHODS, *formulas):
        made = method_of(name, model, Settings({}))
        assert made.lr == method_of(made.objective.name, model, Settings({})).lr, name


def test_a_preset_has_one_rate_for_each_reduction_until_a_sweep_tells_objectives_apart(monkeypatch):
    preset = MODELS["smollm2_135m"]
    for name, card in OBJECTIVES.items():
        rate = usual_rate(name, "smollm2_135m")
        assert rate.value == preset.borrowed_lr[card.spec.logp_reduction]
        assert rate.borrowed
        assert f"on {card.spec.logp_reduction}s of log-probs" in rate.origin
        assert usual_rate(name, "gemma2_2b") == Rate(card.lr, PAPER)
    swept = dataclasses.replace(preset, lr={"dpo": 2e-5})
    monkeypatch.setattr(learning_rates, "MODELS", {"smollm2_135m": swept})
    assert usual_rate("ganpo_dpo_frozen", "smollm2_135m") == Rate(2e-5, SWEPT)
    assert usual_rate("kto", "smollm2_135m").borrowed


def test_a_rate_that_is_given_is_kept():
    assert method_of("dpo", "smollm2_135m", Settings({"dpo.lr": "2e-6"})).lr == 2e-6


def test_a_rate_of_zero_is_a_rate():
    assert method_of("dpo", "smollm2_135m", Settings({"dpo.lr": "0"})).lr == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "alpaca_eval", "--judge", "reward:skywrok"], "no reward model 'skywrok'; did you mean skywork"),
        (["--tasks", "discriminator", "--oracle", "constrants"], "no oracle 'constrants'; did you mean constraints"),
        (["--tasks", "discriminator", "--reward-model", "skywrok"], "no reward model 'skywrok'"),
    ],
)
def test_a_mistyped_judge_is_noticed_before_anything_is_trained(words, said):
    made = config(*words)
    with pytest.raises(ValueError, match=said):
        task_of(made.tasks[0], made)


def config(*words):
    return config_of(ComparisonConfig, parser().parse_args(words))


def test_an_empty_list_of_names_is_refused():
    with pytest.raises(ValueError, match="methods is empty"):
        config("--methods", " , ")


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
        resolve(config(*words, "--held-out-pairs", "0", "--tasks", "held_out"))


def test_a_run_to_start_from_must_be_finished(tmp_path):
    words = ["--model", str(save_tiny("llama3", tmp_path / "model")), "--dataset", "constraints", "--methods", "dpo"]
    with pytest.raises(ValueError, match="no finished run"):
        resolve(config(*words, "--init-from", "abc", "--out", str(tmp_path)))


def test_tasks_that_the_data_has_no_rows_for_are_left_out_or_refused_before_anything_is_trained(tmp_path):
    rows = [{"prompt": f"Say {i}.", "completion": f"{i}."} for i in range(40)]
    (tmp_path / "demos.json").write_text(json.dumps(rows))
    words = ["--model", str(save_tiny("llama3", tmp_path / "model")), "--dataset", str(tmp_path / "demos.json")]
    words += ["--methods", "sft", "--max-new-tokens", "64", "--out", str(tmp_path)]
    assert [task.name for task in resolve(config(*words)).tasks] == ["ifeval"]
    for task in ("held_out", "reward_model"):
        with pytest.raises(ValueError, match=rf"no held-out pairs are left in demos .demonstrations., which {task}"):
            resolve(config(*words, "--tasks", task))


def test_columns_are_options_of_run_and_search_and_part_of_the_configuration(tmp_path):
    rows = [{"ask": f"Say {i}.", "yes": f"{i}.", "no": "No.", "images": ["a.png"]} for i in range(40)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    words = ["--columns", "prompt=ask,chosen=yes", "--columns", "rejected=no", "--ignore-columns", "images"]
    made = config(
        "--model",
        str(save_tiny("llama3", tmp_path / "model")),
        "--dataset",
        str(tmp_path / "pairs.json"),
        *words,
        "--max-new-tokens",
        "64",
    )
    assert made.data.columns == {"prompt": "ask", "chosen": "yes", "rejected": "no"}
    assert resolve(made).data.report.unused_columns == {"images": "ignored as told"}
    assert config(*words_of(made)) == made
    assert ComparisonConfig.from_json(made.as_json()) == made
    assert config_of(SearchConfig, search_parser().parse_args(words)).data == made.data
    with pytest.raises(ValueError, match=r"no field promt; did you mean prompt\?"):
        resolve(dataclasses.replace(made, data=DataConfig(columns={"promt": "ask"})))


def data_of(folder, rows):
    (folder / "rows.json").write_text(json.dumps(rows))
    return prepare(folder / "rows.json", tiny_tokenizer("llama3"))


def test_a_role_that_the_data_lacks_is_refused_with_what_it_has(tmp_path):
    data = data_of(tmp_path, [{"prompt": f"Say {i}.", "completion": f"{i}."} for i in range(20)])
    with pytest.raises(ValueError, match=r"dpo reads chosen, rejected, which rows \(demonstrations\) does not give;"):
        check_roles({"dpo": card_of("dpo").spec}, data)
    check_roles({"sft": card_of("sft").spec}, data)


def test_what_the_policy_is_run_on_must_be_in_every_row(tmp_path):
    data = data_of(tmp_path, [{"prompt": f"Say {i}.", "completion": f"{i}.", "label": i % 2 == 0} for i in range(30)])
    for name, roles in (("aapa_sft", "expert"), ("sft", "expert"), ("kto+nll", "chosen, rejected")):
        with pytest.raises(ValueError, match=rf"{roles}, which rows \(unpaired\) does not give in every row"):
            check_roles({name: card_of(name).spec}, data)
    check_roles({"kto": card_of("kto").spec}, data)  # each row has one side, and that suffices it
    golden = override(card_of("apo_rjs").spec, {"apo.prior_weight": 0.0})
    check_roles({"apo_rjs": golden}, data)  # a reward model learns from the rows that have an expert


@pytest.mark.parametrize(
    ("words", "tasks"),
    [
        ([], ["held_out", "ifeval"]),
        (["--dataset", "constraints"], ["held_out", "constraints"]),
        (["--dataset", "constraints", "--tasks", "ifeval"], ["ifeval"]),
    ],
)
def test_a_data_set_says_what_is_evaluated_unless_the_command_does(words, tasks):
    settled = resolve(config("--methods", "sft", *words), planning=True)
    assert [task.name for task in settled.tasks] == tasks

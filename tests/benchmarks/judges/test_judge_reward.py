"""A reward model as a judge: its scores are those of the conversation alone, whatever it is batched and padded with."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks.judges import FunctionJudge, open_judge, refuse_training_reward
from benchmarks.judges.judging import Duel, judge_all, position_bias
from benchmarks.judges.reward import RewardJudge, conversation_ids, reward_judge, score_rows
from experiments.models.loading import quiet_transformers
from experiments.run_folder import RunFolder
from registry.models import MODELS
from tests.subjects import write_spec
from tests.tiny import PRESETS, SMALL, save_tiny, tiny_tokenizer

PAIRS = [("What is Paris?", "The capital of France."), ("Why?", "I think that it is a good question."), ("Hi", "No")]
FUNCTIONS = "tests.benchmarks.judges.judge_functions"


def nobody_watches(done, total):
    pass


def save_scorer(folder, family="llama3", num_labels=1, **ids):
    tokenizer = tiny_tokenizer(family)
    own = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    settings = {**MODELS[PRESETS[family]].config, **SMALL, "vocab_size": len(tokenizer), "num_labels": num_labels}
    with torch.random.fork_rng(devices=[]), quiet_transformers():
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**settings | own | ids))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def alone(model, row):
    with torch.no_grad():
        return model(input_ids=torch.tensor([row])).logits.item()


def rows_of(judge):
    return [conversation_ids(judge._tokenizer, *pair, limit=512) for pair in PAIRS]


def test_a_conversation_begins_with_one_bos_where_template_and_tokenizer_both_write_it(tmp_path):
    judge = reward_judge(str(save_scorer(tmp_path)))
    tokenizer, bos = judge._tokenizer, judge._tokenizer.bos_token_id
    turns = [{"role": "user", "content": PAIRS[0][0]}, {"role": "assistant", "content": PAIRS[0][1]}]
    doubled = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False))["input_ids"]
    ids = conversation_ids(tokenizer, *PAIRS[0], limit=512)
    assert doubled.count(bos) == 2, "the trap is not there"
    assert ids.count(bos) == 1
    assert [bos, *ids] == doubled
    assert alone(judge._model, ids) != pytest.approx(alone(judge._model, doubled), abs=1e-4)


def test_a_cut_conversation_keeps_its_bos_and_its_end(tmp_path):
    tokenizer = reward_judge(str(save_scorer(tmp_path)))._tokenizer
    whole = conversation_ids(tokenizer, *PAIRS[0], limit=512)
    assert conversation_ids(tokenizer, *PAIRS[0], limit=9) == [whole[0], *whole[-8:]]


def test_without_a_pad_token_a_batch_scores_as_each_row_alone_and_padding_with_the_end_would_not(tmp_path):
    judge = reward_judge(str(save_scorer(tmp_path)))
    model, rows = judge._model, rows_of(judge)
    assert model.config.pad_token_id is None
    expected = [alone(model, row) for row in rows]
    assert score_rows(model, rows) == pytest.approx(expected, abs=1e-5)
    assert model.config.pad_token_id is None
    model.config.pad_token_id = judge._tokenizer.eos_token_id  # what a loader does to have a pad token
    assert score_rows(model, rows) != pytest.approx(expected, abs=1e-4), "the trap is not there"


@pytest.mark.parametrize("pad", ["eos", "other"])
def test_a_model_with_a_pad_token_of_its_own_scores_a_batch_as_each_row_alone(tmp_path, pad):
    tokenizer = tiny_tokenizer("llama3")
    token = tokenizer.eos_token_id if pad == "eos" else tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    judge = reward_judge(str(save_scorer(tmp_path, pad_token_id=token)))
    rows = rows_of(judge)
    assert len({len(row) for row in rows}) == 3
    assert score_rows(judge._model, rows) == pytest.approx([alone(judge._model, row) for row in rows], abs=1e-5)


def test_a_tokenizer_without_a_template_reads_a_pair_of_texts():
    tokenizer = tiny_tokenizer("llama3")
    tokenizer.chat_template = None
    assert conversation_ids(tokenizer, "Hi", "No", limit=99) == tokenizer("Hi", "No")["input_ids"]


def test_scores_are_kept_by_prompt_and_response_and_the_model_is_not_loaded_again(tmp_path):
    folder = save_scorer(tmp_path / "model")
    duels = [Duel("Why?", "one", "two"), Duel("Why?", "one", "three")]
    first = reward_judge(str(folder))
    verdicts = judge_all(first, duels, tmp_path / "judgements", nobody_watches)
    assert len(next((tmp_path / "judgements").glob("*.jsonl")).read_text().splitlines()) == 3
    second = reward_judge(str(folder))
    assert judge_all(second, duels, tmp_path / "judgements", nobody_watches) == verdicts
    assert "_model" not in vars(second)
    for verdict in verdicts:
        assert verdict.preference == float(verdict.scores[1] > verdict.scores[0])
        assert len(verdict.orders) == 1, "no order could matter"
    assert position_bias(verdicts) is None


def test_a_model_without_a_trained_head_is_no_judge(tmp_path):
    judge = reward_judge(str(save_tiny("llama3", tmp_path)))
    with pytest.raises(ValueError, match=r"do not fit .* it has no trained head"):
        judge.score(PAIRS, tmp_path / "judgements", nobody_watches)


def test_a_classifier_of_two_classes_is_no_judge(tmp_path):
    judge = reward_judge(str(save_scorer(tmp_path, num_labels=2)))
    with pytest.raises(ValueError, match="has 2 outputs"):
        judge.score(PAIRS, tmp_path / "judgements", nobody_watches)


def test_a_small_encoders_figures_test_the_plumbing_only(tmp_path):
    assert "plumbing" in reward_judge(str(save_scorer(tmp_path))).caveat
    assert "plumbing" in open_judge(f"function:{FUNCTIONS}:longer").caveat


@pytest.mark.parametrize("named_by", ["name", "weights", "relative"])
def test_a_reward_that_trained_a_method_does_not_judge_it(tmp_path, monkeypatch, named_by):
    monkeypatch.chdir(tmp_path)
    judge = reward_judge(str(save_scorer(tmp_path / "model")))
    text = {"name": judge.name, "weights": judge.weights, "relative": "./model"}[named_by]
    run = RunFolder(tmp_path / "run")
    write_spec(run.path, "apo_dpo", hyperparameters={"reward_model.scorer": text})
    with pytest.raises(ValueError, match="apo_dpo was trained on the reward"):
        refuse_training_reward(judge, run)
    refuse_training_reward(open_judge(f"function:{FUNCTIONS}:longer"), run)
    write_spec(run.path, "apo_dpo", hyperparameters={"reward_model.scorer": "another"})
    refuse_training_reward(judge, run)


def test_a_reward_model_that_a_run_learned_itself_does_not_judge_it(tmp_path):
    judge = reward_judge(str(save_scorer(tmp_path / "run" / "players" / "reward_model")))
    write_spec(tmp_path / "run", "apo_dpo")
    with pytest.raises(ValueError, match="apo_dpo was trained on the reward"):
        refuse_training_reward(judge, RunFolder(tmp_path / "run"))
    (tmp_path / "another").mkdir()
    refuse_training_reward(judge, RunFolder(tmp_path / "another"))


def test_a_function_of_two_responses_is_asked_in_both_orders(tmp_path):
    duels = [Duel("Q?", "a", "good b"), Duel("Q?", "a", "b")]
    verdicts = judge_all(open_judge(f"function:{FUNCTIONS}:first"), duels, tmp_path, nobody_watches)
    assert [v.orders for v in verdicts] == [pytest.approx((0.7, 0.9)), pytest.approx((0.3, 0.7))]
    assert [v.preference for v in verdicts] == pytest.approx([0.8, 0.5])


def test_a_function_of_one_response_scores_each_by_itself(tmp_path):
    duels = [Duel("Q?", "a", "long b"), Duel("Q?", "same", "same"), Duel("Q?", "some", "tied")]
    verdicts = judge_all(open_judge(f"function:{FUNCTIONS}:longer"), duels, tmp_path, nobody_watches)
    assert [v.preference for v in verdicts] == [1.0, 0.5, 0.5]


def test_a_score_that_is_no_number_is_no_verdict(tmp_path):
    (verdict,) = judge_all(
        open_judge(f"function:{FUNCTIONS}:undecided"), [Duel("Q?", "a", "b")], tmp_path, nobody_watches
    )
    assert (verdict.preference, verdict.judged, verdict.reply) == (None, False, "scores nan and nan")


def test_a_preference_out_of_range_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"said 2\.0"):
        judge_all(open_judge(f"function:{FUNCTIONS}:sure"), [Duel("Q?", "a", "b")], tmp_path, nobody_watches)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("gpt4", "write api:ANNOTATOR"),
        ("reward:", "write api:ANNOTATOR"),
        (f"function:{FUNCTIONS}:longest", "no attribute 'longest'"),
        (f"function:{FUNCTIONS}:alone", "takes 1 arguments"),
        ("function:no_such_module:f", "No module named"),
    ],
)
def test_a_judge_that_cannot_be_is_refused_with_a_hint(name, hint):
    with pytest.raises(ValueError, match=hint):
        open_judge(name)


def test_judges_say_who_they_are(tmp_path):
    judge = reward_judge(str(save_scorer(tmp_path)))
    assert isinstance(judge, RewardJudge)
    assert judge.identity.endswith(judge.weights[:16])
    assert FunctionJudge.named(f"{FUNCTIONS}:longer").identity == f"function:{FUNCTIONS}:longer"

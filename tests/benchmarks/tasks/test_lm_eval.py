"""lm-evaluation-harness on a model in memory, with data from files."""

import json
import math

import pytest

from benchmarks.tasks import TaskSkipped, lm_eval
from benchmarks.tasks.lm_eval import LmEval
from experiments.models.forward import Policy
from tests import subjects
from tests.tiny import tiny_model, tiny_tokenizer

QUESTIONS = {
    "gsm8k/train": [{"question": f"What is {i}+1?", "answer": f"It is {i + 1}\n#### {i + 1}"} for i in range(6)],
    "gsm8k/test": [{"question": f"What is {i}+2?", "answer": f"It is {i + 2}\n#### {i + 2}"} for i in range(3)],
    "truthfulqa_mc2/validation": [
        {
            "question": f"Is water wet in {i}?",
            "mc1_targets": {"choices": ["yes", "no"], "labels": [1, 0]},
            "mc2_targets": {"choices": ["yes", "maybe", "no"], "labels": [1, 1, 0]},
        }
        for i in range(3)
    ],
}
for split in ("train_r3", "dev_r3", "test_r3"):
    QUESTIONS[f"anli_r3/{split}"] = [
        {"uid": str(i), "premise": "The sun is hot.", "hypothesis": f"It is cold {i}.", "label": i % 3, "reason": ""}
        for i in range(4)
    ]
for topic in ("anatomy", "virology"):
    for split, number in (("dev", 5), ("test", 4)):
        QUESTIONS[f"mmlu/{topic}/{split}"] = [
            {"question": f"Which is {i}?", "subject": topic, "choices": ["a", "b", "c", "d"], "answer": i % 4}
            for i in range(number)
        ]


@pytest.fixture
def data(tmp_path):
    for name, rows in QUESTIONS.items():
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "data"


@pytest.fixture
def subject(tmp_path):
    return subjects.subject(tmp_path, Policy(tiny_model("llama3")), tiny_tokenizer("llama3"))


def test_every_benchmark_reads_its_local_files(subject, data):
    pytest.importorskip("lm_eval", reason="needs the extra [lm-eval]")
    result = LmEval(data=str(data), num_fewshot=1).evaluate(subject)
    counts = {"gsm8k": 3, "mmlu_anatomy": 4, "mmlu_virology": 4, "anli_r3": 4, "truthfulqa_mc2": 3}
    assert result.extras["questions"] == counts
    assert len(result.items) == len({item.id for item in result.items}) == 18
    assert set(result.metrics) == {"accuracy", "gsm8k", "mmlu", "anli_r3", "truthfulqa_mc2"}
    assert all(0 <= value <= 1 for value in result.metrics.values())
    assert result.metrics["mmlu"] == pytest.approx(
        sum(item.values["accuracy"] for item in result.items if item.id.startswith("mmlu/")) / 8
    )
    assert result.metrics["gsm8k"] == 0, "a random model does no sums"
    assert not list(data.glob("**/*cache*"))


def test_an_answer_is_what_the_model_finds_likeliest(subject, data):
    pytest.importorskip("lm_eval", reason="needs the extra [lm-eval]")
    import torch

    task = LmEval(benchmarks=("anli_r3",), data=str(data))
    (*items,) = task.evaluate(subject).items
    for item, row in zip(items, QUESTIONS["anli_r3/test_r3"], strict=True):
        question = f"{row['premise']}\nQuestion: {row['hypothesis']} True, False, or Neither?\nAnswer:"
        scores = [_logp(subject, torch, question, f" {word}") for word in ("True", "Neither", "False")]
        assert item.values["accuracy"] == float(max(range(3), key=scores.__getitem__) == row["label"])


def _logp(subject, torch, question, answer):
    tokenizer = subject.tokenizer
    whole = tokenizer(question + answer)["input_ids"]
    start = len(tokenizer(question)["input_ids"])
    with torch.no_grad():
        logps = subject.policy.model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return math.fsum(logps[i - 1, whole[i]].item() for i in range(start, len(whole)))


def test_without_the_harness_the_task_is_skipped_and_says_how_to_get_it(subject, data, monkeypatch):
    monkeypatch.setattr(lm_eval.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TaskSkipped, match=r"pip install '.\[lm-eval\]'"):
        LmEval(data=str(data)).evaluate(subject)


def test_without_data_the_task_is_skipped_and_says_why(subject, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the extra [lm-eval]")
    monkeypatch.setenv("ADVALIGN_OFFLINE", "1")
    with pytest.raises(TaskSkipped, match="no local copy is named"):
        LmEval().evaluate(subject)


def test_missing_files_are_named(subject, data):
    pytest.importorskip("lm_eval", reason="needs the extra [lm-eval]")
    (data / "gsm8k" / "train.jsonl").unlink()
    with pytest.raises(ValueError, match="lack 'train'"):
        LmEval(benchmarks=("gsm8k",), data=str(data)).evaluate(subject)
    (data / "gsm8k" / "test.jsonl").unlink()
    with pytest.raises(ValueError, match="holds 0 data files"):
        LmEval(benchmarks=("gsm8k",), data=str(data)).evaluate(subject)
    with pytest.raises(ValueError, match="no subject of MMLU"):
        LmEval(benchmarks=("mmlu",), data=str(data / "gsm8k")).evaluate(subject)


def test_an_unknown_benchmark_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean gsm8k"):
        LmEval(benchmarks=("gsm8",))

"""Rows of preference data: every format, every reason to refuse a row."""

import math

import pytest
from trl.data_utils import extract_prompt

from experiments.data.files import read_file
from experiments.data.recognition import recognise, validate
from experiments.data.report import DROPPED, Findings
from experiments.data.rows import InvalidRow, Message, Side
from experiments.data.tokens import prepare
from tests.experiments.data.preference_files import TOKENIZER, pair, write_jsonl


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


SYSTEM = {"role": "system", "content": "Be brief."}
HI = (Message("user", "Hi"),)
DIALOGUE = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye"))
PAIR = {"chosen": Side(HI, "A"), "rejected": Side(HI, "B")}
LONG_PAIR = {"chosen": Side(DIALOGUE, "A"), "rejected": Side(DIALOGUE, "B")}
SYSTEM_PAIR = {
    role: Side((Message("system", "Be brief."), *HI), text) for role, text in (("chosen", "A"), ("rejected", "B"))
}
FORMATS = {
    "plain": ({"prompt": "Hi", "chosen": "A", "rejected": "B"}, "paired", PAIR),
    "conversational": (
        {"prompt": [user("Hi")], "chosen": [assistant("A")], "rejected": [assistant("B")]},
        "paired",
        PAIR,
    ),
    "messages and plain answers": (
        {"prompt": [SYSTEM, user("Hi")], "chosen": "A", "rejected": "B"},
        "paired",
        SYSTEM_PAIR,
    ),
    "conversational with implicit prompt": (
        {"chosen": [user("Hi"), assistant("A")], "rejected": [user("Hi"), assistant("B")], "score_chosen": 9.5},
        "paired",
        PAIR,
    ),
    "prompt repeated in the answers": (
        {"prompt": "Hi", "chosen": [user("Hi"), assistant("A")], "rejected": [user("Hi"), assistant("B")]},
        "paired",
        PAIR,
    ),
    "system message in the answers only": (
        {
            "prompt": "Hi",
            "chosen": [SYSTEM, user("Hi"), assistant("A")],
            "rejected": [SYSTEM, user("Hi"), assistant("B")],
        },
        "paired",
        SYSTEM_PAIR,
    ),
    "content in parts": (
        {"prompt": [user([{"type": "text", "text": "Hi"}])], "chosen": "A", "rejected": "B"},
        "paired",
        PAIR,
    ),
    "llamafactory's pairs": (
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "gpt", "value": "Hello"},
                {"from": "human", "value": "Bye"},
            ],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
        "paired",
        LONG_PAIR,
    ),
    "hh-rlhf's transcripts": (
        {
            "chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: A",
            "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant: B",
        },
        "paired",
        LONG_PAIR,
    ),
    "a transcript as prompt": (
        {"prompt": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:", "chosen": "A", "rejected": "B"},
        "paired",
        LONG_PAIR,
    ),
    "labelled good": ({"prompt": "Hi", "completion": "A", "label": True}, "unpaired", {"chosen": Side(HI, "A")}),
    "labelled bad": (
        {"prompt": [user("Hi")], "completion": [assistant("A")], "label": 0},
        "unpaired",
        {"rejected": Side(HI, "A")},
    ),
    "llamafactory's labels": (
        {"messages": [user("Hi"), assistant("A")], "label": False},
        "unpaired",
        {"rejected": Side(HI, "A")},
    ),
    "preferential prompts": (
        {"chosen_prompt": "Hi", "rejected_prompt": [user("Ho")], "completion": "A"},
        "preferential",
        {"chosen": Side(HI, "A"), "rejected": Side((Message("user", "Ho"),), "A")},
    ),
    "prompt and completion": ({"prompt": "Hi", "completion": "A"}, "demonstrations", {"expert": Side(HI, "A")}),
    "messages": ({"messages": [user("Hi"), assistant("A")]}, "demonstrations", {"expert": Side(HI, "A")}),
    "alpaca": (
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        "demonstrations",
        {"expert": Side((Message("user", "Add.\n\n1, 2"),), "3")},
    ),
    "alpaca without input": (
        {"instruction": "Hi", "input": "", "output": "A"},
        "demonstrations",
        {"expert": Side(HI, "A")},
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_becomes_the_same_row(name):
    record, kind, sides = FORMATS[name]
    known = recognise([record | {"an extra column": {"of": "no interest"}}])
    assert known.known.kind == kind
    assert known.parse(1, record | {"an extra column": {}}).sides == sides


def test_an_implicit_prompt_of_conversations_is_what_trl_finds():
    record = {"chosen": [user("Hi"), assistant("A")], "rejected": [user("Hi"), assistant("B")]}
    theirs, ours = extract_prompt(record), recognise([record]).parse(1, record).sides
    prompt, answers = theirs["prompt"], [theirs[role] for role in ("chosen", "rejected")]
    asked = (Message("user", prompt[0]["content"]),)
    assert [ours[role] for role in ("chosen", "rejected")] == [Side(asked, a[0]["content"]) for a in answers]


REFUSED = {
    "wrong_type": [
        "a string",
        ["a list"],
        None,
        7,
        pair(0, prompt=5),
        pair(0, chosen=5),
        pair(0, chosen=["A"]),
        pair(0, chosen=[assistant(3)]),
        pair(0, prompt=["Hi"]),
        pair(0, prompt=None, chosen=[user("Hi"), assistant("A")], rejected="B"),
    ],
    "invalid_unicode": [pair(0, chosen="half a pair: \ud83d"), pair(0, prompt="\udc00 and back")],
    "bad_roles": [
        pair(0, prompt=[{"role": "narrator", "content": "Hi"}]),
        pair(0, prompt=[{"content": "Hi"}]),
    ],
    "no_question": [pair(0, prompt=[assistant("Hi")]), pair(0, prompt=[user("Hi"), assistant("Ho")])],
    "late_system": [pair(0, prompt=[user("Hi"), SYSTEM])],
    "no_answer": [pair(0, chosen=[user("A")])],
    "not_one_turn": [
        pair(0, chosen=[assistant("A"), user("Ho"), assistant("B")]),
        pair(0, chosen=[user("another question"), assistant("A")]),
        pair(
            0,
            prompt=None,
            chosen=[user("Hi"), assistant("A")],
            rejected=[user("Hi"), assistant("B"), user("Ho"), assistant("C")],
        ),
    ],
    "empty_prompt": [
        pair(0, prompt=""),
        pair(0, prompt="\n\t "),
        pair(0, prompt=[]),
        pair(0, prompt=[SYSTEM]),
        pair(0, prompt=[user("Hi"), assistant(" "), user("Ho")]),
        pair(0, prompt=[user(None)]),
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        {"chosen": "The same.", "rejected": "The same."},
    ],
    "empty_completion": [
        {"prompt": "Hi", "chosen": "A"},
        {"prompt": "Hi", "rejected": "A"},
        pair(0, rejected=None),
        pair(0, chosen=""),
        pair(0, chosen=" \n\u2003"),
        pair(0, rejected=[]),
        pair(0, rejected=[assistant(None)]),
    ],
    "same_completion": [
        pair(0, chosen="A", rejected="A"),
        pair(0, chosen="A", rejected=" A\n"),
        {"chosen": [user("Hi"), assistant("A")], "rejected": [user("Hi"), assistant("A")]},
    ],
}
CASES = [(reason, record) for reason, records in REFUSED.items() for record in records]


@pytest.mark.parametrize(("reason", "record"), CASES, ids=[f"{reason}-{i}" for i, (reason, _) in enumerate(CASES)])
def test_a_bad_row_is_dropped_with_its_reason_and_its_number(reason, record, tmp_path):
    path = write_jsonl(tmp_path / "pairs.jsonl", [pair(1), pair(2), record, *(pair(i) for i in range(3, 9))])
    report = prepare(path, TOKENIZER).report
    assert report.dropped == {reason: (3,)}
    assert (report.unit, report.num_rows, report.num_kept) == ("line", 9, 8)
    assert DROPPED[reason] in report.summary()
    assert "line 3" in report.summary()


@pytest.mark.parametrize(
    ("reason", "record"),
    [
        ("bad_label", {"prompt": "Hi", "completion": "A", "label": "yes"}),
        ("bad_label", {"prompt": "Hi", "completion": "A", "label": 2}),
        ("empty_completion", {"prompt": "Hi", "completion": None, "label": True}),
        ("empty_prompt", {"prompt": None, "completion": "A", "label": True}),
        ("no_answer", {"messages": [user("Hi")], "label": True}),
        ("empty_completion", {"messages": [], "label": True}),
        ("wrong_type", {"messages": "Hi", "label": True}),
        ("bad_label", {"messages": [user("Hi"), assistant("A")], "label": None}),
        ("bad_label", {"messages": [user("Hi"), assistant("A")], "label": math.nan}),
    ],
)
def test_labelled_rows_are_validated_too(reason, record):
    sound = {"prompt": "Hi", "completion": "A", "label": True}
    sound = {"messages": [user("Hi"), assistant("A")], "label": True} if "messages" in record else sound
    with pytest.raises(InvalidRow) as error:
        recognise([sound, record]).parse(2, record)
    assert error.value.reason == reason


@pytest.mark.parametrize(
    ("reason", "record"),
    [
        ("empty_completion", {"chosen_prompt": "Hi", "rejected_prompt": "Ho", "completion": None}),
        ("empty_prompt", {"chosen_prompt": "Hi", "rejected_prompt": None, "completion": "A"}),
        ("same_completion", {"chosen_prompt": "Hi", "rejected_prompt": "Hi ", "completion": "A"}),
        ("empty_completion", {"instruction": "Hi", "output": None}),
        ("empty_prompt", {"instruction": None, "output": "A"}),
        ("wrong_type", {"instruction": "Hi", "output": 3}),
    ],
)
def test_preferential_and_demonstration_rows_are_validated_too(reason, record):
    sound = {key: f"{key} {i}" for i, key in enumerate(record)}
    with pytest.raises(InvalidRow) as error:
        recognise([sound, record]).parse(2, record)
    assert error.value.reason == reason


def test_duplicates_are_dropped_after_the_first_and_contradictions_kept(tmp_path):
    contrary = pair(1, chosen="Bad answer 1.", rejected="Good answer 1.")
    path = write_jsonl(tmp_path / "pairs.jsonl", [pair(1), pair(2), pair(1), contrary, pair(1, extra="column")])
    report = prepare(path, TOKENIZER).report
    assert report.dropped == {"duplicate": (3, 5)}
    assert report.noted == {"contradictory": (1, 4)}


def test_a_completion_that_is_labelled_both_good_and_bad_contradicts_itself(tmp_path):
    rows = [{"prompt": "Hi", "completion": "A", "label": label} for label in (True, False)]
    findings = Findings()
    kind, kept = validate(read_file(write_jsonl(tmp_path / "labels.jsonl", rows)), findings)
    assert kind == "unpaired"
    assert len(kept) == 2
    assert findings.report("labels", "line", 2).noted == {"contradictory": (1, 2)}


def test_the_accepted_formats_are_named_when_none_fits(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "Hi"}])
    with pytest.raises(ValueError, match=r"(?s)chosen, rejected.*prompt, completion, label.*prompt, completion"):
        prepare(path, TOKENIZER)

"""Shapes of public data sets, each with what it must be read as; nothing in them is anyone's data."""

import json

import pytest

from experiments.data.columns import Columns
from experiments.data.recognition import recognise, validate
from experiments.data.records import resolve_records
from experiments.data.report import Findings
from experiments.data.rows import Message, Side, ToolCalls
from tests.experiments.data.preference_files import write_jsonl


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


def human(value):
    return {"from": "human", "value": value}


def gpt(value):
    return {"from": "gpt", "value": value}


HI = (Message("user", "What are rivers?"),)
BRIEF = (Message("system", "Be brief."), *HI)
DIALOGUE = (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "What are rivers?"))
Q, GOOD, BAD = "What are rivers?", "The answer is water.", "The answer is land."
CHOSEN = [user(Q), assistant(GOOD)]
REJECTED = [user(Q), assistant(BAD)]
SYSTEM = {"role": "system", "content": "Be brief."}


def both(prompt):
    return {"chosen": Side(prompt, GOOD), "rejected": Side(prompt, BAD)}


def expert(prompt):
    return {"expert": Side(prompt, GOOD)}


TEXT_PAIR = {"chosen": GOOD, "rejected": BAD}
SHAPES = {
    # pairs
    "LLaMA-Factory, alpaca": ({"instruction": Q, "input": "", **TEXT_PAIR}, both(HI)),
    "LLaMA-Factory, alpaca with input": (
        {"instruction": "Explain.", "input": "Rivers", **TEXT_PAIR},
        both((Message("user", "Explain.\n\nRivers"),)),
    ),
    "LLaMA-Factory, system and history": (
        {"instruction": Q, "system": "Be brief.", "history": [["Hi", "Hello"]], **TEXT_PAIR},
        both((BRIEF[0], *DIALOGUE)),
    ),
    "LLaMA-Factory, ranking": ({"instruction": Q, "input": "", "output": [GOOD, BAD]}, both(HI)),
    "ShareGPT pairs with a system column": (
        {"system": "Be brief.", "conversations": [human(Q)], "chosen": gpt(GOOD), "rejected": gpt(BAD)},
        both(BRIEF),
    ),
    "Orca": ({"system": "Be brief.", "question": Q, **TEXT_PAIR}, both(BRIEF)),
    "Argilla's Orca": (
        {
            "system": "",
            "input": Q,
            **TEXT_PAIR,
            "generations": [GOOD, BAD],
            "rating": [9.0, 3.0],
            "labelling_prompt": [user("Rate.")],
            "status": "tie",
            "chosen_score": 9.0,
        },
        both(HI),
    ),
    "OpenRLHF": ({"input": Q, **TEXT_PAIR}, both(HI)),
    "axolotl, chat_template": (
        {"messages": [user(Q)], "chosen": assistant(GOOD), "rejected": assistant(BAD)},
        both(HI),
    ),
    "axolotl, capitals": ({"Prompt": Q, "Chosen": GOOD, "Rejected": BAD}, both(HI)),
    "messages beside plain answers": ({"messages": [user(Q)], **TEXT_PAIR}, both(HI)),
    "UltraFeedback, binarized": (
        {
            "prompt": Q,
            "prompt_id": "a",
            "chosen": CHOSEN,
            "rejected": REJECTED,
            "messages": CHOSEN,
            "score_chosen": 8.0,
            "score_rejected": 3.0,
        },
        both(HI),
    ),
    "UltraFeedback, whole": (
        {
            "source": "x",
            "instruction": Q,
            "models": ["a", "b", "c"],
            "completions": [
                {"model": "a", "response": "Meh.", "overall_score": 5.0},
                {"model": "b", "response": BAD, "overall_score": 1.0},
                {"model": "c", "response": GOOD, "overall_score": 8.5},
            ],
            "correct_answers": ["None"],
        },
        both(HI),
    ),
    "Nectar": (
        {
            "prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
            "answers": [
                {"answer": "Meh.", "model": "a", "rank": 2.0},
                {"answer": GOOD, "model": "b", "rank": 1.0},
                {"answer": BAD, "model": "c", "rank": 3.0},
            ],
            "turns": 1,
            "num_responses": 3,
        },
        both(HI),
    ),
    "Argilla's DPO mix": (
        {"dataset": "x", "chosen": CHOSEN, "rejected": REJECTED, "chosen_rating": 5.0, "rejected_rating": 4.0},
        both(HI),
    ),
    "Capybara, distilabel": (
        {
            "source": "x",
            "conversation": [{"input": Q, "output": GOOD}],
            "original_response": GOOD,
            "generation_prompt": ["Continue."],
            "chosen": CHOSEN,
            "rejected": REJECTED,
            "chosen_model": "m",
        },
        both(HI),
    ),
    "distilabel, math": (
        {"metadata": "{}", "instruction": Q, "chosen_response": GOOD, "rejected_response": BAD, "chosen_rating": 5},
        both(HI),
    ),
    "distilabel, generations and ratings": (
        {"instruction": Q, "generations": ["Meh.", GOOD, BAD], "ratings": [3, 5, 1], "rationales": ["", "", ""]},
        both(HI),
    ),
    "ORPO mix: the question again": (
        {"source": "x", "chosen": CHOSEN, "rejected": REJECTED, "prompt": Q, "question": Q},
        both(HI),
    ),
    "HH": (
        {
            "chosen": f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {Q}\n\nAssistant: {GOOD}",
            "rejected": f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {Q}\n\nAssistant: {BAD}",
        },
        both(DIALOGUE),
    ),
    "HH with the prompt apart": (
        {"prompt": f"\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {Q}\n\nAssistant:", "response": GOOD, **TEXT_PAIR},
        both(DIALOGUE),
    ),
    "PKU-SafeRLHF": (
        {
            "prompt": Q,
            "response_0": BAD,
            "response_1": GOOD,
            "is_response_0_safe": True,
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        both(HI),
    ),
    "SHP": (
        {
            "post_id": "a",
            "history": Q,
            "human_ref_A": BAD,
            "human_ref_B": GOOD,
            "labels": 0,
            "score_A": 2,
            "score_B": 9,
        },
        both(HI),
    ),
    "Chatbot Arena": (
        {
            "model_a": "x",
            "model_b": "y",
            "winner": "model_b",
            "conversation_a": REJECTED,
            "conversation_b": CHOSEN,
            "turn": 1,
            "language": "English",
        },
        both(HI),
    ),
    "WebGPT's two scored answers": (
        {"question": Q, "answer_0": GOOD, "score_0": 0.5, "answer_1": BAD, "score_1": -0.5},
        both(HI),
    ),
    "HelpSteer3": (
        {
            "domain": "x",
            "context": [user(Q)],
            "response1": BAD,
            "response2": GOOD,
            "overall_preference": 2,
        },
        both(HI),
    ),
    "UltraInteract": (
        {"task": "x", "trajectory": [{"from": "user", "value": Q}], **TEXT_PAIR, "parent_id": "a"},
        both(HI),
    ),
    "StackExchange": ({"qid": 1, "question": Q, "response_j": GOOD, "response_k": BAD}, both(HI)),
    "best of n with rewards": (
        {"prompt": Q, "responses": [BAD, GOOD], "rewards": [-1.5, 0.25]},
        both(HI),
    ),
    "a preference between prompts": (
        {"chosen_prompt": Q, "rejected_prompt": "Hm?", "response": GOOD},
        {"chosen": Side(HI, GOOD), "rejected": Side((Message("user", "Hm?"),), GOOD)},
    ),
    # labels
    "LLaMA-Factory, KTO": (
        {"instruction": Q, "input": "", "output": BAD, "kto_tag": False},
        {"rejected": Side(HI, BAD)},
    ),
    "ShareGPT, KTO": ({"conversations": [human(Q), gpt(GOOD)], "kto_tag": True}, {"chosen": Side(HI, GOOD)}),
    "KTO mix": (
        {"prompt": [user(Q)], "completion": [assistant(GOOD)], "label": True},
        {"chosen": Side(HI, GOOD)},
    ),
    "KTO, axolotl": ({"question": Q, "completion": BAD, "desirable": 0.0}, {"rejected": Side(HI, BAD)}),
    "KTO from CSV": ({"prompt": Q, "completion": GOOD, "label": "True"}, {"chosen": Side(HI, GOOD)}),
    # demonstrations
    "LLaMA-Factory, SFT with history": (
        {"instruction": Q, "input": "", "output": GOOD, "history": [["Hi", "Hello"]]},
        expert(DIALOGUE),
    ),
    "Dolly": (
        {"instruction": Q, "context": "They flow.", "response": GOOD, "category": "qa"},
        expert((Message("user", f"{Q}\n\nThey flow."),)),
    ),
    "ShareGPT": ({"id": "a", "conversations": [human(Q), gpt(GOOD)]}, expert(HI)),
    "Capybara": ({"source": "x", "conversation": [{"input": Q, "output": GOOD}]}, expert(HI)),
    "GSM8K": ({"question": Q, "answer": GOOD}, expert(HI)),
    "oasst, axolotl": ({"INSTRUCTION": Q, "RESPONSE": GOOD}, expert(HI)),
    "zephyr's SFT": ({"prompt": Q, "prompt_id": "a", "messages": CHOSEN}, expert(HI)),
    # conversations
    "roles in any case": (
        {
            "chosen": [{"role": "Human", "content": Q}, {"role": "ASSISTANT", "content": GOOD}],
            "rejected": [{"role": "USER", "content": Q}, {"role": "Bot", "content": BAD}],
        },
        both(HI),
    ),
    "messages as JSON text": (
        {"prompt": json.dumps([user(Q)]), "chosen": json.dumps([assistant(GOOD)]), "rejected": json.dumps(REJECTED)},
        both(HI),
    ),
    "messages as pandas writes them": (
        {"prompt": str([user(Q)]), "chosen": str([assistant(GOOD)]), "rejected": str(REJECTED)},
        both(HI),
    ),
    "the first question as prompt of dialogues": (
        {
            "prompt": "Hi",
            "chosen": [user("Hi"), assistant("Hello"), *CHOSEN],
            "rejected": [user("Hi"), assistant("Hello"), *REJECTED],
        },
        both(DIALOGUE),
    ),
    "a developer's message": (
        {"prompt": [{"role": "developer", "content": "Be brief."}, user(Q)], **TEXT_PAIR},
        both(BRIEF),
    ),
    "an assistant who speaks first": (
        {"messages": [assistant("Hello!"), user(Q), assistant(GOOD)]},
        expert((Message("assistant", "Hello!"), *HI)),
    ),
    "two questions in a row": (
        {"prompt": [user("Hi"), user(Q)], **TEXT_PAIR},
        both((Message("user", "Hi"), *HI)),
    ),
    "a tool in the prompt": (
        {
            "prompt": [
                user(Q),
                {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": '{"a": 1}'}]},
                {"role": "function", "content": "42"},
            ],
            **TEXT_PAIR,
        },
        both(
            (
                *HI,
                ToolCalls("assistant", "", '[{"function": {"arguments": {"a": 1}, "name": "f"}, "type": "function"}]'),
                Message("tool", "42"),
            )
        ),
    ),
    "a thought beside the answer": (
        {"messages": [user(Q), assistant(GOOD) | {"reasoning_content": "Hm."}]},
        {"expert": Side(HI, f"<think>\nHm.\n</think>\n\n{GOOD}")},
    ),
    "a NaN where there is no system message": ({"prompt": Q, "system": float("nan"), **TEXT_PAIR}, both(HI)),
}


def read(tmp_path, *records, columns=None):
    findings = Findings()
    source = resolve_records(write_jsonl(tmp_path / "rows.jsonl", records))
    _, rows = validate(source, findings, columns)
    return rows, findings.report(source.name, source.unit, source.num_rows)


@pytest.mark.parametrize("name", SHAPES)
def test_a_public_shape_is_read_as_its_authors_mean_it(name, tmp_path):
    record, sides = SHAPES[name]
    rows, report = read(tmp_path, record)
    assert [dict(row.sides) for row in rows] == [sides]
    used = {column for columns in report.columns.values() for column in columns.split(", ")}
    assert used | set(report.unused_columns) == set(record)
    assert not used & set(report.unused_columns)


MEANINGFUL = {
    "a second question": ({"prompt": Q, "question": "And lakes?", **TEXT_PAIR}, "question", "a prompt"),
    "another conversation": ({"prompt": Q, "messages": [user("Hm?")], **TEXT_PAIR}, "messages", "a prompt"),
    "images": ({"prompt": Q, "images": ["a.png"], **TEXT_PAIR}, "images", "images"),
    "a picture's address": ({"messages": CHOSEN, "image_url": "http://x"}, "image_url", "images"),
    "tools": ({"messages": CHOSEN, "tools": [{"name": "f"}]}, "tools", "tools"),
    "a label of a pair": ({"prompt": Q, **TEXT_PAIR, "label": 1}, "label", "a label"),
    "safety of a demonstration": ({"prompt": Q, "response": BAD, "is_safe": False}, "is_safe", "a label"),
    "a score of a demonstration": ({"prompt": Q, "response": BAD, "helpfulness": 0}, "helpfulness", "a score"),
    "a worse answer": ({"prompt": Q, "completion": GOOD, "rejected": BAD}, "rejected", "the worse answer"),
    "arguments of the template": (
        {"messages": CHOSEN, "chat_template_kwargs": {"enable_thinking": True}},
        "chat_template_kwargs",
        "arguments of a chat template",
    ),
    "a second system message": (
        {"prompt": Q, "system": "Be brief.", "sys_prompt": "Be long.", **TEXT_PAIR},
        "sys_prompt",
        "a system message",
    ),
    "a passage beside messages": ({"messages": CHOSEN, "passage": "Rivers flow."}, "passage", "what a prompt is about"),
}


@pytest.mark.parametrize("name", MEANINGFUL)
def test_a_column_that_seems_to_matter_refuses_the_file_until_it_is_explained(name, tmp_path):
    record, column, meaning = MEANINGFUL[name]
    with pytest.raises(
        ValueError, match=rf"rows: not used .* {column} \({meaning}.*--ignore-columns {column}"
    ) as error:
        read(tmp_path, record)
    assert "\n" not in str(error.value)
    rows, report = read(tmp_path, record, columns=Columns(ignored=(column,)))
    assert len(rows) == 1
    assert report.unused_columns[column] == "ignored as told"
    assert f"{column} (ignored as told)" in report.summary()


def test_a_column_that_repeats_what_is_used_or_is_empty_needs_no_word(tmp_path):
    record = {"prompt": Q, **TEXT_PAIR, "question": Q, "images": [], "tools": None, "id": 7}
    _, report = read(tmp_path, record)
    assert report.unused_columns == {"question": "repeats what is used", "images": "empty", "tools": "empty", "id": ""}
    assert "columns not used: question (repeats what is used), images (empty), tools (empty), id" in report.summary()


def test_columns_say_what_a_name_does_not(tmp_path):
    record = {"ask": Q, "yes": GOOD, "no": BAD, "rules": "Be brief."}
    with pytest.raises(ValueError, match=r"found columns ask, yes, no, rules; say what they are with --columns"):
        read(tmp_path, record)
    columns = Columns({"prompt": "ask", "chosen": "yes", "rejected": "no", "system": "rules"})
    rows, report = read(tmp_path, record, columns=columns)
    assert dict(rows[0].sides) == both(BRIEF)
    assert report.columns == {"prompt": "ask", "system": "rules", "chosen": "yes", "rejected": "no"}
    assert "read prompt from ask, system from rules" in report.summary()


def test_what_is_better_may_be_another_column(tmp_path):
    record, sides = SHAPES["PKU-SafeRLHF"]
    rows, _ = read(tmp_path, record, columns=Columns({"better": "safer_response_id"}))
    assert dict(rows[0].sides) == {"chosen": Side(HI, BAD), "rejected": Side(HI, GOOD)} != sides


@pytest.mark.parametrize(
    ("given", "ignored", "message"),
    [
        ({"promt": "ask"}, (), r"there is no field promt; did you mean prompt\?"),
        ({"prompt": "promt"}, (), r"--columns: rows has no column promt; did you mean prompt\?"),
        ({}, ("promt",), r"--ignore-columns: rows has no column promt; did you mean prompt\?"),
        ({"label": "prompt"}, (), r"no format takes --columns label=prompt"),
    ],
)
def test_a_mistake_in_columns_is_told(given, ignored, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, {"prompt": Q, **TEXT_PAIR}, columns=Columns(given, ignored))


def test_words_that_two_plain_answers_share_are_no_prompt(tmp_path):
    with pytest.raises(ValueError, match=r"plain answers and no prompt.*: columns chosen, rejected, topic; .*prompt="):
        read(tmp_path, {**TEXT_PAIR, "topic": "x"}, {**TEXT_PAIR, "topic": "y"})


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "[INST] Hi [/INST]",
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>",
        "<start_of_turn>user\nHi<end_of_turn>",
        "Below is an instruction.\n\n### Instruction:\nHi\n\n### Response:",
        "USER: Hi ASSISTANT:",
        "<|user|>\nHi</s>",
    ],
)
def test_text_that_went_through_a_template_refuses_the_file(text, tmp_path):
    record = {"prompt": text, **TEXT_PAIR}
    with pytest.raises(
        ValueError, match=r"prompt holds a chat template's marks in 1 of 1 rows.*--columns prompt=prompt"
    ):
        read(tmp_path, record)
    rows, _ = read(tmp_path, record, columns=Columns({"prompt": "prompt"}))
    assert rows[0].sides["chosen"].prompt == (Message("user", text),)


def test_a_single_mention_of_a_mark_is_noted(tmp_path):
    rows = [{"prompt": f"{i}: what is <|im_start|>?" if i == 3 else f"Question {i}", **TEXT_PAIR} for i in range(20)]
    kept, report = read(tmp_path, *rows)
    assert len(kept) == 20
    assert report.noted == {"template_marks": (4,)}


DROPPED = {
    "repeated_keys": ['{"prompt": "a", "prompt": "b", "chosen": "c", "rejected": "d"}'],
    "message_text": [{"prompt": "[{'role': 'user', 'content': 'Hi'}\n {'role': 'user'}]", **TEXT_PAIR}],
    "not_text": [{"prompt": [user([{"type": "image"}, {"type": "text", "text": Q}])], **TEXT_PAIR}],
    "two_systems": [
        {"system": "Be long.", "prompt": [{"role": "system", "content": "Be brief."}, user(Q)], **TEXT_PAIR}
    ],
    "late_system": [{"prompt": [user(Q), {"role": "system", "content": "Be brief."}, user(Q)], **TEXT_PAIR}],
    "no_question": [{"prompt": CHOSEN, **TEXT_PAIR}],
    "tool_answer": [
        {"prompt": Q, "chosen": [{"role": "assistant", "tool_calls": [{"name": "f"}]}], "rejected": [assistant(BAD)]}
    ],
    "bad_roles": [{"prompt": [{"role": "narrator", "content": "Hi"}], **TEXT_PAIR}],
    "empty_prompt": [{"prompt": float("nan"), **TEXT_PAIR}],
}


@pytest.mark.parametrize("reason", DROPPED)
def test_what_cannot_be_read_has_a_reason_of_its_own(reason, tmp_path):
    good = [{"prompt": f"Question {i}", **TEXT_PAIR} for i in range(5)]
    lines = [record if isinstance(record, str) else json.dumps(record) for record in (*good, *DROPPED[reason])]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    findings = Findings()
    validate(resolve_records(tmp_path / "rows.jsonl"), findings)
    assert findings.report("rows", "line", len(lines)).dropped == {reason: (6,)}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": Q, "response_0": GOOD, "response_1": BAD, "better_response_id": -1}, "tie"),
        ({"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "tie (bothbad)"}, "tie"),
        ({"prompt": Q, "answer_0": GOOD, "score_0": 1, "answer_1": BAD, "score_1": 1}, "tie"),
        ({"prompt": Q, "responses": [GOOD, BAD], "rewards": [1, 1]}, "tie"),
        ({"prompt": Q, "responses": [GOOD, BAD]}, "no_scores"),
        ({"prompt": Q, "response_a": GOOD, "response_b": BAD, "winner": "nobody"}, "bad_label"),
    ],
)
def test_answers_without_a_better_one_are_dropped(record, reason, tmp_path):
    _, report = read(tmp_path, record)
    assert report.dropped == {reason: (1,)}


def test_numbers_that_do_not_fit_the_names_of_two_answers_refuse_the_file(tmp_path):
    records = [{"prompt": Q, "response_1": GOOD, "response_2": BAD, "preference": i} for i in (1, 0)]
    with pytest.raises(ValueError, match=r"no clear preference: preference is 0 beside response_1 and .*\(line 2\)"):
        read(tmp_path, *records)


def test_rows_of_two_vocabularies_in_one_file_are_each_read(tmp_path):
    rows, report = read(tmp_path, {"prompt": Q, **TEXT_PAIR}, {"question": "Hm?", **TEXT_PAIR})
    assert [row.sides["chosen"].prompt[0].content for row in rows] == [Q, "Hm?"]
    assert report.columns["prompt"] == "prompt, question"


def test_the_format_of_a_file_is_that_of_most_of_its_rows():
    rows = [{"prompt": "Hi", "completion": "A", "label": True}, {"prompt": Q, **TEXT_PAIR}, {"prompt": Q, **TEXT_PAIR}]
    assert recognise(rows).known.kind == "paired"

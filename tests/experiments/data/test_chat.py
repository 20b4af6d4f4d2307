"""The boundary between prompt and completion, and what a conversation is as tokens, in three styles of template."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from experiments.data.chat import DATE, ChatFormat, Encoded
from experiments.data.rows import Message, Side, ToolCalls
from tests.experiments.data.preference_files import plain_tokenizer
from tests.tiny import END_OF_TURN, FAMILIES, NAMED, tiny_tokenizer

DIALOGUE = (Message("user", "Hi there"), Message("assistant", "Hello."), Message("user", "What is the capital?"))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip)


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


def encode_one(tokenizer, prompt, completion) -> Encoded:
    (encoded,) = ChatFormat.of(tokenizer).encode([Side(prompt, completion)])
    assert isinstance(encoded, Encoded), encoded
    return encoded


def with_template(template, family="qwen3"):
    tokenizer = tiny_tokenizer(family)
    tokenizer.chat_template = template
    return tokenizer


def test_prompt_and_completion_together_are_what_the_template_writes(family):
    tokenizer = tiny_tokenizer(family)
    turns = [message._asdict() for message in DIALOGUE]
    arguments = {"return_dict": False, "enable_thinking": False}
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, **arguments)
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "Paris."}], **arguments)
    encoded = encode_one(tokenizer, DIALOGUE, "Paris.")
    assert encoded.prompt == prompt
    # all but the line feed that Gemma's and Qwen's templates write after the turn
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[family])
    assert encoded.prompt + encoded.completion == whole[: len(whole) - whole[::-1].index(end)]
    assert tokenizer.decode(encoded.completion) == f"Paris.{END_OF_TURN[family]}"
    assert not encoded.notes


def test_there_is_one_bos_and_one_end_of_turn(family):
    tokenizer = tiny_tokenizer(family)
    encoded = encode_one(tokenizer, DIALOGUE, "Paris.")
    end = tokenizer.convert_tokens_to_ids(END_OF_TURN[family])
    assert [i for i, token in enumerate(encoded.completion) if token == end] == [len(encoded.completion) - 1]
    if bos := NAMED[family].get("bos_token"):
        bos_id = tokenizer.convert_tokens_to_ids(bos)
        assert [i for i, token in enumerate(encoded.prompt + encoded.completion) if token == bos_id] == [0]
        assert encoded.num_kept == 1
    else:
        assert encoded.num_kept == 0


def test_bos_is_added_where_the_tokenizer_wants_it_and_the_template_forgot():
    template = "{% for m in messages %}{{ m['content'] + '<|eot_id|>' }}{% endfor %}"
    tokenizer = with_template(template, "llama3")
    encoded = encode_one(tokenizer, (Message("user", "Hi"),), "Yes")
    assert tokenizer.decode(encoded.prompt) == "<|begin_of_text|>Hi<|eot_id|>"
    assert tokenizer.decode(encoded.completion) == "Yes<|eot_id|>"


def test_a_generation_prompt_is_the_prompt_of_training(family):
    chat = ChatFormat.of(tiny_tokenizer(family))
    (encoded,) = chat.encode([Side(DIALOGUE, "Paris.")])
    assert chat.prompt_ids(DIALOGUE) == encoded.prompt


def test_qwen_answers_without_a_thought():
    tokenizer = tiny_tokenizer("qwen3")
    encoded = encode_one(tokenizer, DIALOGUE, "Paris.")
    assert tokenizer.decode(encoded.prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_an_answer_with_a_thought_replaces_the_empty_one_of_qwen():
    tokenizer = tiny_tokenizer("qwen3")
    answer = "<think>\nFrance's?\n</think>\n\nParis."
    encoded = encode_one(tokenizer, DIALOGUE, answer)
    assert tokenizer.decode(encoded.completion) == answer + "<|im_end|>"
    assert tokenizer.decode(encoded.prompt).endswith("<|im_start|>assistant\n")
    assert encoded.notes == {"thought_prompt"}
    assert_is_what_the_template_makes(tokenizer, DIALOGUE, answer, encoded)


R1 = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{{ m['content'].split('</think>')[-1] | trim }}{{ '<|im_end|>' }}{% else %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)
QWQ = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and not loop.last %}"
    "{{ m['content'].split('</think>')[-1] | trim }}{% else %}{{ m['content'] }}{% endif %}{{ '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


def assert_is_what_the_template_makes(tokenizer, prompt, answer, encoded):
    turns = [message._asdict() for message in (*prompt, Message("assistant", answer))]
    text = tokenizer.apply_chat_template(turns, tokenize=False, enable_thinking=False)
    assert tokenizer.decode(encoded.prompt + encoded.completion) == text.rstrip("\n")


@pytest.mark.parametrize(
    ("template", "answer", "prompt_ends", "completion", "notes"),
    [
        (R1, "Paris.", "assistant\n", "Paris.", {"no_thought"}),
        (R1, "<think>\nHm.\n</think>\n\nParis.", "assistant\n", "Paris.", {"no_thought", "thought_left_out"}),
        (QWQ, "<think>\nHm.\n</think>\n\nParis.", "<think>\n", "Hm.\n</think>\n\nParis.", set()),
        (QWQ, "Paris.", "assistant\n", "Paris.", {"no_thought"}),
    ],
)
def test_thoughts_are_written_as_the_template_writes_them(template, answer, prompt_ends, completion, notes):
    tokenizer = with_template(template)
    encoded = encode_one(tokenizer, DIALOGUE, answer)
    assert tokenizer.decode(encoded.prompt).endswith(prompt_ends)
    assert tokenizer.decode(encoded.completion) == completion + "<|im_end|>"
    assert encoded.notes == notes
    assert_is_what_the_template_makes(tokenizer, DIALOGUE, answer, encoded)


def test_a_thought_of_an_earlier_turn_that_the_template_leaves_out_is_noted():
    tokenizer = with_template(QWQ)
    said = (DIALOGUE[0], Message("assistant", "<think>\nSecret.\n</think>\n\nHello."), DIALOGUE[2])
    encoded = encode_one(tokenizer, said, "Paris.")
    assert encoded.notes == {"no_thought", "earlier_thought"}
    assert_is_what_the_template_makes(tokenizer, said, "Paris.", encoded)


def test_thoughts_are_kept_where_the_template_knows_none():
    tokenizer = tiny_tokenizer("llama3")
    answer = "<think>\nHm.\n</think>\n\nParis."
    encoded = encode_one(tokenizer, DIALOGUE, answer)
    assert tokenizer.decode(encoded.completion) == answer + "<|eot_id|>"
    assert not encoded.notes


def test_an_answer_that_the_template_rewrites_is_taken_as_it_stands_and_noted():
    template = (
        "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
        "{% if messages[-1]['role'] == 'assistant' %}{{ '[closed]' }}{% else %}{{ '[asked]' }}{% endif %}"
    )
    tokenizer = with_template(template)
    encoded = encode_one(tokenizer, (Message("user", "Hi"),), "Yes")
    assert tokenizer.decode(encoded.prompt) == "Hi<|im_end|>[asked]"
    assert tokenizer.decode(encoded.completion) == "Yes<|im_end|>"
    assert encoded.notes == {"rewritten"}


GREETED = (Message("assistant", "Hello!"), Message("user", "Hi"))
ASKED_TWICE = (Message("user", "Hi"), Message("user", "Who are you?"))
CALL = '[{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]'
WITH_TOOL = (Message("user", "Hi"), ToolCalls("assistant", "", CALL), Message("tool", "Rain."))


@pytest.mark.parametrize("prompt", [GREETED, ASKED_TWICE])
def test_turns_out_of_order_are_written_where_the_template_writes_them(prompt):
    tokenizer = tiny_tokenizer("llama3")
    encoded = encode_one(tokenizer, prompt, "Yes")
    assert_is_what_the_template_makes(tokenizer, prompt, "Yes", encoded)
    (refused,) = ChatFormat.of(tiny_tokenizer("gemma2")).encode([Side(prompt, "Yes")])
    assert refused.reason == "turns"
    with pytest.raises(ValueError, match="turns not in order"):
        ChatFormat.of(tiny_tokenizer("gemma2")).prompt_ids(prompt)


def test_turns_that_a_template_leaves_out_are_refused():
    template = (
        "{% for m in messages %}{% if m['role'] != 'assistant' or not loop.first %}{{ m['content'] + '<|im_end|>' }}"
        "{% endif %}{% endfor %}"
    )
    (refused,) = ChatFormat.of(with_template(template)).encode([Side(GREETED, "Yes")])
    assert refused.reason == "turns"


def test_tool_calls_are_written_where_the_template_has_them_and_refused_elsewhere():
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}{% for c in m['tool_calls'] %}"
        "{{ '[' + c.function.name + ' ' + (c.function.arguments | tojson) + ']' }}{% endfor %}{{ '<|im_end|>' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = with_template(template)
    encoded = encode_one(tokenizer, WITH_TOOL, "Yes")
    assert '[weather {"city": "Oslo"}]<|im_end|><|im_start|>tool\nRain.' in tokenizer.decode(encoded.prompt)
    for family in FAMILIES:
        (refused,) = ChatFormat.of(tiny_tokenizer(family)).encode([Side(WITH_TOOL, "Yes")])
        assert refused.reason == "tools"
    (refused,) = ChatFormat.of(plain_tokenizer(eos_token="</s>")).encode([Side(WITH_TOOL, "Yes")])
    assert refused.reason == "tools"


def test_a_token_that_would_join_prompt_and_completion_is_split_at_the_boundary():
    tokenizer = plain_tokenizer(merges=[("a", "b")], eos_token="</s>")
    assert len(tokenizer("ab")["input_ids"]) == 1
    encoded = encode_one(tokenizer, (Message("user", "a"),), "bab")
    assert tokenizer.convert_ids_to_tokens(encoded.prompt) == ["a"]
    assert tokenizer.convert_ids_to_tokens(encoded.completion) == ["b", "ab", "</s>"]
    assert encoded.notes == {"boundary"}


def test_a_tokenizer_without_a_template_gets_prompt_completion_and_eos():
    tokenizer = plain_tokenizer(eos_token="</s>")
    encoded = encode_one(tokenizer, (Message("user", "2 + 2 ="),), " 4")
    assert tokenizer.decode(encoded.prompt) == "2 + 2 ="
    assert tokenizer.decode(encoded.completion) == " 4</s>"
    transcript = encode_one(tokenizer, DIALOGUE, "Paris.")
    assert tokenizer.decode(transcript.prompt).endswith("User:\nWhat is the capital?\n\nAssistant:\n")


def test_a_tokenizer_that_cannot_end_a_turn_is_an_error():
    with pytest.raises(ValueError, match="neither a chat template that ends a turn nor an EOS token"):
        ChatFormat.of(plain_tokenizer())


def test_a_template_that_writes_no_end_gets_eos():
    template = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    tokenizer = with_template(template)
    encoded = encode_one(tokenizer, (Message("user", "Hi"),), "Yes")
    assert tokenizer.decode(encoded.prompt) == "[user]Hi[assistant]"
    assert tokenizer.decode(encoded.completion) == "Yes<|im_end|>"


def test_what_follows_the_end_of_a_turn_is_no_part_of_the_completion():
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + ':' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    )
    template += "{{ '<|im_start|>assistant:' if add_generation_prompt else '<|endoftext|>' }}"
    tokenizer = with_template(template)
    encoded = encode_one(tokenizer, (Message("user", "Hi"),), "Yes")
    assert tokenizer.decode(encoded.completion) == "Yes<|im_end|>"


def test_a_pad_token_that_equals_the_end_of_turn_is_no_obstacle():
    tokenizer = tiny_tokenizer("qwen3")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.bos_token = "<|im_start|>"  # as SmolLM2 has it: every turn begins with BOS
    assert tokenizer.decode(encode_one(tokenizer, DIALOGUE, "Paris.").completion) == "Paris.<|im_end|>"


@pytest.mark.parametrize("place", ["prompt", "completion", "both"])
def test_the_text_of_a_special_token_stays_text(family, place):
    tokenizer, end = tiny_tokenizer(family), END_OF_TURN[family]
    said = f"5 {end}{end}6 {end}user: obey" if place != "completion" else "Hi"
    answer = f"Yes{end} and {end}" if place != "prompt" else "Yes"
    encoded = encode_one(tokenizer, (Message("user", said),), answer)
    template_only = encode_one(tokenizer, (Message("user", "Hi"),), "Yes")
    specials = set(tokenizer.all_special_ids) | {tokenizer.convert_tokens_to_ids(END_OF_TURN[family])}
    assert sum(i in specials for i in encoded.prompt) == sum(i in specials for i in template_only.prompt)
    assert sum(i in specials for i in encoded.completion) == 1
    assert said in tokenizer.decode(encoded.prompt)
    assert tokenizer.decode(encoded.completion) == answer + end
    assert encoded.notes == {"literal_special_token"}


class StubbornTokenizer(PreTrainedTokenizerFast):
    """One that cannot read a special token's text as text."""

    def __call__(self, *args, split_special_tokens=None, **kwargs):
        return super().__call__(*args, **kwargs)


def test_the_text_of_a_special_token_is_refused_where_it_cannot_stay_text():
    qwen = tiny_tokenizer("qwen3")
    tokenizer = StubbornTokenizer(tokenizer_object=qwen.backend_tokenizer, **NAMED["qwen3"])
    tokenizer.chat_template = qwen.chat_template
    sides = [Side((Message("user", text),), answer) for text, answer in (("a<|im_end|>", "b"), ("a", "<|im_end|>b"))]
    refused = ChatFormat.of(tokenizer).encode([*sides, Side((Message("user", "a"),), "b")])
    assert [getattr(each, "reason", None) for each in refused] == ["special_token", "special_token", None]


def test_a_system_message_goes_to_the_user_where_the_template_has_none():
    tokenizer = tiny_tokenizer("gemma2")
    encoded = encode_one(tokenizer, (Message("system", "Be brief."), Message("user", "Hi")), "Yes")
    assert "<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>" in tokenizer.decode(encoded.prompt)
    assert encoded.notes == {"system_merged"}


def test_a_system_message_stays_one_where_the_template_has_it():
    tokenizer = tiny_tokenizer("llama3")
    encoded = encode_one(tokenizer, (Message("system", "Be brief."), Message("user", "Hi")), "Yes")
    assert "system<|end_header_id|>\n\nBe brief.<|eot_id|>" in tokenizer.decode(encoded.prompt)
    assert not encoded.notes


def test_what_the_template_refuses_is_refused_alone():
    template = "{% for m in messages %}{% if 'x' in m['content'] %}{{ raise_exception('no x') }}{% endif %}"
    template += "{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    chat = ChatFormat.of(with_template(template))
    good, bad = chat.encode([Side((Message("user", "a"),), "b"), Side((Message("user", "x"),), "b")])
    assert isinstance(good, Encoded)
    assert bad.reason == "template"
    with pytest.raises(ValueError, match="refuses a prompt: no x"):
        chat.prompt_ids([("user", "x")])


def test_a_template_that_refuses_everything_is_an_error():
    with pytest.raises(ValueError, match="refuses an answered question: never"):
        ChatFormat.of(with_template("{{ raise_exception('never') }}"))


@pytest.mark.parametrize("today", ["{{ strftime_now('%d %b %Y') }}", "{{ date_string or strftime_now('%d %b %Y') }}"])
def test_a_template_that_asks_for_the_date_is_given_the_same_one_every_day(today):
    template = (
        "{{ 'Today is ' }}" + today + "{% for m in messages %}{{ ' ' + m['content'] + '<|im_end|>' }}{% endfor %}"
    )
    tokenizer = with_template(template)
    encoded = encode_one(tokenizer, (Message("user", "Hi"),), "Yes")
    assert tokenizer.decode(encoded.prompt) == f"Today is {DATE} Hi<|im_end|>"


def test_text_that_is_nothing_to_the_template_is_an_empty_completion():
    template = "{% for m in messages %}{{ m['content'].replace('-', '') + '<|im_end|>' }}{% endfor %}"
    (refused,) = ChatFormat.of(with_template(template)).encode([Side((Message("user", "Hi"),), "--")])
    assert refused.reason == "empty_completion"


@settings(deadline=None, max_examples=60)
@given(question=TEXTS, answer=TEXTS)
def test_any_text_comes_back_from_its_tokens(question, answer):
    tokenizer = tiny_tokenizer("qwen3")  # its template trims nothing
    encoded = encode_one(tokenizer, (Message("user", question),), answer)
    assert tokenizer.decode(encoded.completion) == answer + "<|im_end|>"
    assert f"user\n{question}<|im_end|>" in tokenizer.decode(encoded.prompt)


@settings(deadline=None, max_examples=60)
@given(
    parts=st.lists(
        st.sampled_from(["<|eot_id|>", "<|begin_of_text|>", "\ue0001\ue000", "\ue000", "3", " a"]), min_size=1
    )
)
def test_no_mixture_of_special_texts_and_private_characters_is_misread(parts):
    tokenizer = tiny_tokenizer("llama3")
    text = "".join(["x", *parts, "x"])
    encoded = encode_one(tokenizer, (Message("user", text),), text)
    assert tokenizer.decode(encoded.completion) == text + "<|eot_id|>"
    assert encoded.completion.count(tokenizer.eos_token_id) == 1
    assert encoded.prompt.count(tokenizer.bos_token_id) == 1

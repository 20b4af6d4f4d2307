"""Decoding: equal to transformers' where that is defined, independent of the batch, and without idle rows."""

import pytest
import torch

from experiments.data.chat import ChatFormat
from experiments.sampling.generate import encode, generate, stop_tokens
from tests.tiny import END_OF_TURN, FAMILIES, tiny_model, tiny_tokenizer

NEW = 90  # more than the cache grows by at once, and than the tiny Gemma-2's sliding window


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


def chatty(family):
    """A tiny model, and its tokenizer, that ends its turn at many tokens, so that responses have all lengths."""
    model, tokenizer = tiny_model(family), tiny_tokenizer(family)
    # a head of its own: one that shares the embedding's weights repeats one token for ever
    head = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(0))
    model.lm_head.weight = torch.nn.Parameter(head)
    ends = {*stop_tokens(model, ChatFormat.of(tokenizer)), *range(10, len(tokenizer), 16)}
    model.generation_config.eos_token_id = sorted(ends)
    model.generation_config.pad_token_id = tokenizer.pad_token_id or 0
    return model, tokenizer


def random_prompts(num, vocabulary, shortest=1, longest=60):
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest, (num,), generator=generator).tolist()
    return [torch.randint(3, vocabulary, (length,), generator=generator).tolist() for length in lengths]


def generate_with_transformers(model, prompts, **settings):
    """All prompts as one left-padded batch; responses end with their first stop token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    attention = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    with torch.no_grad():
        rows = model.generate(ids, attention_mask=attention, do_sample=False, **settings)[:, width:].tolist()
    stops = model.generation_config.eos_token_id
    ends = [next((i + 1 for i, token in enumerate(row) if token in stops), len(row)) for row in rows]
    return [tuple(row[:end]) for row, end in zip(rows, ends, strict=True)]


def test_greedy_responses_equal_transformers_one_by_one_and_in_batches_of_any_size(family):
    model, tokenizer = chatty(family)
    prompts = random_prompts(9, len(tokenizer))
    alone = [generate_with_transformers(model, [prompt], max_new_tokens=NEW)[0] for prompt in prompts]
    assert len(set(map(len, alone))) > 4, "the test needs responses of different lengths"
    assert generate_with_transformers(model, prompts, max_new_tokens=NEW) == alone
    for batch_size in (1, 4, 64):
        responses = generate(model, tokenizer, prompts, max_new_tokens=NEW, batch_size=batch_size)
        assert [response.token_ids for response in responses] == alone
        assert [response.finished for response in responses] == [
            tokens[-1] in model.generation_config.eos_token_id for tokens in alone
        ]


def test_log_probs_are_those_of_a_forward_at_temperature_one(family):
    model, tokenizer = chatty(family)
    prompts = [[5, 6, 7], [5, 6, 7], [9, 8, 7, 6, 5, 4]]
    responses = generate(
        model, tokenizer, prompts, max_new_tokens=12, temperature=0.7, top_p=0.9, batch_size=4, logps=True
    )
    for prompt, response in zip(prompts, responses, strict=True):
        ids = torch.tensor([[*prompt, *response.token_ids]])
        with torch.no_grad():
            logps = model(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = logps.gather(-1, torch.tensor(response.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(response.logps), expected, rtol=1e-4, atol=1e-4)
    assert not generate(model, tokenizer, prompts[:1], max_new_tokens=2)[0].logps, "nobody asked"


def test_equal_prompts_are_read_once():
    model, tokenizer = tiny_model("llama3"), tiny_tokenizer("llama3")
    read = []
    embed = model.model.embed_tokens
    hook = embed.register_forward_hook(lambda module, given, made: read.append(tuple(given[0].shape)))
    prompts = [[5, 6, 7, 8]] * 6 + [[9, 10]] * 2
    together = generate(model, tokenizer, prompts, max_new_tokens=5, temperature=1.0, batch_size=8)
    hook.remove()
    assert read[0] == (2, 4), "two prompts, whoever asks them"
    assert read[1][0] == 8
    apart = generate(model, tokenizer, prompts, max_new_tokens=5, temperature=1.0, batch_size=1)
    assert [response.token_ids for response in together] == [response.token_ids for response in apart]
    assert len({response.token_ids for response in together[:6]}) > 1


def test_rows_are_computed_only_for_tokens_that_are_kept():
    model, tokenizer = chatty("llama3")
    prompts = random_prompts(40, len(tokenizer), shortest=2)  # so that only a step is one token wide
    computed = []
    model.model.layers[0].register_forward_hook(lambda module, args, output: computed.append(tuple(args[0].shape[:2])))
    responses = generate(model, tokenizer, prompts, max_new_tokens=NEW, batch_size=8)
    steps = [rows for rows, width in computed if width == 1]
    assert sum(steps) == sum(response.num_tokens - 1 for response in responses)
    assert max(steps) == 8
    assert sum(rows for rows in steps if rows > 4) > 0.7 * sum(steps), "new prompts take the place of finished rows"


def test_samples_do_not_depend_on_the_batch_or_on_the_other_prompts(family):
    model, tokenizer = chatty(family)
    prompts = random_prompts(9, len(tokenizer))
    settings = {"max_new_tokens": 40, "temperature": 0.9, "top_p": 0.95, "seed": 3}
    together = generate(model, tokenizer, prompts, batch_size=9, **settings)
    assert generate(model, tokenizer, prompts, batch_size=2, **settings) == together
    assert generate(model, tokenizer, prompts[5:], batch_size=2, **settings) == together[5:]
    assert generate(model, tokenizer, prompts, batch_size=9, **settings | {"seed": 4}) != together


def test_equal_prompts_get_samples_of_their_own():
    model, tokenizer = chatty("qwen3")
    prompt = random_prompts(1, len(tokenizer))[0]
    responses = generate(model, tokenizer, [prompt] * 6, max_new_tokens=20, temperature=5.0)
    assert len(set(responses)) == 6


@pytest.mark.parametrize(("temperature", "top_p"), [(0.05, 1.0), (0.05, 0.6), (1.0, 0.3)])
def test_first_tokens_are_drawn_from_the_tempered_nucleus(temperature, top_p):
    model, tokenizer = tiny_model("llama3"), tiny_tokenizer("llama3")
    prompt, num = random_prompts(1, len(tokenizer), longest=8)[0], 3000
    with torch.no_grad():
        expected = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1)
    nucleus = []
    for token in expected.argsort(descending=True).tolist():
        if sum(expected[nucleus]) < top_p:
            nucleus.append(token)
    expected = torch.zeros_like(expected).index_copy(0, torch.tensor(nucleus), expected[nucleus])
    expected /= expected.sum()
    responses = generate(
        model, tokenizer, [prompt] * num, max_new_tokens=1, temperature=temperature, top_p=top_p, batch_size=512
    )
    counts = torch.bincount(torch.tensor([r.token_ids[0] for r in responses]), minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    deviation = (counts - num * expected).abs() / (num * expected * (1 - expected)).sqrt().clamp(min=1)
    assert deviation.max() < 4.5  # standard deviations, over some hundred tokens


def test_a_conversation_gets_one_bos_and_opens_the_assistants_turn(family):
    tokenizer = tiny_tokenizer(family)
    chat = ChatFormat.of(tokenizer)
    ids = encode(chat, [{"role": "user", "content": "What is the capital?"}])
    assert ids.count(tokenizer.bos_token_id) == (0 if tokenizer.bos_token_id is None else 1)
    opened = {"llama3": "assistant<|end_header_id|>\n\n", "gemma2": "model\n", "qwen3": "<think>\n\n</think>\n\n"}
    assert tokenizer.decode(ids).endswith(opened[family])
    assert encode(chat, ids) == ids


def test_the_end_of_the_turn_is_read_from_the_template(family):
    model, tokenizer = tiny_model(family), tiny_tokenizer(family)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN[family])
    assert stop_tokens(model, ChatFormat.of(tokenizer)) == {tokenizer.eos_token_id, end_of_turn}


def test_text_leaves_out_what_ended_the_turn():
    model, tokenizer = tiny_model("llama3"), tiny_tokenizer("llama3")
    said = generate(model, tokenizer, [[5, 6, 7]], max_new_tokens=3)[0]
    assert (said.finished, said.num_tokens) == (False, 3)
    assert said.text == tokenizer.decode(said.token_ids)
    model.generation_config.eos_token_id = said.token_ids[1]
    ended = generate(model, tokenizer, [[5, 6, 7]], max_new_tokens=3)[0]
    assert ended.finished
    assert said.token_ids[: ended.num_tokens] == ended.token_ids
    assert ended.text == tokenizer.decode(ended.token_ids[:-1])


def test_each_response_is_reported_once_as_soon_as_it_is_complete():
    model, tokenizer = chatty("gemma2")
    prompts, reported, progress = random_prompts(7, len(tokenizer)), {}, []
    responses = generate(
        model,
        tokenizer,
        prompts,
        max_new_tokens=20,
        batch_size=3,
        on_response=lambda index, response: reported.update({index: response}),
        progress=lambda done, total: progress.append((done, total, len(reported))),
    )
    assert [reported[i] for i in range(7)] == responses
    assert progress == [(done, 7, done) for done in range(1, 8)]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_an_adapter_takes_part_and_the_model_stays_trainable():
    from peft import LoraConfig, get_peft_model

    model, tokenizer = chatty("llama3")
    prompts = random_prompts(4, len(tokenizer))
    before = generate(model, tokenizer, prompts, max_new_tokens=20)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=True)).train()
    assert generate(adapted, tokenizer, prompts, max_new_tokens=20) == before
    assert all(module.training for module in adapted.modules())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(parameter, 0.3)
    assert generate(adapted, tokenizer, prompts, max_new_tokens=20) != before
    adapted(torch.tensor([prompts[0]])).logits.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in adapted.parameters())


def test_nothing_to_say_is_no_error():
    assert generate(tiny_model("llama3"), tiny_tokenizer("llama3"), [], max_new_tokens=5) == []


@pytest.mark.parametrize(
    ("prompts", "settings", "message"),
    [
        ([[]], {}, "empty prompt"),
        ([[5] * 500], {"max_new_tokens": 20}, "500 tokens and 20 new ones exceed the model's context of 512"),
        ([[5]], {"temperature": -1.0}, r"temperature \(-1.0\)"),
        ([[5]], {"top_p": 0.0}, r"top_p \(0.0\)"),
        ([[5]], {"max_new_tokens": 0}, r"max_new_tokens \(0\)"),
    ],
)
def test_impossible_requests_name_the_value(prompts, settings, message):
    with pytest.raises(ValueError, match=message):
        generate(tiny_model("llama3"), tiny_tokenizer("llama3"), prompts, **{"max_new_tokens": 5, **settings})

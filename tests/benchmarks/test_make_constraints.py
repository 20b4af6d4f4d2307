"""The data set `constraints`: how rows are made, that a killed generator goes on, and what the shipped rows hold."""

import hashlib
import json
from collections import Counter
from random import Random

import pytest

from benchmarks import make_constraints
from benchmarks.constraint_prompts.constraint_families import FAMILIES, Topic
from benchmarks.constraint_prompts.editing import edited, plain_sentences
from benchmarks.constraint_prompts.rows import Sample, build_row, family_rates
from benchmarks.constraint_prompts.schedule import compatible, plan, stated
from benchmarks.make_constraints import PARTIAL, Recipe, main, make
from experiments.verifiers.verifiers import Constraint, parse_constraints, read_rows, verify
from registry.datasets import CONSTRAINTS_FOLDER, DATASETS
from tests.tiny import tiny_model, tiny_tokenizer

MOON = Topic("the moon", ("night", "tides", "orbit", "craters"))
SNOW = Topic("snow", ("winter", "cold", "white", "flakes"))
RESULTS = ("train.jsonl", "test.jsonl", "PROVENANCE.json")
RECIPE = Recipe(model="tiny", weights="0", num_train=6, num_test=3, samples=2, max_new_tokens=4)


@pytest.fixture(scope="module")
def tiny():
    model = tiny_model("qwen3")
    model.config.max_position_embeddings = 2048  # a prompt takes more of the tiny vocabulary's tokens
    return model, tiny_tokenizer("qwen3")


@pytest.fixture(scope="module")
def shipped():
    return {split: read_rows(CONSTRAINTS_FOLDER / f"{split}.jsonl") for split in ("train", "test")}


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_can_be_met_by_editing_and_says_its_arguments(name):
    rng = Random(0)
    for _ in range(5):
        statement = stated(name, SNOW, rng)
        response = edited([name], [statement.constraint], SNOW, ["Snow is water, but cold. It falls at night."])
        assert verify([statement.constraint], response) == (True,)
        for value in statement.constraint.kwargs.values():
            words = value if isinstance(value, list) else [value]
            shown = [w for w in words if w not in ("less than", "at least", ",", "?", "!")]
            assert all(str(word) in statement.text for word in shown)


def test_what_the_model_said_is_edited_before_anything_is_invented():
    constraints = [Constraint("punctuation:no_comma"), Constraint("change_case:english_lowercase")]
    said = "1. **The moon is a big, cold and dusty rock.**\n2. I am happy to help"
    assert plain_sentences(said) == ["The moon is a big, cold and dusty rock."]
    assert edited(["no_comma", "lowercase"], constraints, MOON, [said]) == "the moon is a big cold and dusty rock."


def test_constraints_that_contradict_each_other_are_told():
    both = [Constraint("length_constraints:word_range", {"low": a, "high": a + 1}) for a in (3, 20)]
    with pytest.raises(ValueError, match="no response about the moon follows"):
        edited(["word_range", "word_range"], both, MOON, [])


def test_a_longer_plan_begins_with_the_shorter_one_and_another_seed_asks_otherwise():
    assert plan("train", 20, 0)[:8] == plan("train", 8, 0)
    assert plan("train", 8, 1) != plan("train", 8, 0)


def test_families_of_one_group_or_that_clash_do_not_meet():
    assert compatible(["no_comma", "lowercase", "question"])
    assert not compatible(["no_comma", "commas"])
    assert not compatible(["json_keys", "no_comma"])
    assert not compatible(["bullets", "exact_sentences"])
    assert not compatible(["bullets", "highlight"])


def test_a_row_holds_verdicts_the_pair_that_follows_and_prompts_that_are_violated():
    planned = next(p for p in plan("train", 40, 0) if p.families == ("word_range",))
    low = planned.constraints[0].kwargs["low"]
    good = f"{planned.topic.name} " + "so " * low
    samples = [Sample("No.", 2, True), Sample("so " * low, 9, True), Sample(good, 9, False), Sample("", 1, True)]
    row = build_row(planned, samples, seed=0)
    assert [sample["strict"] for sample in row["samples"]] == [(False,), (True,), (True,), (False,)]
    assert (row["expert"], row["expert_origin"]) == (good, "sample")  # it names the topic
    assert row["pairs"] == [{"chosen": good, "rejected": "No.", "chosen_origin": "sample"}]
    assert {change["change"] for change in row["preferential"]} == {"modification", "insertion"}
    assert family_rates([row])["word_range"] == {"samples": 4, "strict": 0.5, "loose": 0.5}
    assert build_row(planned, samples[2:3], seed=0)["pairs"] == []
    without = build_row(planned, samples[:1], seed=0)
    assert without["expert_origin"] == without["pairs"][0]["chosen_origin"] == "edited"


def test_a_killed_generator_goes_on_to_the_same_bytes(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(make_constraints, "CHUNK", 2)
    make(RECIPE, tmp_path / "whole", *tiny)

    def kill(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(RECIPE, tmp_path / "killed", *tiny, progress=kill)
    partial = tmp_path / "killed" / PARTIAL
    partial.write_text(partial.read_text() + '{"id": "train-0004", "samp')  # killed while writing
    asked = []
    make(RECIPE, tmp_path / "killed", *tiny, progress=lambda done, total: asked.append(done))
    assert asked == [6, 8, 9]  # nothing was sampled twice
    for name in RESULTS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert {path.name for path in (tmp_path / "killed").iterdir()} == set(RESULTS)


def test_samples_of_another_recipe_are_not_mixed_in(tiny, tmp_path):
    (tmp_path / PARTIAL).write_text('{"recipe": {"seed": 1}}\n')
    with pytest.raises(ValueError, match=r"samples of another recipe; remove it, or give another --out"):
        make(RECIPE, tmp_path, *tiny)


def test_a_mistyped_model_is_told_in_one_line(tmp_path, capsys):
    assert main(["--out", str(tmp_path), "--model", "smolm2_135m"]) == 2
    told = capsys.readouterr().err
    assert "smollm2_135m" in told
    assert told.count("\n") == 1


def test_shipped_files_are_whole_and_small():
    provenance = json.loads((CONSTRAINTS_FOLDER / "PROVENANCE.json").read_text())
    for name, digest in provenance["sha256"].items():
        assert hashlib.sha256((CONSTRAINTS_FOLDER / name).read_bytes()).hexdigest() == digest
    assert sum(path.stat().st_size for path in CONSTRAINTS_FOLDER.iterdir()) <= 4_000_000
    assert provenance["counts"]["pairs"] == DATASETS["constraints"].num_rows
    assert provenance["counts"]["preferential"] == DATASETS["constraints_preferential"].num_rows
    assert provenance["recipe"]["num_train"] == provenance["counts"]["train"] == 600


def test_shipped_topics_and_combinations_of_the_test_are_unseen(shipped):
    topics, combinations = (
        {split: {value(row) for row in rows} for split, rows in shipped.items()}
        for value in (lambda row: row["topic"], lambda row: frozenset(row["families"]))
    )
    assert not topics["train"] & topics["test"]
    assert not combinations["train"] & combinations["test"]
    assert [len(shipped[split]) for split in ("train", "test")] == [600, 200]
    assert Counter(len(row["samples"]) for row in shipped["train"]) == {4: 600}


def test_shipped_verdicts_pairs_and_preferential_prompts_are_what_the_verifiers_say(shipped):
    for row in [*shipped["train"], *shipped["test"]]:
        constraints = parse_constraints(row["constraints"])
        for sample in row["samples"]:
            assert list(verify(constraints, sample["response"])) == sample["strict"]
        assert all(verify(constraints, row["expert"]))
        for pair in row["pairs"]:
            assert pair["chosen"] == row["expert"]
            assert not all(verify(constraints, pair["rejected"]))
        for change in row["preferential"]:
            assert change["completion"] == row["expert"]
            assert change["chosen_prompt"] == row["prompt"] != change["rejected_prompt"]
            assert not all(verify(parse_constraints(change["rejected_constraints"]), row["expert"], loose=True))


def test_shipped_prompts_are_what_the_plan_asks(shipped):
    for split, rows in shipped.items():
        planned = plan(split, 30, 0)
        assert [p.prompt for p in planned] == [row["prompt"][0]["content"] for row in rows[: len(planned)]]

"""The plan of a comparison: what it will take, on one screen, and a verdict with the numbers."""

import dataclasses
import io

from rich.console import Console

from benchmarks.planning.costs import Memory, memory
from benchmarks.planning.plan import DataFacts, MethodPlan, Plan, render, verdict
from experiments.experiment import Training
from experiments.models.loading import meta_model
from methods import resolve

GB = 10**9
LORA, FULL = Training(steps=10, lora_rank=16), Training(steps=10, lora_rank=None)


def llama3(training):
    tokens = {"longest_row_tokens": 384, "completion_tokens": 128}
    return memory(resolve("dpo").spec, training, meta_model("llama3_8b"), **tokens)


def test_a_refusal_has_the_numbers_and_what_to_do():
    judged = verdict("llama3_8b", llama3(FULL), FULL, 23_400_000_000)
    assert not judged.fits
    for words in (
        "llama3_8b needs ",
        "weights 32.1",
        "optimizer 64.2",
        "has 23.4 GB free",
        "a smaller model",
        "--lora",
    ):
        assert words in judged.sentence
    assert "--lora" not in verdict("llama3_8b", llama3(LORA), LORA, GB).sentence


def test_what_fits_is_told_with_the_numbers():
    judged = verdict("tiny", Memory(weights=GB), LORA, 2 * GB)
    assert judged.fits
    assert "tiny needs 1.0 GB (weights 1.0) and this machine has 2.0 GB free" in judged.sentence
    assert verdict("tiny", Memory(weights=GB), LORA, GB).fits
    assert not verdict("tiny", Memory(weights=GB), LORA, GB - 1).fits


def test_what_fits_only_if_the_heap_gives_back_what_is_freed_may_fit():
    needed = Memory(weights=GB, activations=GB)
    assert verdict("tiny", needed, LORA, 3 * GB).sentence.startswith("fits: ")
    judged = verdict("tiny", needed, LORA, 3 * GB - 1)
    assert judged.fits
    assert judged.sentence == (
        "may fit: tiny needs 2.0 GB (weights 1.0, activations 1.0) and this machine has 3.0 GB free; a heap that keeps "
        "what is freed took up to 1.0 GB more where it was measured"
    )
    assert not verdict("tiny", needed, LORA, 2 * GB - 1).fits


def a_plan(free_bytes=16 * GB):
    methods = [
        MethodPlan(name="dpo", lr=1e-4, memory=Memory(weights=GB), seconds=100),
        MethodPlan(
            name="ganpo_dpo",
            lr=2e-4,
            memory=Memory(weights=GB, discriminators=GB),
            seconds=200,
            changed={"latent.weight": 0.3},
        ),
    ]
    return Plan(
        model="smollm2_135m",
        num_parameters=134_515_008,
        num_trainable=4_884_480,
        training=Training(steps=5, micro_batch_size=2),
        data=DataFacts(
            name="dpo_en_demo",
            num_train=40,
            num_held_out=30,
            mean_tokens=255.5,
            longest_tokens=384,
            train_tokens=20_440,
        ),
        cells=[("base", None, "to run"), ("dpo", 0, "finished"), ("dpo", 1, "to run"), ("ganpo_dpo", 0, "to run")],
        methods=methods,
        free_bytes=free_bytes,
        task_seconds={"held_out": 10, "ifeval": 30},
    )


def test_finished_cells_take_no_time_and_the_untrained_model_is_only_evaluated():
    plan = a_plan()
    assert plan.cell_seconds == {"base": 40, "dpo": 140, "ganpo_dpo": 240}
    assert plan.total_seconds == 40 + 140 + 240
    trained = dataclasses.replace(plan, cells=[("base", None, "finished"), ("dpo", 0, "to evaluate")])
    assert trained.total_seconds == 40


def test_a_plan_fits_where_its_largest_method_does():
    assert a_plan(2 * GB).verdict.fits
    assert not a_plan(2 * GB - 1).verdict.fits


def test_a_method_that_is_finished_keeps_no_plan_from_fitting():
    plan = a_plan(GB)
    assert not plan.verdict.fits
    done = [(name, seed, "finished" if name == "ganpo_dpo" else status) for name, seed, status in plan.cells]
    judged = dataclasses.replace(plan, cells=done).verdict
    assert judged.fits
    assert "needs 1.0 GB" in judged.sentence
    untrained = dataclasses.replace(plan, cells=[("base", None, "to run")], free_bytes=0).verdict
    assert untrained.sentence == "fits: smollm2_135m needs 0.0 GB and this machine has 0.0 GB free"


def test_the_memory_table_is_whole_in_80_columns():
    whole = a_plan()
    large = Memory(**dict.fromkeys(Memory().parts, 99 * GB))
    methods = [dataclasses.replace(method, memory=large) for method in whole.methods]
    methods[1] = dataclasses.replace(methods[1], name="ganpo_dpo_saturating")
    console = Console(file=io.StringIO(), width=80)
    console.print(render(dataclasses.replace(whole, methods=methods)))
    shown = console.file.getvalue()
    assert "…" not in shown
    for words in ("weights", "mizer", "ries", "total", "792.00"):
        assert words in shown


def test_a_plan_is_shown_on_one_screen():
    console = Console(file=io.StringIO(), width=120)
    console.print(render(a_plan()))
    shown = console.file.getvalue()
    assert len(shown.splitlines()) < 30
    for words in (
        "134,515,008",
        "lora-16",
        "latent.weight=0.3",
        "0.0002",
        "finished",
        "seed 1",
        "20,440",
        "3 of 4 cells",
    ):
        assert words in shown
    assert "fits: smollm2_135m needs 2.0 GB" in shown


def test_a_comparison_that_the_disk_cannot_hold_is_refused_with_the_numbers():
    whole = dataclasses.replace(a_plan(), num_parameters=GB, num_trainable=GB, training=FULL, free_disk_bytes=100 * GB)
    waiting = sum(name != "base" and status == "to run" for name, _, status in whole.cells)
    assert waiting > 0
    assert whole.verdict.fits
    needed = waiting * 4 + 2 * 3 * 4  # GB: a policy a cell, two checkpoints of weights and two moments
    assert f"needs {needed}.0 GB of disk and 100.0 GB are free" in whole.disk.sentence
    small = dataclasses.replace(whole, free_disk_bytes=(needed - 1) * GB)
    assert not small.verdict.fits
    assert "of disk" in small.verdict.sentence
    assert "--out on another disk" in small.verdict.sentence
    done = [(name, seed, "finished") for name, seed, _ in whole.cells]
    assert dataclasses.replace(small, cells=done, free_disk_bytes=0).verdict.fits
    adapter = dataclasses.replace(small, training=LORA, num_trainable=1_000_000)
    assert adapter.verdict.fits, "a cell keeps its adapter alone"

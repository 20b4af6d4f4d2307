"""AAPA (arXiv 2509.25148): the staged configuration, demonstrations first and then GRPO with a fixed anchor."""

from benchmarks.presets.types import PRESETS, SMALL, SMALL_LR, Arm, Claim, Measure, Preset, Scale
from benchmarks.results.references import AAPA, PUBLISHED
from methods.aapa import PAPER

(TABLE,) = (table for table in PUBLISHED if table.paper == AAPA)
MEASURES = {"quality": Measure(task="constraints", value="followed_strict")}
SHARED = ("--dataset", "constraints", "--tasks", "constraints", "--seeds", "0,1,2")

PRESETS.add(
    Preset(
        name="aapa_staged",
        paper=PAPER,
        where="abstract",
        arms=(
            Arm(label="sft", method="sft"),
            Arm(label="grpo", method="grpo"),
            Arm(label="aapa_grpo", method="aapa_grpo"),
            Arm(label="staged", method="aapa_grpo", after="sft", published="aapa_grpo after sft"),
        ),
        claims=(
            Claim(first="staged", second="grpo", published=5.77),
            Claim(first="staged", second="aapa_grpo"),
        ),
        scales={
            "small": Scale(
                arguments=(
                    *(*SMALL, "--dataset", "constraints", "--max-pairs", "96", "--max-steps", "6"),
                    *("--tasks", "constraints"),
                ),
                settings=SMALL_LR | {"sampling.num_generations": "4"},
                measures=MEASURES,
                note="SmolLM2-135M with LoRA; 1e-4 for every arm; the anchor's loss is our reading of the paper",
            ),
            "paper": Scale(
                arguments=("--model", "qwen3_0_6b", "--full", "--epochs", "1", "--batch-size", "128", *SHARED),
                measures=MEASURES,
                note="Qwen3-0.6B; the paper's data are not public, and the anchor is our reading of it",
            ),
        },
        published=TABLE,
    )
)

"""AAPA (arXiv 2509.25148): the staged configuration, demonstrations first and then GRPO with a fixed anchor."""

from benchmarks.comparison.config import ComparisonConfig, TrainingConfig
from benchmarks.presets.types import PRESETS, SMALL_LR, Arm, Claim, Measure, Preset, Scale, small
from benchmarks.results.references import AAPA, PUBLISHED
from methods.aapa import PAPER

(TABLE,) = (table for table in PUBLISHED if table.paper == AAPA)
MEASURES = {"quality": Measure(task="constraints", value="followed_strict")}
FIRST, STAGED = "sft, the first half", "sft → aapa_grpo"

PRESETS.add(
    Preset(
        name="aapa_staged",
        paper=PAPER,
        where="abstract",
        arms=(
            Arm(label="grpo", method="grpo"),
            Arm(label="aapa_grpo", method="aapa_grpo"),
            # One half of the updates in each of two stages: as many in all as the arms of one stage
            Arm(label=FIRST, method="sft", updates=0.5),
            Arm(label="sft → grpo", method="grpo", after=FIRST, updates=0.5),
            Arm(label=STAGED, method="aapa_grpo", after=FIRST, updates=0.5, published="aapa_grpo after sft"),
        ),
        claims=(
            Claim(first=STAGED, second="grpo", differs_in=("aapa", "after"), published=5.77),
            Claim(first=STAGED, second="sft → grpo", differs_in=("aapa",)),
            Claim(first=STAGED, second="aapa_grpo", differs_in=("after",)),
        ),
        scales={
            "small": Scale(
                config=small(tasks=("constraints",), max_pairs=96, max_steps=6),
                settings=SMALL_LR | {"sampling.num_generations": "4"},
                measures=MEASURES,
                note="SmolLM2-135M with LoRA; 1e-4 for every arm; the anchor's loss is our reading of the paper",
            ),
            "paper": Scale(
                config=ComparisonConfig(
                    model="qwen3_0_6b",
                    dataset="constraints",
                    seeds=(0, 1, 2),
                    tasks=("constraints",),
                    training=TrainingConfig(lora_rank=None, batch_size=128),
                ),
                measures=MEASURES,
                note="Qwen3-0.6B; the paper's data are not public, and the anchor is our reading of it",
            ),
        },
        published=TABLE,
    )
)

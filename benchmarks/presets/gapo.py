"""GAPO (arXiv 2503.20194): preferential prompts against preferential responses, for PPO and for GAPO."""

from benchmarks.comparison.config import ComparisonConfig, DataConfig, TrainingConfig
from benchmarks.presets.types import PRESETS, SMALL_LR, Arm, Claim, Measure, Preset, Scale, small
from benchmarks.results.references import GAPO, PUBLISHED
from methods.gapo import PAPER

(TABLE,) = (table for table in PUBLISHED if (table.paper, table.where) == (GAPO, "preferential prompts"))
RESPONSES, PROMPTS = "constraints", "constraints_preferential"  # the same instructions in both
MEASURES = {"quality": Measure(task="constraints", value="followed_strict")}

PRESETS.add(
    Preset(
        name="gapo_pp_vs_pr",
        paper=PAPER,
        where=TABLE.where,
        arms=tuple(
            Arm(label=f"{name}, {kind}", method=method, dataset=dataset, published=name)
            for name, method in (("ppo", "ppo_base"), ("gapo", "gapo"))
            for kind, dataset in (("responses", RESPONSES), ("prompts", PROMPTS))
        ),
        claims=(
            Claim(first="ppo, prompts", second="ppo, responses", differs_in=("dataset",), published=10.9),
            Claim(first="gapo, prompts", second="gapo, responses", differs_in=("dataset",), published=12.5),
            Claim(first="gapo, prompts", second="ppo, prompts", differs_in=("gapo.adversarial",), published=6.0),
            Claim(first="gapo, responses", second="ppo, responses", differs_in=("gapo.adversarial",), published=4.4),
        ),
        scales={
            "small": Scale(
                config=small(tasks=("constraints",), max_pairs=96, max_steps=6),
                settings=SMALL_LR
                | {
                    "sampling.num_generations": "2",
                    "sampling.batches": "2",  # of 6 updates: three stages
                    "gapo.warmup_items": "64",
                    "gapo.stage_items": "32",
                },
                measures=MEASURES,
                note="SmolLM2-135M with LoRA; verifiable demands, not product descriptions; 1e-4 for every arm",
            ),
            "paper": Scale(
                config=ComparisonConfig(
                    model="qwen2_5_7b",
                    dataset=RESPONSES,
                    seeds=(0, 1, 2),
                    tasks=("constraints",),
                    data=DataConfig(max_pairs=400),  # of both data sets
                    training=TrainingConfig(
                        lora_rank=None, max_steps=15, batch_size=128, micro_batch_size=2, gradient_checkpointing=True
                    ),
                ),
                measures=MEASURES,
                # 15 stages: the paper's reward model improves in the first seven and settles after twelve
                settings={"gapo.scorer": "longformer_large", "sampling.batches": "1"},
                note=(
                    "the paper's product descriptions are not public: its comparison, on verifiable demands; these are"
                    " few, so that a rollout has 128 prompts instead of 1024"
                ),
            ),
        },
        published=TABLE,
    )
)

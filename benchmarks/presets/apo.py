"""APO (arXiv 2311.08045): policies with and without the game (Table 2), reward models by round (Table 3) and ablations
of the reward model (Table 4).

At small scale the reward is a verifier's, which trained no policy and no reward model: the paper's two judges were
trained on supersets of its own preference data.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.comparison.config import ComparisonConfig, DataConfig, TrainingConfig
from benchmarks.presets.types import PRESETS, SMALL_LR, Arm, Claim, Measure, Preset, Scale, ScaleName, small
from benchmarks.results.references import APO, PUBLISHED
from methods.apo import LR, PAPER

REWARDS, POLICIES = (
    next(table for table in PUBLISHED if (table.paper, table.where) == (APO, where))
    for where in ("reward models", "policies")
)
AT_SMALL_SCALE: Mapping[str, Any] = {"max_pairs": 240, "max_steps": 6}
SMALL_SETTINGS = SMALL_LR | {
    "sampling.num_generations": "2",
    "apo.rm_batch_size": "8",  # a round of these few pairs is one update at 64, from which no reward model learns
    "apo.rm_epochs": "3",
}
LARGE = ComparisonConfig(
    model="llama3_8b",
    seeds=(0, 1, 2),
    data=DataConfig(max_length=512),
    training=TrainingConfig(
        lora_rank=None,
        epochs=0.25,  # a quarter of the rows are the prompts that the policy is trained on: one pass over them
        batch_size=128,
        micro_batch_size=2,
        gradient_checkpointing=True,
    ),
)
# As large as the policy. Its head alone learns, so the paper's 1e-6 for a whole model is no rate for it
LARGE_SETTINGS = {"apo.scorer": "backbone", "lr": f"{LR:g}"}
SMALL_NOTE = "SmolLM2-135M with LoRA on verifiable demands; 1e-4 for every arm, unswept; two samples a prompt"
LARGE_NOTE = (
    "the paper trains Alpaca-7B on HH-RLHF, and the whole of a 7B reward model at 1e-6; a newer base here, and its"
    " frozen backbone with a head that learns as reward model"
)


def _policy_gain(first: str, second: str) -> float:
    rows = POLICIES.rows
    return round(float(rows[first][1]) - float(rows[second][1]), 3)


PRESETS.add(
    Preset(
        name="apo_table2",
        paper=PAPER,
        where="Table 2",
        arms=tuple(
            Arm(
                label=f"{name} on {model}",
                method=f"{kind}_base" if model == "RM_Base" else f"apo_{kind}",
                published=row,
            )
            for kind, name, plain in (("rjs", "RJS", "raft"), ("rrhf", "RRHF", "rrhf"), ("dpo", "DPO", "dpo"))
            for model, row in (("RM_Base", plain), ("APO", f"apo_{kind}"))
        ),
        claims=tuple(
            Claim(
                first=f"{name} on APO",
                second=f"{name} on RM_Base",
                differs_in=("apo.adversarial",),
                published=_policy_gain(first, second),
            )
            for name, first, second in (
                ("RJS", "apo_rjs", "raft"),
                ("RRHF", "apo_rrhf", "rrhf"),
                ("DPO", "apo_dpo", "dpo"),
            )
        ),
        scales={
            "small": Scale(
                config=small(tasks=("constraints", "reward_model"), **AT_SMALL_SCALE),
                measures={"quality": Measure(task="constraints", value="followed_strict")},
                settings=SMALL_SETTINGS,
                note=SMALL_NOTE,
            ),
            "paper": Scale(
                config=replace(LARGE, dataset="ultrafeedback_binarized", tasks=("alpaca_eval", "reward_model")),
                measures={"quality": Measure(task="alpaca_eval", value="win_rate")},
                settings=LARGE_SETTINGS,
                note=f"{LARGE_NOTE}; on UltraFeedback, because AlpacaEval asks prompts of HH-RLHF",
            ),
        },
        published=POLICIES,
        note="the published differences are of RM_Test, a reward model that trained no policy",
    )
)

RATED = {"quality": Measure(task="reward_model", value="accuracy")}
RM_SCALES: Mapping[ScaleName, Scale] = {
    "small": Scale(
        config=small(tasks=("reward_model",), **AT_SMALL_SCALE),
        measures=RATED,
        settings=SMALL_SETTINGS,
        note=SMALL_NOTE,
    ),
    "paper": Scale(
        config=replace(LARGE, dataset="hh_rlhf", tasks=("reward_model",)),
        measures=RATED,
        settings=LARGE_SETTINGS,
        note=LARGE_NOTE,
    ),
}


def _accuracy_gain(first: str, second: str) -> float:
    rows = REWARDS.rows
    return round(float(rows[first][0]) - float(rows[second][0]), 2)


FURTHER_ROUND = ("apo.rounds", "updates")
PRESETS.add(
    Preset(
        name="apo_table3",
        paper=PAPER,
        where="Table 3",
        arms=(
            Arm(label="Base", method="rjs_base", published="base"),
            Arm(label="v1.1", method="apo_rjs", published="APO v1.1"),
            *(
                Arm(
                    label=f"v{rounds}",
                    method="apo_rjs",
                    settings={"apo.rounds": str(rounds)},
                    updates=rounds,
                    published=f"APO v{rounds}",
                )
                for rounds in (2, 3)
            ),
        ),
        claims=(
            Claim(
                first="v1.1",
                second="Base",
                differs_in=("apo.adversarial",),
                published=_accuracy_gain("APO v1.1", "base"),
            ),
            Claim(first="v2", second="v1.1", differs_in=FURTHER_ROUND, published=_accuracy_gain("APO v2", "APO v1.1")),
            Claim(first="v3", second="v2", differs_in=FURTHER_ROUND, published=_accuracy_gain("APO v3", "APO v2")),
        ),
        scales=RM_SCALES,
        published=REWARDS,
        note="v2 and v3 are further rounds: as many times the updates, at rates that fall from round to round",
    )
)

ABLATIONS = {
    "AB": ({"apo.adversarial": "False", "apo.sequential": "True"}, "trained on without golden pairs (AB)"),
    "WGAN": ({"apo.rm_loss": "wgan"}, "rm_loss=wgan"),
    "GAIL": ({"apo.prior_weight": "0.0"}, "prior_weight=0 (GAIL)"),
}
PRESETS.add(
    Preset(
        name="apo_table4",
        paper=PAPER,
        where="Table 4",
        arms=(
            Arm(label="v1.1", method="apo_rjs", published="APO v1.1"),
            *(
                Arm(label=name, method="apo_rjs", settings=settings, published=row)
                for name, (settings, row) in ABLATIONS.items()
            ),
        ),
        claims=(
            *(
                Claim(
                    first="v1.1",
                    second=name,
                    differs_in=tuple(settings),
                    published=_accuracy_gain("APO v1.1", row),
                )
                for name, (settings, row) in ABLATIONS.items()
            ),
            Claim(
                first="GAIL",
                second="AB",
                differs_in=("apo.adversarial", "apo.prior_weight", "apo.sequential"),
                higher=False,
                published=_accuracy_gain(ABLATIONS["GAIL"][1], ABLATIONS["AB"][1]),
            ),
        ),
        scales=RM_SCALES,
        published=REWARDS,
        note="AB goes on from the baseline's reward model, on the same preference pairs and no golden ones",
    )
)

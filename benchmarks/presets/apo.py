"""APO (arXiv 2311.08045): Table 2, policies with and without the game, and Table 3, their reward models.

At small scale the reward is a verifier's, which trained no policy and no reward model: the paper's two judges were
trained on supersets of its own preference data.
"""

from benchmarks.presets.types import PRESETS, SMALL, SMALL_LR, Arm, Claim, Measure, Preset, Scale
from benchmarks.results.references import APO, PUBLISHED
from methods.apo import PAPER

REWARDS, POLICIES = (
    next(table for table in PUBLISHED if (table.paper, table.where) == (APO, where))
    for where in ("reward models", "policies")
)
AT_SMALL_SCALE = (*SMALL, "--dataset", "constraints", "--max-pairs", "240", "--max-steps", "6")
SMALL_SETTINGS = SMALL_LR | {
    "sampling.num_generations": "2",
    "apo.rm_batch_size": "8",  # a round of these few pairs is one update at 64, from which no reward model learns
    "apo.rm_epochs": "3",
}
LARGE = (
    *("--model", "llama3_8b", "--full", "--epochs", "1", "--max-length", "512", "--batch-size", "128"),
    *("--micro-batch-size", "2", "--gradient-checkpointing", "--seeds", "0,1,2"),
)
# As large as the policy. Its head alone learns, so the paper's 1e-6 for a whole model is no rate for it
LARGE_SETTINGS = {"apo.scorer": "backbone"}
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
            Claim(first=f"{name} on APO", second=f"{name} on RM_Base", published=_policy_gain(first, second))
            for name, first, second in (
                ("RJS", "apo_rjs", "raft"),
                ("RRHF", "apo_rrhf", "rrhf"),
                ("DPO", "apo_dpo", "dpo"),
            )
        ),
        scales={
            "small": Scale(
                arguments=(*AT_SMALL_SCALE, "--tasks", "constraints,reward_model"),
                measures={"quality": Measure(task="constraints", value="followed_strict")},
                settings=SMALL_SETTINGS,
                note=SMALL_NOTE,
            ),
            "paper": Scale(
                arguments=(*LARGE, "--dataset", "ultrafeedback_binarized", "--tasks", "alpaca_eval,reward_model"),
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
PRESETS.add(
    Preset(
        name="apo_table3",
        paper=PAPER,
        where="Table 3",
        arms=(
            Arm(label="APO", method="apo_rjs", published="APO v3"),
            Arm(
                label="AB",
                method="apo_rjs",
                settings={"apo.adversarial": "False"},
                published="trained on without golden pairs (AB)",
            ),
            Arm(label="WGAN", method="apo_rjs", settings={"apo.rm_loss": "wgan"}, published="rm_loss=wgan"),
            Arm(
                label="GAIL", method="apo_rjs", settings={"apo.prior_weight": "0.0"}, published="prior_weight=0 (GAIL)"
            ),
        ),
        claims=(
            Claim(first="APO", second="AB", published=4.03),
            Claim(first="APO", second="WGAN", published=3.62),
            Claim(first="APO", second="GAIL", published=10.98),
            Claim(first="GAIL", second="AB", higher=False, published=-6.95),
        ),
        scales={
            "small": Scale(
                arguments=(*AT_SMALL_SCALE, "--tasks", "reward_model"),
                measures=RATED,
                settings=SMALL_SETTINGS,
                note=SMALL_NOTE,
            ),
            "paper": Scale(
                arguments=(*LARGE, "--dataset", "hh_rlhf", "--tasks", "reward_model"),
                measures=RATED,
                settings=LARGE_SETTINGS,
                note=LARGE_NOTE,
            ),
        },
        published=REWARDS,
    )
)

"""GANPO (arXiv 2601.22083): Table 1 on two models, Figure 3 and Table 3.

At small scale AlpacaEval's judge is out of reach: what is measured is how many verifiable demands are met, and the
learning rate is one that moves a small model in a few dozen steps, equal for all arms and swept for none.
"""

from collections.abc import Mapping
from dataclasses import replace

from benchmarks.comparison.config import ComparisonConfig, DataConfig, TrainingConfig
from benchmarks.presets.types import PRESETS, SMALL_LR, Arm, Claim, Measure, Preset, Scale, ScaleName, small
from benchmarks.results.references import GANPO, GEMMA, LLAMA, PUBLISHED
from methods.ganpo import PAPER

TABLE_1 = {table.setting: table for table in PUBLISHED if (table.paper, table.where) == (GANPO, "Table 1")}
(TABLE_3,) = (table for table in PUBLISHED if (table.paper, table.where) == (GANPO, "Table 3"))
CONTROLLED = 1  # of WIN_RATES: the column of the length-controlled rate
ALPACA_EVAL = Measure(task="alpaca_eval", value="length_adjusted_winrate")  # controlled, without difficulties
LENGTH_CONTROLLED = "the published differences are of length-controlled win rates"
AT_SMALL_SCALE = Scale(
    config=small(tasks=("constraints", "held_out"), max_pairs=96),
    measures={"quality": Measure(task="constraints", value="followed_strict")},
    settings=SMALL_LR,
    note="SmolLM2-135M with LoRA; verifiable demands instead of a judge; 1e-4 for every arm, unswept",
)


def _paper(model: str, dataset: str, temperature: float, *, lr: float) -> Scale:
    return Scale(
        config=ComparisonConfig(
            model=model,
            dataset=dataset,
            seeds=(0, 1, 2),
            tasks=("alpaca_eval",),
            task_settings={"temperature": temperature},
            data=DataConfig(max_length=2048),
            training=TrainingConfig(lora_rank=None, batch_size=128, micro_batch_size=2, gradient_checkpointing=True),
        ),
        measures={"quality": ALPACA_EVAL},
        settings={"lr": f"{lr:g}"},
        note="the paper reports one run; three seeds here",
    )


# The paper's rates of the policy, for all its methods on a model
GEMMA_SCALE = _paper("gemma2_2b", "ultrafeedback_binarized", 0.7, lr=5e-7)
LLAMA_SCALE = _paper("llama3_8b", "llama3_ultrafeedback_armorm", 0.9, lr=1e-6)
# SimPO's as its authors set it: for gemma-2-9b-it, and for Llama-3-8B-Instruct on the data that ArmoRM labelled
GEMMA_SIMPO = {"simpo.beta": "10", "simpo.gamma_beta_ratio": "0.5"}
LLAMA_SIMPO = {"simpo.beta": "10", "simpo.gamma_beta_ratio": "0.3"}


def _gain(setting: str, first: str, second: str) -> float:
    rows = TABLE_1[setting].rows
    return round(float(rows[first][CONTROLLED]) - float(rows[second][CONTROLLED]), 2)


def _table_1(name: str, setting: str, scale: Scale, simpo: Mapping[str, str], **settings: Mapping[str, str]) -> Preset:
    return PRESETS.add(
        Preset(
            name=name,
            paper=PAPER,
            where="Table 1",
            arms=tuple(
                Arm(label=method, method=method, settings=settings.get(method, {}))
                for method in ("dpo", "ganpo_dpo", "simpo", "ganpo_simpo")
            ),
            claims=(
                *(
                    Claim(
                        first=f"ganpo_{base}",
                        second=base,
                        differs_in=("latent",),
                        published=_gain(setting, f"ganpo_{base}", base),
                    )
                    for base in ("dpo", "simpo")
                ),
                Claim(first="simpo", second="dpo", differs_in=("objective",), published=_gain(setting, "simpo", "dpo")),
            ),
            scales={"small": AT_SMALL_SCALE, "paper": replace(scale, settings={**scale.settings, **simpo})},
            published=TABLE_1[setting],
            note=LENGTH_CONTROLLED,
        )
    )


_table_1("ganpo_table1_gemma", GEMMA, GEMMA_SCALE, GEMMA_SIMPO)
_table_1(
    "ganpo_table1_llama",
    LLAMA,
    LLAMA_SCALE,
    LLAMA_SIMPO,
    ganpo_dpo={"latent.layers": "4"},
    ganpo_simpo={"latent.layers": "4"},
)

KIND = ("latent.discriminator",)
PRESETS.add(
    Preset(
        name="ganpo_table3",
        paper=PAPER,
        where="Table 3",
        arms=(
            Arm(label="none", method="dpo", published="dpo (none)"),
            Arm(
                label="mse",
                method="ganpo_dpo",
                settings={"latent.discriminator": "mse"},
                published="ganpo_dpo, latent.discriminator=mse",
            ),
            Arm(
                label="mlp",
                method="ganpo_dpo",
                settings={"latent.discriminator": "mlp"},
                published="ganpo_dpo, latent.discriminator=mlp",
            ),
            Arm(label="transformer", method="ganpo_dpo", published="ganpo_dpo"),
        ),
        claims=(
            Claim(first="transformer", second="none", differs_in=("latent",), published=1.90),
            Claim(first="transformer", second="mlp", differs_in=KIND, published=2.17),
            Claim(first="transformer", second="mse", differs_in=KIND, published=2.66),
            Claim(first="mlp", second="none", differs_in=("latent",), higher=False, published=-0.27),
            Claim(first="mse", second="none", differs_in=("latent",), higher=False, published=-0.76),
        ),
        scales={"small": AT_SMALL_SCALE, "paper": GEMMA_SCALE},
        published=TABLE_3,
        note=LENGTH_CONTROLLED,
    )
)


ROBUSTNESS = {"hot": Measure(task="robustness", value="hot"), "drop": Measure(task="robustness", value="drop")}
_SCALES: Mapping[ScaleName, Scale] = {"small": AT_SMALL_SCALE, "paper": GEMMA_SCALE}
FIGURE_3: Mapping[ScaleName, Scale] = {
    name: replace(
        scale,
        config=replace(scale.config, tasks=("robustness",), task_settings={**scale.config.task_settings, "of": of}),
        measures=ROBUSTNESS,
    )
    for (name, scale), of in zip(_SCALES.items(), ("constraints", "alpaca_eval"), strict=True)
}
PRESETS.add(
    Preset(
        name="ganpo_fig3",
        paper=PAPER,
        where="Figure 3",
        arms=tuple(Arm(label=method, method=method) for method in ("dpo", "ganpo_dpo")),
        claims=(
            Claim(first="ganpo_dpo", second="dpo", differs_in=("latent",), measure="hot"),
            Claim(first="ganpo_dpo", second="dpo", differs_in=("latent",), higher=False, measure="drop"),
        ),
        scales=FIGURE_3,
        note="`hot` is the score at the highest temperature, `drop` what is lost from the lowest to it",
    )
)

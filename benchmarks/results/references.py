"""Published results, which stand beside our rows and never among them: other models, other data, other judges."""

import csv
import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

NOTE = (
    "From the papers, on other models, data, judges and machines: to be read for their order, never ranked and not to "
    "be compared with the rows above."
)
LEADERBOARD = "weighted_alpaca_eval_gpt4_turbo_leaderboard.csv"
WIN_RATES = ("win rate, %", "length-controlled, %", "length, characters")


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Part of a table of a paper. `rows` maps our name of a method to its published figures, one for each column."""

    paper: str  # arXiv id
    where: str  # "Table 1"
    title: str
    setting: str  # the model and the data
    columns: tuple[str, ...]
    rows: dict[str, tuple[float | str, ...]]

    def __post_init__(self) -> None:
        for name, values in self.rows.items():
            if len(values) != len(self.columns):
                raise ValueError(
                    f"{self.where} of {self.paper}: {name} has {len(values)} of {len(self.columns)} values"
                )

    @property
    def cells(self) -> dict[str, tuple[str, ...]]:
        """The rows as text, with equal decimals in a column, as they were printed."""
        columns = list(zip(*self.rows.values(), strict=True))
        decimals = [max(len(str(v).partition(".")[2]) if isinstance(v, float) else 0 for v in c) for c in columns]
        return {
            name: tuple(f"{v:.{d}f}" if isinstance(v, float) else str(v) for v, d in zip(values, decimals, strict=True))
            for name, values in self.rows.items()
        }

    @property
    def url(self) -> str:
        return f"https://arxiv.org/abs/{self.paper}"


GANPO, APO, GAPO, AAPA = "2601.22083", "2311.08045", "2503.20194", "2509.25148"
GEMMA = "Gemma-2-2B-it, ultrafeedback_binarized"
LLAMA = "Llama-3-8B-Instruct, llama3-ultrafeedback-armorm"

PUBLISHED = (
    PublishedTable(
        paper=GANPO,
        where="Table 1",
        title="AlpacaEval 2",
        setting=GEMMA,
        columns=WIN_RATES,
        rows={
            "dpo": (22.76, 27.79, 1668),
            "ganpo_dpo": (24.17, 29.69, 1664),
            "simpo": (30.66, 36.03, 1740),
            "ganpo_simpo": (31.37, 36.74, 1745),
        },
    ),
    PublishedTable(
        paper=GANPO,
        where="Table 1",
        title="AlpacaEval 2",
        setting=LLAMA,
        columns=WIN_RATES,
        rows={
            "dpo": (33.90, 32.34, 2041),
            "ganpo_dpo": (35.23, 33.87, 2043),
            "simpo": (44.09, 48.31, 1836),
            "ganpo_simpo": (46.11, 50.48, 1834),
        },
    ),
    PublishedTable(
        paper=GANPO,
        where="Table 2",
        title="Downstream tasks, %",
        setting=GEMMA,
        columns=("GSM8K", "MMLU", "ANLI-R3", "TruthfulQA"),
        rows={
            "untrained": (46.32, 56.73, 47.75, 53.11),
            "dpo": (48.37, 57.02, 47.92, 55.28),
            "ganpo_dpo": (48.67, 56.93, 48.25, 55.67),
        },
    ),
    PublishedTable(
        paper=GANPO,
        where="Table 3",
        title="AlpacaEval 2 by discriminator",
        setting=GEMMA,
        columns=WIN_RATES,
        rows={
            "dpo (none)": (22.76, 27.79, 1668),
            "ganpo_dpo, latent.discriminator=mse": (22.96, 27.03, 1684),
            "ganpo_dpo, latent.discriminator=mlp": (22.66, 27.52, 1671),
            "ganpo_dpo": (24.17, 29.69, 1664),
        },
    ),
    PublishedTable(
        paper=GANPO,
        where="Table 4",
        title="Training time",
        setting="Gemma: 4 A100 (DPO), 2 H200 (SimPO); Llama: 4 A100",
        columns=("Gemma-2-2B-it", "Llama-3-8B-Instruct"),
        rows={
            "dpo": ("2h 31m 50s", "4h 20m 13s"),
            "ganpo_dpo": ("2h 37m 24s", "4h 34m 08s"),
            "simpo": ("2h 11m 22s", "3h 10m 40s"),
            "ganpo_simpo": ("3h 17m 26s", "4h 15m 52s"),
        },
    ),
    PublishedTable(
        paper=APO,
        where="reward models",
        title="Held-out pairs",
        setting="HH-RLHF",
        columns=("accuracy, %", "ECE"),
        rows={
            "base": (63.04, 0.019),
            "trained on without golden pairs (AB)": (63.53, 0.041),
            "rm_loss=wgan": (63.94, 0.067),
            "prior_weight=0 (GAIL)": (56.58, 0.167),
            "APO v1.1": (66.73, 0.033),
            "APO v2": (67.07, 0.025),
            "APO v3": (67.56, 0.031),
        },
    ),
    PublishedTable(
        paper=APO,
        where="policies",
        title="Mean reward of the responses",
        setting="HH-RLHF; the policy is Alpaca",
        columns=("RM_All", "RM_Test"),
        rows={
            "untrained": (1.246, 0.922),
            "sft on golden responses": (2.179, 1.670),
            "raft": (1.546, 1.204),
            "apo_rjs": (1.610, 1.251),
            "rrhf": (1.719, 1.338),
            "apo_rrhf": (1.988, 1.543),
            "dpo": (2.345, 1.842),
            "apo_dpo": (2.614, 1.916),
        },
    ),
    PublishedTable(
        paper=GAPO,
        where="main results",
        title="Following constraints, %",
        setting="Qwen-2.5-7B",
        columns=("IFEval", "product descriptions"),
        rows={
            "gapo": (83.9, 90.2),
            "ppo": (75.6, 89.7),
            "sft": (78.3, 82.6),
            "kto": (54.4, "–"),
            "orpo": (33.9, 7.5),
            "dpo": (33.3, 5.4),
            "simpo": (30.6, 2.9),
        },
    ),
    PublishedTable(
        paper=GAPO,
        where="preferential prompts",
        title="Preferential prompts against preferential responses, %",
        setting="product descriptions, 6,600 samples",
        columns=("preferential responses", "preferential prompts"),
        rows={"ppo": (78.5, 89.4), "gapo": (82.9, 95.4)},
    ),
    PublishedTable(
        paper=AAPA,
        where="abstract",
        title="Gain over GRPO, %",
        setting="Qwen3, the staged configuration",
        columns=("Qwen3-0.6B", "Qwen3-4B"),
        rows={"aapa_grpo after sft": (5.77, 3.75)},
    ),
)


JUDGED = ("win_rate", "length_controlled_winrate", "avg_length")  # columns of alpaca_eval's own leaderboard
SHOWN = (  # of its 223 models: the strongest and those that a reader knows
    *("gpt-4o-2024-05-13", "gpt4_1106_preview", "claude-3-opus-20240229", "gpt4", "gpt4_gamed"),
    *("Meta-Llama-3-8B-Instruct", "Mistral-7B-Instruct-v0.2", "gemma-7b-it", "alpaca-7b", "text_davinci_003"),
)


def alpaca_eval_leaderboard() -> PublishedTable | None:
    """Rows of the leaderboard that alpaca_eval publishes and its package carries; None where it is not installed."""
    found = importlib.util.find_spec("alpaca_eval")
    folders = [Path(folder) for folder in (found.submodule_search_locations or () if found else ())]
    paths = [path for folder in folders for path in folder.glob(f"leaderboards/**/{LEADERBOARD}")]
    if not paths:
        return None
    with paths[0].open(encoding="utf-8") as file:
        first = {row[""]: row for row in csv.DictReader(file)}
    rows: dict[str, tuple[float | str, ...]] = {
        name: (*(round(float(first[name][key]), 2) for key in JUDGED[:2]), int(float(first[name][JUDGED[2]])))
        for name in SHOWN
        if name in first and all(first[name].get(key) for key in JUDGED)
    }
    if not rows:
        return None
    return PublishedTable(
        paper="2404.04475",
        where="alpaca_eval’s leaderboard",
        title="AlpacaEval 2",
        setting="805 prompts against gpt4_1106_preview, judged by GPT-4 Turbo",
        columns=WIN_RATES,
        rows=rows,
    )


def published_for(papers: Collection[str], *, judged: bool = False) -> list[PublishedTable]:
    """The published tables of the papers (arXiv ids) whose methods are on a leaderboard.

    With `judged`, AlpacaEval's own leaderboard comes last.
    """
    own = alpaca_eval_leaderboard() if judged else None
    return [*(table for table in PUBLISHED if table.paper in papers), *([own] if own else [])]

"""The preference data that a name stands for, where it comes from, and which evaluations it spoils."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry.assets import PackageAsset
from registry.cards import Paper
from registry.catalogue import Catalogue
from registry.packages import DPO_EN_DEMO, KTO_EN_DEMO

DEFAULT_TASK = "ifeval"
Kind = Literal["paired", "unpaired", "preferential"]
# trl: TRL's column names, plain text or messages of role and content.
# sharegpt: `conversations` of {"from", "value"} (system, human, gpt), then `chosen` and `rejected`, one message each.
# messages: `messages` whose last one is the answer, and a boolean `label`.
# transcript: `chosen` and `rejected` are dialogues, "\n\nHuman: ...\n\nAssistant: ...", equal up to the last turn.
Layout = Literal["trl", "sharegpt", "messages", "transcript"]


@dataclass(frozen=True, kw_only=True)
class DatasetPreset:
    """Preferences by name. `contaminates` names the tasks whose prompts a policy trained on these rows has seen,
    `task` the one that generates answers to prompts most like them.
    """

    name: str
    kind: Kind
    layout: Layout
    licence: str
    paper: Paper
    hub: str | None = None
    split: str = "train"  # our own splits are made within this one
    num_rows: int | None = None
    contaminates: tuple[str, ...] = ()
    task: str = DEFAULT_TASK
    package: PackageAsset | None = None
    file: Path | None = None  # in this repository
    nested: str | None = None  # the column that holds a list of rows, which have their record's other columns too
    note: str = ""


DATASETS: Catalogue[DatasetPreset] = Catalogue("data set")
CONSTRAINTS_FOLDER = Path(__file__).parent / "constraints"
DEFAULT_DATASET = "dpo_en_demo"

LLAMA_FACTORY = Paper(
    title="LlamaFactory: Unified Efficient Fine-Tuning of 100+ Language Models",
    arxiv="2403.13372",
    year=2024,
    code="https://github.com/hiyouga/LLaMA-Factory",
)
ULTRAFEEDBACK = Paper(
    title="UltraFeedback: Boosting Language Models with Scaled AI Feedback", arxiv="2310.01377", year=2023
)

DATASETS.add(
    DatasetPreset(
        name="dpo_en_demo",
        kind="paired",
        layout="sharegpt",
        num_rows=300,
        licence="Apache-2.0",
        paper=LLAMA_FACTORY,
        package=DPO_EN_DEMO,
        note="long: 413 tokens a prompt, 312 and 341 a response on average; 70 rows fit 384 tokens",
    )
)
DATASETS.add(
    DatasetPreset(
        name="kto_en_demo",
        kind="unpaired",
        layout="messages",
        num_rows=300,
        licence="Apache-2.0",
        paper=LLAMA_FACTORY,
        package=KTO_EN_DEMO,
        note="150 answers are labelled good, 150 bad",
    )
)
DATASETS.add(
    DatasetPreset(
        name="ultrafeedback_binarized",
        kind="paired",
        layout="trl",
        hub="trl-lib/ultrafeedback_binarized",
        num_rows=62_135,
        licence="MIT",
        paper=ULTRAFEEDBACK,
        note="the prompt is in both columns; GPT-4 graded the answers",
    )
)
DATASETS.add(
    DatasetPreset(
        name="llama3_ultrafeedback_armorm",
        kind="paired",
        layout="trl",
        hub="princeton-nlp/llama3-ultrafeedback-armorm",
        num_rows=59_876,
        licence="MIT",
        paper=Paper(
            title="SimPO: Simple Preference Optimization with a Reference-Free Reward",
            arxiv="2405.14734",
            year=2024,
            code="https://github.com/princeton-nlp/SimPO",
        ),
        note="five answers of Llama-3-8B-Instruct to each UltraFeedback prompt; best against worst by ArmoRM",
    )
)
DATASETS.add(
    DatasetPreset(
        name="hh_rlhf",
        kind="paired",
        layout="transcript",
        hub="Anthropic/hh-rlhf",
        num_rows=160_800,
        licence="MIT",
        contaminates=("alpaca_eval",),
        paper=Paper(
            title="Training a Helpful and Harmless Assistant with Reinforcement Learning from Human Feedback",
            arxiv="2204.05862",
            year=2022,
            code="https://github.com/anthropics/hh-rlhf",
        ),
        note="AlpacaEval's helpful_base prompts are from this corpus (its test split)",
    )
)

IFEVAL = Paper(title="Instruction-Following Evaluation for Large Language Models", arxiv="2311.07911", year=2023)
DATASETS.add(
    DatasetPreset(
        name="constraints",
        task="constraints",
        kind="paired",
        layout="trl",
        num_rows=580,
        licence="Apache-2.0",
        paper=IFEVAL,
        file=CONSTRAINTS_FOLDER / "train.jsonl",
        nested="pairs",
        note="600 short instructions, answered by SmolLM2-135M and verified; most chosen answers are edited samples",
    )
)
DATASETS.add(
    DatasetPreset(
        name="constraints_preferential",
        task="constraints",
        kind="preferential",
        layout="trl",
        num_rows=1_196,
        licence="Apache-2.0",
        paper=Paper(
            title="GAPO: Learning Preferential Prompt through Generative Adversarial Policy Optimization",
            arxiv="2503.20194",
            year=2025,
        ),
        file=CONSTRAINTS_FOLDER / "train.jsonl",
        nested="preferential",
        note="the same instructions: one response, a prompt that it follows and one that it violates",
    )
)

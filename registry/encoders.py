"""Encoders that a reward model or a discriminator can be built on: each reads text through a tokenizer of its own."""

from dataclasses import dataclass

from registry.assets import PackageAsset
from registry.cards import Paper
from registry.catalogue import Catalogue
from registry.packages import MINILM


@dataclass(frozen=True, kw_only=True)
class EncoderPreset:
    """An encoder by name. `lr` is what a reward model on it is trained with where a method does not say."""

    name: str
    hub: str
    num_parameters: int
    licence: str
    max_length: int  # tokens of prompt and response together
    lr: float
    paper: Paper
    package: tuple[PackageAsset, ...] = ()  # files of one folder; a copy that needs no hub
    note: str = ""


ENCODERS: Catalogue[EncoderPreset] = Catalogue("encoder")
DEFAULT_ENCODER = "minilm"

ENCODERS.add(
    EncoderPreset(
        name="minilm",
        hub="sentence-transformers/all-MiniLM-L6-v2",
        num_parameters=22_713_216,
        licence="Apache-2.0",
        max_length=512,
        lr=5e-5,
        package=MINILM,
        paper=Paper(
            title="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
            arxiv="2002.10957",
            year=2020,
        ),
        note="small enough for two cores; what every method takes that is not told otherwise",
    )
)

LONGFORMER = Paper(title="Longformer: The Long-Document Transformer", arxiv="2004.05150", year=2020)
LONGFORMER_NOTE = "if the hub holds pickled weights only, save them once as safetensors and give the folder"
MODERNBERT = Paper(
    title="Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and Long"
    " Context Finetuning and Inference",
    arxiv="2412.13663",
    year=2024,
)

for _name, _hub, _num_parameters, _licence, _max_length, _paper, _note in (
    (
        "longformer",
        "allenai/longformer-base-4096",
        148_659_456,
        "Apache-2.0",
        4096,
        LONGFORMER,
        f"GAPO's script; {LONGFORMER_NOTE}",
    ),
    (
        "longformer_large",
        "allenai/longformer-large-4096",
        434_600_960,
        "Apache-2.0",
        4096,
        LONGFORMER,
        f"GAPO's paper; {LONGFORMER_NOTE}",
    ),
    ("modernbert", "answerdotai/ModernBERT-base", 149_014_272, "Apache-2.0", 8192, MODERNBERT, ""),
    ("modernbert_large", "answerdotai/ModernBERT-large", 394_781_696, "Apache-2.0", 8192, MODERNBERT, ""),
):
    ENCODERS.add(
        EncoderPreset(
            name=_name,
            hub=_hub,
            num_parameters=_num_parameters,
            licence=_licence,
            max_length=_max_length,
            lr=1e-5,
            paper=_paper,
            note=_note,
        )
    )

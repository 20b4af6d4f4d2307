"""What a newcomer adds in one file works at once, without another file being touched.

The files of docs/extending.md stand in tests/extensions; each is installed for the time of a test.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from optuna.distributions import IntDistribution
from torch.nn import functional as F

from benchmarks import run
from benchmarks.comparison.listing import spell_range
from benchmarks.tuning.space import space_of
from experiments.rewards.rounds import alternation
from experiments.rewards.scorers import checksum
from experiments.rewards.sources import check_reward
from experiments.studies.study import Outcome, work
from methods import METHODS, OBJECTIVES, REGULARIZERS, resolve
from methods.catalogue import objective, regularizer
from methods.protocols import Adversary, Method, Penalizer, Sampling
from methods.types import Loss
from registry import Paper, flatten, override, search_space, tunable
from tests import ROOT
from tests.benchmarks.tasks import test_every_task as every_task
from tests.benchmarks.test_run import write_pairs
from tests.experiments.studies.test_study import study
from tests.experiments.training import adversarial_runs
from tests.experiments.training import test_every_method as every_method
from tests.experiments.training.toy_rows import trainer, vowels
from tests.extensions import installed
from tests.methods import test_adversaries as adversaries
from tests.methods import test_catalogue as catalogue
from tests.tiny import save_tiny

PAPER = Paper(title="A method of a newcomer", arxiv="2601.00001", year=2026)
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = {
    "slic": "methods/slic.py",
    "wgan": "methods/wgan.py",
    "preference_reward": "methods/preference_reward.py",
    "brevity": "benchmarks/tasks/brevity.py",
}


@pytest.fixture
def registry():
    """The catalogues, given back as they were."""
    with OBJECTIVES.temporarily(), REGULARIZERS.temporarily(), METHODS.temporarily():
        yield


@pytest.mark.parametrize("name", FILES)
def test_the_page_shows_the_extension_as_it_is(name):
    source = (Path(__file__).parent / "extensions" / f"{name}.py").read_text(encoding="utf-8")
    diff = re.search(
        rf"```diff\n--- /dev/null\n\+\+\+ b/{FILES[name]}\n@@ -0,0 \+1,(\d+) @@\n(.*?)```", PAGE, re.DOTALL
    )
    assert diff is not None
    assert "".join(line[1:] for line in diff[2].splitlines(keepends=True)) == source
    assert int(diff[1]) == len(source.splitlines())


def contract(name):
    """What the suite asks of every registered method."""
    catalogue.test_every_method_cites_its_paper_and_its_learning_rate(name)
    catalogue.test_every_method_serialises_and_is_restored_from_values_and_from_text(name)
    catalogue.test_every_default_lies_inside_its_search_range(name)
    catalogue.test_every_part_is_what_the_trainer_will_ask_it_to_be(name)


def test_a_new_pairwise_objective(tmp_path):
    with installed("slic") as module:
        contract("slic")
        every_method.test_a_method_moves_what_learns_and_only_that_logs_and_resumes_to_the_bit("slic", tmp_path)
        assert list(resolve("slic+latent").spec.parts) == ["slic", "latent"]
        margin = torch.tensor([0.0, 3.0, -1.0])
        torch.testing.assert_close(module.slic_loss(margin, delta=1.0), F.relu(1 - margin))
        log = trainer("slic+latent", micro=2).step()
        assert log["slic/reward_margin"] == pytest.approx(
            log["slic/reward_chosen"] - log["slic/reward_rejected"], rel=1e-4
        )
    assert "slic" not in METHODS


def test_a_new_regularizer_that_learns_keeps_the_contract_of_the_registered_ones(tmp_path):
    with installed("wgan"):
        spec = REGULARIZERS["wgan"].spec
        assert isinstance(spec, Adversary)
        assert isinstance(spec, Penalizer)
        for check in adversaries.CHECKS:
            (tmp_path / check.__name__).mkdir()
            check("wgan", tmp_path / check.__name__)
        assert "wgan.lr" in search_space(resolve("simpo+wgan").spec)
        catalogue.test_any_objective_takes_any_regularizer("simpo", "wgan")


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_an_objective_that_compares_samples_is_refused_with_one_sample_a_prompt(name):
    method = override(resolve(name).spec, {"sampling.num_generations": 1})
    with pytest.raises(ValueError, match=f"{name} keeps one sample of a prompt"):
        check_reward(name, method, dataset="constraints", verifier=vowels)
    check_reward(name, resolve(name).spec, dataset="constraints", verifier=vowels)


def test_a_second_text_reward_model_is_fitted(monkeypatch, tmp_path):
    models = adversarial_runs.tiny_models(tmp_path)
    data = adversarial_runs.tiny_data(tmp_path, models["policy"])
    small = {"preference_reward.rm_lr": 1e-3, "preference_reward.rm_batch_size": 4, "sampling.num_generations": 2}
    monkeypatch.setitem(adversarial_runs.SMALL, "preference_reward", small)
    with installed("preference_reward"):
        given = {"sampling.verifier_weight": 0.0}
        check_reward("x", override(resolve("rloo+preference_reward").spec, given), dataset="pairs", verifier=None)
        run = adversarial_runs.tiny_trainer("rloo+preference_reward", models, data, tmp_path, given)
    (player,) = [player for player in run.players if player.spec.name == "preference_reward"]
    before = checksum(player.net)
    log = run.step()
    fitted = checksum(player.net)
    assert fitted != before
    assert log["preference_reward/num_items"] == len(data.train)
    assert log["preference_reward/accuracy"] > 0.5
    assert "rollout/preference_reward" in log
    run.step()
    assert checksum(player.net) == fitted, "it is fitted once"


def test_a_text_reward_model_that_nothing_fits_is_refused(registry):
    with installed("preference_reward") as module:

        @regularizer(PAPER)
        @dataclass(frozen=True, kw_only=True)
        class Unfitted(module.PreferenceReward):
            name: ClassVar[str] = "unfitted"
            curriculum = property()  # it declares none

        method = resolve("grpo+unfitted").spec
        with pytest.raises(ValueError, match="unfitted rewards by a network that nothing fits: declare its curriculum"):
            check_reward("grpo+unfitted", method, dataset="constraints", verifier=None)
        assert alternation(method) is None


@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_a_whole_number_is_searched(registry, sampler, tmp_path):
    @objective(PAPER, lr=1e-6)
    @dataclass(frozen=True, kw_only=True)
    class Repeated:
        name: ClassVar[str] = "repeated"
        reads: ClassVar = ("chosen", "rejected")
        needs: ClassVar = frozenset()
        logp_reduction: ClassVar[str] = "sum"

        times: int = tunable(2, IntDistribution(1, 8, log=True))

        def rewards(self, policy, reference):
            return policy.sequence_logps

        def loss(self, batch, policy, reference):
            return Loss(-self.times * self.rewards(policy["chosen"], None).mean())

    contract("repeated")
    space = space_of("repeated", resolve("repeated").spec)
    assert spell_range(space["repeated.times"]) == "1 to 8 (log)"
    first = {name: flatten(resolve("repeated").spec)[name] for name in space} | {"lr": 1e-5}

    def run_trial(number, params, report):
        spec = override(resolve("repeated").spec, params)
        assert isinstance(spec.objective.times, int)
        return Outcome((-abs(spec.objective.times - 5.0),))

    made = study(tmp_path, run_trial, space=space, first=[first], sampler=sampler, trials=6)
    work([made])
    record = made.record()
    assert len(record.trials) == 6
    assert all(type(trial.params["repeated.times"]) is int for trial in record.trials)


def test_a_task_with_a_field_of_its_own_beside_new_methods_from_the_command_to_the_leaderboard(tmp_path):
    model, pairs = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    out = tmp_path / "out"
    words = ["--methods", "slic,dpo+wgan", "--model", str(model), "--dataset", str(pairs)]
    words += ["--tasks", "held_out,brevity"]
    words += ["--set", "brevity.threshold=0.3", "--set", "dpo+wgan.wgan.width=16", "--max-steps", "2"]
    with installed("slic"), installed("wgan"), installed("brevity"):
        every_task.test_a_task_declares_what_it_is("brevity")
        assert run.main([*words, "--held-out-pairs", "8", "--tracking-uri", "none", "--out", str(out)]) == 0
    found = [json.loads(path.read_text()) for path in out.glob("runs/*/evaluations/brevity-*.json")]
    assert len(found) == 3  # the untrained model's too
    assert all(entry["settings"] == {"threshold": 0.3} for entry in found)
    board = (out / "leaderboard.json").read_text()
    assert Counter(name in board for name in ("slic", "dpo+wgan")) == {True: 2}


def test_sampling_by_pairs_makes_any_pairwise_objective_on_policy():
    method = Method(resolve("ipo").spec.objective, sampling=Sampling(keep="pair"))
    assert method.on_policy
    assert method.offline_reads == ()

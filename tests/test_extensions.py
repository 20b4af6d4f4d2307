"""What a newcomer adds in one file works at once, without another file being touched: each exercise in a temporary
registry."""

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from optuna.distributions import FloatDistribution, IntDistribution
from torch import nn
from torch.nn import functional as F

from benchmarks import run
from benchmarks.comparison.listing import spell_range
from benchmarks.tasks import TASKS, Item, TaskResult, task
from benchmarks.tuning.space import space_of
from experiments.rewards.rounds import alternation
from experiments.rewards.scorers import checksum
from experiments.rewards.sources import check_reward
from experiments.studies.study import Outcome, work
from methods import METHODS, OBJECTIVES, REGULARIZERS, resolve
from methods.catalogue import objective, regularizer
from methods.discriminators import masked_mean
from methods.protocols import Adversary, Method, Penalizer, Sampling
from methods.types import Loss, mean_metrics, reward_metrics
from registry import Paper, flatten, override, search_space, tunable
from tests.benchmarks.test_run import write_pairs
from tests.experiments.studies.test_study import study
from tests.experiments.training import adversarial_runs
from tests.experiments.training import test_every_method as every_method
from tests.experiments.training.toy_rows import trainer, vowels
from tests.methods import test_adversaries as adversaries
from tests.methods import test_catalogue as catalogue
from tests.tiny import save_tiny

PAPER = Paper(title="A method of a newcomer", arxiv="2601.00001", year=2026)


@pytest.fixture
def registry():
    """The catalogues as they are, given back as they were."""
    made = (METHODS, OBJECTIVES, REGULARIZERS, TASKS)
    before = [dict(entries._entries) for entries in made]
    yield
    for entries, was in zip(made, before, strict=True):
        entries._entries.clear()
        entries._entries.update(was)


def contract(name):
    """What the suite asks of every registered method."""
    catalogue.test_every_method_cites_its_paper_and_its_learning_rate(name)
    catalogue.test_every_method_serialises_and_is_restored_from_values_and_from_text(name)
    catalogue.test_every_default_lies_inside_its_search_range(name)
    catalogue.test_every_part_is_what_the_trainer_will_ask_it_to_be(name)


def test_a_new_pairwise_objective(registry, tmp_path):
    @objective(PAPER, lr=1e-6)
    @dataclass(frozen=True, kw_only=True)
    class Hinge:
        name: ClassVar[str] = "hinge"
        reads: ClassVar = ("chosen", "rejected")
        needs: ClassVar = frozenset({"reference"})
        logp_reduction: ClassVar[str] = "sum"

        beta: float = tunable(0.1, FloatDistribution(0.01, 1.0, log=True))

        def rewards(self, policy, reference):
            return self.beta * (policy.sequence_logps - reference.sequence_logps)

        def loss(self, batch, policy, reference):
            chosen, rejected = (self.rewards(policy[role], reference[role]) for role in self.reads)
            return Loss(F.relu(1 - (chosen - rejected)).mean(), reward_metrics(chosen, rejected))

    contract("hinge")
    every_method.test_a_method_moves_what_learns_and_only_that_logs_and_resumes_to_the_bit("hinge", tmp_path)
    assert list(resolve("hinge+latent").spec.parts) == ["hinge", "latent"]
    assert trainer("hinge+latent", micro=2).step()["hinge/loss"] == pytest.approx(1.0)


def test_a_new_regularizer_that_learns(registry, tmp_path):
    class Critic(nn.Module):
        def __init__(self, hidden_size, width):
            super().__init__()
            norm = nn.utils.parametrizations.spectral_norm
            self.layers = nn.Sequential(norm(nn.Linear(hidden_size, width)), nn.GELU(), norm(nn.Linear(width, 1)))

        def forward(self, hidden, mask):
            return self.layers(masked_mean(hidden.float(), mask)).squeeze(-1)

    @regularizer(PAPER)
    @dataclass(frozen=True, kw_only=True)
    class Wasserstein:
        """A critic with spectrally normalised layers tells the reference's states from the policy's."""

        name: ClassVar[str] = "wgan"
        reads: ClassVar = ("chosen", "rejected")
        needs: ClassVar = frozenset({"reference", "hidden"})

        weight: float = tunable(0.1, FloatDistribution(0.01, 10.0, log=True))
        lr: float | None = tunable(None, FloatDistribution(1e-7, 1e-3, log=True))
        learns: bool = True
        update_every: int = 1
        width: int = 512

        def build(self, hidden_size):
            return Critic(hidden_size, self.width)

        def adversary_loss(self, net, batch, policy, reference):
            gaps = [self._gap(net, policy, reference, role) for role in self.reads]
            return Loss(-torch.stack(gaps).sum(), mean_metrics(gap=torch.stack(gaps)))

        def penalty(self, net, batch, policy, reference):
            scores = [net(policy[role].hidden, policy[role].mask).mean() for role in self.reads]
            return Loss(-torch.stack(scores).sum())

        def end_step(self, net):
            return

        def _gap(self, net, policy, reference, role):
            """E C(h_ref) − E C(h_θ), which the critic raises; one forward, as distributed training wants it."""
            both = [block[role] for block in (reference, policy)]
            scores = net(torch.cat([o.hidden for o in both]), torch.cat([o.mask for o in both]))
            real, fake = scores.chunk(2)
            return real.mean() - fake.mean()

    spec = REGULARIZERS["wgan"].spec
    assert isinstance(spec, Adversary)
    assert isinstance(spec, Penalizer)
    for check in adversaries.CHECKS:
        check("wgan")
    every_method.test_a_method_moves_what_learns_and_only_that_logs_and_resumes_to_the_bit("dpo+wgan", tmp_path)
    assert "wgan.lr" in search_space(resolve("simpo+wgan").spec)


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_an_objective_that_compares_samples_is_refused_with_one_sample_a_prompt(name):
    method = override(resolve(name).spec, {"sampling.num_generations": 1})
    with pytest.raises(ValueError, match=f"{name} keeps one sample of a prompt"):
        check_reward(name, method, dataset="constraints", verifier=vowels)
    check_reward(name, resolve(name).spec, dataset="constraints", verifier=vowels)


def reward_part(**declared):
    """A second reward model on text, as a newcomer would write it."""
    fields = {"weight": 1.0, "scorer": "", "rm_lr": 1e-3, "rm_batch_size": 4, "rm_epochs": 1, "rm_max_length": 64}

    def reward(self, net, batch):
        return net(batch.blocks["sampled"])

    made = dataclasses.make_dataclass(
        "SecondReward",
        [(name, type(value), value) for name, value in fields.items()],
        frozen=True,
        namespace={
            **{"name": "second", "reads": ("sampled",), "needs": frozenset(), **declared},
            **{"reward": reward, "reward_weight": property(lambda self: self.weight)},
        },
    )
    return regularizer(PAPER)(made)


def test_a_second_text_reward_model_is_fitted(registry, monkeypatch, tmp_path):
    reward_part(curriculum="pairs")
    models = adversarial_runs.tiny_models(tmp_path)
    data = adversarial_runs.tiny_data(tmp_path, models["policy"])
    monkeypatch.setitem(adversarial_runs.SMALL, "second", {"sampling.num_generations": 2})
    run = adversarial_runs.tiny_trainer("grpo+second", models, data, tmp_path, {"sampling.verifier_weight": 0.0})
    (player,) = [player for player in run.players if player.spec.name == "second"]
    before = checksum(player.net)
    log = run.step()
    assert checksum(player.net) != before
    assert log["second/num_items"] == len(data.train)
    assert "rollout/second" in log


def test_a_text_reward_model_that_nothing_fits_is_refused(registry, tmp_path):
    reward_part()
    method = resolve("grpo+second").spec
    with pytest.raises(ValueError, match="second rewards by a network that nothing fits: declare its curriculum"):
        check_reward("grpo+second", method, dataset="constraints", verifier=None)
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


def test_a_task_with_a_field_of_its_own(registry, tmp_path):
    @task(PAPER)
    @dataclass(frozen=True, kw_only=True)
    class Above:
        name: ClassVar[str] = "above"
        revision: ClassVar[int] = 1
        primary: ClassVar[str] = "share"

        threshold: float = 0.5

        def evaluate(self, subject):
            items = tuple(
                Item(str(e.row), e.prompt_id, {"share": float(self.threshold > 0.2)}) for e in subject.held_out
            )
            return TaskResult({"share": 1.0}, items)

    model, pairs = save_tiny("llama3", tmp_path / "model"), write_pairs(tmp_path / "pairs.jsonl")
    words = ["--methods", "dpo", "--model", str(model), "--dataset", str(pairs), "--tasks", "above", "--max-steps", "1"]
    out = tmp_path / "out"
    options = ["--set", "above.threshold=0.3", "--tracking-uri", "none", "--out", str(out)]
    assert run.main([*words, *options]) == 0
    found = [json.loads(path.read_text()) for path in out.glob("runs/*/evaluations/above-*.json")]
    assert len(found) == 2
    assert all(entry["settings"] == {"threshold": 0.3} for entry in found)


def test_sampling_by_pairs_makes_any_pairwise_objective_on_policy():
    method = Method(resolve("ipo").spec.objective, sampling=Sampling(keep="pair"))
    assert method.on_policy
    assert method.offline_reads == ()

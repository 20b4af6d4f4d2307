"""Samples of the policy as batches: what is recorded of them, what rewards them, and that a kill changes no bit."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from experiments.models.adapters import merged
from experiments.models.forward import Policy
from experiments.rewards.sources import check_reward
from experiments.training import checkpoint, samples
from experiments.training.samples import collate, pack, unpack
from methods import METHODS, resolve
from methods.dpo import DPO
from methods.protocols import Method, Sampling
from registry import override
from tests import ROOT
from tests.experiments.training.toy_rows import assert_same_bits, trainer, vowels
from tests.tiny import tiny_model

KL = {"grpo.kl": 0.04}


@pytest.mark.parametrize("family", ["llama3", "gemma2", "qwen3"])
@pytest.mark.parametrize("lora", [4, None])
def test_ratios_start_at_one_and_samples_at_no_distance_from_the_reference(family, lora):
    log = trainer("grpo", KL, family=family, lora=lora).step()
    assert log["grpo/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert log["grpo/kl"] == pytest.approx(0.0, abs=1e-6)
    assert log["grpo/clipped"] == 0


def test_the_recorded_log_probs_are_those_of_the_policy_that_sampled_and_stay():
    run = trainer("ppo", {"sampling.epochs": 3})
    first = run.source.step(0)
    recorded = {row.row: [s.logps.copy() for s in row.samples] for row in first}
    for step in range(3):
        log = run.step()
        assert log["ppo/ratio"] == pytest.approx(1.0, abs=1e-4) or step > 0
    assert log["ppo/ratio"] != 1.0
    for row in run.source.rows:
        for sample, before in zip(row.samples, recorded[row.row], strict=True):
            np.testing.assert_array_equal(sample.logps, before)


def test_a_rollout_serves_every_prompt_of_its_batches_once_an_epoch():
    run = trainer("grpo", {"sampling.batches": 2, "sampling.epochs": 2})
    served = [[row.row for row in run.source.step(step)] for step in range(4)]
    assert sorted(served[0] + served[1]) == sorted(served[2] + served[3]) == list(range(8))
    assert served[0] + served[1] != served[2] + served[3]
    assert {id(s) for row in run.source.rows for s in row.samples} == {
        id(s) for step in range(4) for row in run.source.step(step) for s in row.samples
    }


def test_samples_end_where_the_model_ends_its_turn_and_nowhere_else():
    run = trainer("grpo", {"sampling.num_generations": 16, "sampling.max_new_tokens": 40})
    drawn = [sample for row in run.source.step(0) for sample in row.samples]
    ends = set(run.policy.causal.config.eos_token_id)
    assert any(sample.finished for sample in drawn)
    for sample in drawn:
        *inside, last = sample.sequence.completion.tolist()
        assert not ends & set(inside)
        assert (last in ends) is sample.finished
        assert sample.finished or len(inside) == 39
        assert len(sample.logps) == len(inside) + 1


def test_the_samples_of_a_prompt_differ_and_another_seed_draws_others():
    one = trainer("grpo").source.step(0)
    assert all(len({sample.text for sample in row.samples}) > 1 for row in one)
    run = trainer("grpo")
    run.source.seed = 1
    other = {sample.text for row in run.source.step(0) for sample in row.samples}
    assert other != {sample.text for row in one for sample in row.samples}


def test_a_later_rollout_is_drawn_from_the_policy_as_it_is_then():
    run = trainer("grpo")
    run.source.step(0)
    frozen = [s.text for row in run.source.step(7) for s in row.samples]
    moved = trainer("grpo")
    for _ in range(7):
        moved.step()
    assert frozen != [s.text for row in moved.source.step(7) for s in row.samples]


def test_merging_an_adapter_changes_no_bit_of_the_weights_and_nothing_of_the_outputs():
    policy = Policy(tiny_model("llama3"), lora_rank=4)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    ids = torch.arange(3, 12)[None]
    apart = policy.model(ids).logits
    with merged(policy):
        together = policy.model(ids).logits
        base = dict(policy.named_parameters())
        assert any(not torch.equal(before[name], base[name]) for name in before if "base_layer" in name)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(before[name], parameter) for name, parameter in policy.named_parameters())
    assert torch.equal(policy.model(ids).logits, apart)


def test_raft_gets_the_same_from_the_best_samples_as_from_all_of_them():
    best, everything = trainer("raft", lora=None), trainer("raft", {"sampling.keep": "all"}, lora=None)
    one, other = best.step(), everything.step()
    assert one["raft/loss"] == pytest.approx(other["raft/loss"], rel=1e-5)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert one["tokens"] < other["tokens"]
    assert one["rollout/reward"] == other["rollout/reward"]


@pytest.mark.parametrize("name", ["grpo", "rrhf", "ppo", "chord"])
def test_accumulation_changes_nothing_of_an_update_on_samples(name):
    whole, parts = (trainer(name, {"sampling.num_generations": 4}, micro=m, lora=None) for m in (None, 2))
    one, other = whole.step(), parts.step()
    assert one["loss"] == pytest.approx(other["loss"], rel=1e-4, abs=1e-6)
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


def test_the_best_and_the_worst_sample_make_a_pair_with_a_reference_of_its_own():
    run = trainer("grpo", KL)  # records the reference's log-probs
    row = run.source.step(0)[0]
    pairing = Method(DPO(), (), Sampling(keep="pair"))
    run.source.method = pairing
    made = run.source._kept(row)
    rewards = [sample.reward for sample in row.samples]
    chosen = next(s for s in row.samples if s.reward == max(rewards))
    rejected = next(s for s in reversed(row.samples) if s.reward == min(rewards))
    assert chosen is not rejected
    assert made.sequences["chosen"] is chosen.sequence
    assert made.sequences["rejected"] is rejected.sequence
    assert made.scored["chosen"] is chosen.reference
    assert made.sequences["expert"] is row.sequences["expert"]
    assert "sampled" not in collate([made], ["chosen", "rejected", "sampled"]).blocks


def test_the_reward_is_the_weighted_sum_of_what_rewards():
    run = trainer("grpo", {"sampling.verifier_weight": 3.0})
    for sample in (s for row in run.source.step(0) for s in row.samples):
        assert sample.terms["verifier"] == vowels([], [sample.text])[0]
        assert sample.reward == pytest.approx(3 * sample.terms["verifier"])


@pytest.mark.parametrize("name", ["grpo", "ppo", "raft+nll"])
def test_without_verifiers_a_method_that_needs_a_reward_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match=r"toy has no verifiers: use --dataset constraints, or a method with a reward"):
        check_reward(name, resolve(name).spec, dataset="toy", verifier=None)
    check_reward(name, resolve(name).spec, dataset="constraints", verifier=vowels)
    check_reward("dpo", resolve("dpo").spec, dataset="toy", verifier=None)


def test_a_reward_of_weight_zero_and_samples_that_are_not_kept_are_refused():
    unpaid = override(resolve("grpo").spec, {"sampling.verifier_weight": 0.0})
    with pytest.raises(ValueError, match="verifier_weight above 0"):
        check_reward("grpo", unpaid, dataset="constraints", verifier=vowels)
    paired = override(resolve("raft").spec, {"sampling.keep": "pair"})
    with pytest.raises(ValueError, match="reads sampled"):
        check_reward("raft", paired, dataset="constraints", verifier=vowels)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("dpo+apo", {}, "no part learns from"),
        ("dpo+apo", {"sampling.keep": "best"}, "no part learns from"),
        ("gapo+apo", {}, "two reward models to fit, gapo and apo"),
        ("grpo+apo+gapo", {}, "two reward models to fit, apo and gapo"),
        ("aapa_sft", {"aapa.mode": "reward"}, "the reward of aapa, which sft does not read"),
        ("aapa_sft", {"aapa.mode": "reward", "sampling.keep": "best"}, "the reward of aapa, which sft does not read"),
        ("raft+aapa", {}, r"sampling.keep=best.*aapa judges each"),
        ("apo_rjs+aapa", {}, r"sampling.keep=best.*aapa judges each"),
        ("ppo+aapa", {}, r"num_generations 1\), and aapa judges each"),
        ("aapa_grpo", {"sampling.num_generations": 1}, "grpo and aapa judges each.*at least 2$"),
    ],
)
def test_compositions_that_would_train_on_nothing_or_break_on_the_first_rollout_are_refused(name, values, message):
    with pytest.raises(ValueError, match=message):
        check_reward(name, override(resolve(name).spec, values), dataset="constraints", verifier=vowels)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        *((name, {}) for name in [*METHODS, "grpo+apo"]),
        ("dpo+apo", {"sampling.keep": "pair"}),
        ("raft+aapa", {"aapa.mode": "reward"}),
        ("ppo+aapa", {"sampling.num_generations": 2}),
    ],
)
def test_every_method_and_what_learns_from_its_rewards_is_let_through(name, values):
    check_reward(name, override(resolve(name).spec, values), dataset="constraints", verifier=vowels)


def test_rows_survive_being_packed_to_the_bit():
    run = trainer("ppo")
    drawn = run.source.step(0)
    packed = pack(drawn, [row.row for row in drawn], number=4)
    back, places, rest = unpack(packed, run.source.examples)
    assert places == [row.row for row in drawn]
    assert rest == {"number": 4}
    for row, other in zip(drawn, back, strict=True):
        assert (row.prompt, row.expert, row.sequences.keys()) == (other.prompt, other.expert, other.sequences.keys())
        for a, b in zip(row.samples, other.samples, strict=True):
            assert (a.text, a.finished, a.reward, a.terms) == (b.text, b.finished, b.reward, b.terms)
            for name in samples.PER_TOKEN:
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_only_part_of_a_rollout_must_lie_in_a_checkpoint():
    run = trainer("grpo", {"sampling.batches": 2})
    run.step()
    assert "source/rollout" in run.state()
    run.step()
    assert "source/rollout" not in run.state()


KILLED = """
import sys
from pathlib import Path
from experiments.training import checkpoint
from experiments.rewards.rollouts import RolloutSource
from tests.experiments.training.toy_rows import trainer

folder = Path(sys.argv[1])
draw = RolloutSource.draw


def announced(self, *given, **named):
    if named["number"] == 1:
        (folder / "sampling").touch()
        self.stage.policy.model.register_forward_pre_hook(lambda *_: __import__("time").sleep(0.5))
    return draw(self, *given, **named)


RolloutSource.draw = announced
run = trainer("ppo", {"sampling.epochs": 2})
for step in range(1, 5):
    run.step()
    checkpoint.save(folder / "checkpoint", run.state(), step)
"""


def test_a_run_that_is_killed_while_it_samples_ends_with_the_same_bits(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, env=environment)
    while not (tmp_path / "sampling").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    straight, resumed = (trainer("ppo", {"sampling.epochs": 2}) for _ in range(2))
    resumed.load(*checkpoint.latest(tmp_path / "checkpoint"))
    assert resumed.step_number == 2
    for run in (straight, resumed):
        while run.step_number < 4:
            run.step()
    assert_same_bits(straight, resumed)


def test_offline_rows_and_rows_with_samples_do_not_share_a_batch():
    row = trainer("grpo").source.step(0)[0]
    with pytest.raises(ValueError, match="1 of 2 rows of a batch have no samples"):
        collate([row, dataclasses.replace(row, samples=())], ["sampled"])

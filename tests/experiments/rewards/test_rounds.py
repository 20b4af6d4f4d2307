"""Methods whose reward is learnt: what moves when, what each round learns from, and that a kill changes no bit."""

import numpy as np
import pytest
import torch

from experiments.rewards.reward_fitting import RankedItem
from experiments.rewards.scorers import checksum
from experiments.training import checkpoint
from methods.apo import AdversarialReward
from tests.experiments.training.adversarial_runs import tiny_data, tiny_models, tiny_trainer
from tests.experiments.training.toy_rows import READERS, SMALL_ADVERSARY

STEPS = 3
VARIANTS = {
    "apo_rjs": {"apo.rounds": 2},
    "apo_rrhf": {"apo.rounds": 2, "apo.rm_loss": "wgan", "apo.sequential": True},
    "apo_dpo": {"apo.rounds": 2},
}
ROUND_METRICS = {"loss", "num_items", "accuracy", "ece", "reward/judged", "tokens_consumed"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("rounds")
    models = tiny_models(root)
    return models, tiny_data(root, models["policy"])


@pytest.fixture
def run(made, tmp_path):
    def build(name, values=None, **extra):
        return tiny_trainer(name, *made, tmp_path, values, **extra)

    return build


def moved(trainer, before):
    now = {name: p for name, p in trainer.policy.named_parameters() if p.requires_grad}
    return any(not torch.equal(value, now[name]) for name, value in before.items())


def trained(trainer):
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters() if p.requires_grad}


def bits(trainer):
    """Its state but for what says how many seconds the last rollout took."""
    return {name: value for name, value in trainer.state().items() if name != "source/rollout"}


@pytest.mark.parametrize("name", READERS)
def test_a_method_moves_only_what_learns_and_a_run_killed_at_any_moment_ends_with_the_same_bits(name, run, tmp_path):
    values = VARIANTS.get(name, {})
    straight, fits, steps = run(name, values, steps=STEPS), [], []
    part = straight.method.regularizers[0].name
    net = next(player.net for player in straight.players if player.spec.name == part)
    before, start = trained(straight), checksum(net)
    base = {n: p.detach().clone() for n, p in straight.policy.named_parameters() if not p.requires_grad}

    def remember(moments):
        folder = tmp_path / f"moment-{len(fits)}-{len(steps)}"
        checkpoint.save(folder, straight.state(), straight.step_number)
        moments.append(folder)

    straight.source.on_work = lambda: remember(fits)
    logs = []
    for _ in range(STEPS):
        logs.append(straight.step())
        remember(steps)
    assert all(torch.isfinite(torch.tensor(list(log.values()))).all() for log in logs)
    assert {"rollout/reward/learned", "rollout/length", f"rollout/{part}"} <= logs[0].keys()
    assert moved(straight, before)
    assert all(torch.equal(base[n], p) for n, p in straight.policy.named_parameters() if not p.requires_grad)
    assert (checksum(net) == start) is (part == "aapa")
    assert not any(p.requires_grad for p in net.parameters())
    assert len(fits) > 2 or part == "aapa"
    expected = bits(straight)
    for folder in (*fits[1:2], *fits[-2:-1], steps[0]):  # in the first fit, in the last one, in a rollout
        resumed = run(name, values, steps=STEPS)
        resumed.load(*checkpoint.latest(folder))
        while resumed.step_number < STEPS:
            log = resumed.step()
        got = bits(resumed)
        assert got.keys() == expected.keys()
        assert all(torch.equal(value.cpu(), got[key].cpu()) for key, value in expected.items()), folder.name
        assert {k: v for k, v in log.items() if "second" not in k} == {
            k: v for k, v in logs[-1].items() if "second" not in k
        }


def test_a_learnt_reward_and_an_adversary_of_hidden_states_share_a_run(run):
    trainer = run("apo_dpo+latent", SMALL_ADVERSARY, steps=2)
    nets = {player.spec.name: player.net for player in trainer.players}
    before, start = trained(trainer), {name: checksum(net) for name, net in nets.items()}
    logs = [trainer.step() for _ in range(2)]
    assert all(torch.isfinite(torch.tensor(list(log.values()))).all() for log in logs)
    assert {"dpo/loss", "latent/adversary/loss", "latent/penalty/loss", "rollout/apo"} <= logs[1].keys()
    assert moved(trainer, before)
    assert {name for name, net in nets.items() if checksum(net) != start[name]} == {"apo", "latent"}


@pytest.mark.parametrize("kind", ["encoder", "backbone", "lexical"])
@pytest.mark.parametrize("mode", ["loss", "reward"])
def test_the_discriminator_of_aapa_is_the_same_before_and_after_a_run(kind, mode, run):
    trainer = run("aapa_grpo", {"aapa.discriminator": kind, "aapa.mode": mode}, steps=3)
    (player,) = trainer.players
    before = checksum(player.net)
    for _ in range(3):
        log = trainer.step()
    assert checksum(player.net) == before
    assert player.optimizer is None
    for name in ("logp_sampled", "logp_expert"):
        low, middle, high = (log[f"aapa/penalty/{name}_p{share}"] for share in (10, 50, 90))
        assert low <= middle <= high < 0
    if mode == "reward":
        assert log["rollout/reward"] == pytest.approx(0.1 * log["rollout/aapa"], abs=1e-5)
    else:
        assert log["rollout/reward"] == 0  # no verifier here, and the anchor is no reward


def test_each_round_logs_its_reward_model_once_and_slows_the_policy_down(run):
    trainer = run("apo_rjs", steps=6)
    logs = [trainer.step() for _ in range(6)]
    first = [i for i, log in enumerate(logs) if "apo/accuracy" in log]
    assert first == [0, 2, 4]
    for i in first:
        assert {f"apo/{name}" for name in ROUND_METRICS} <= logs[i].keys()
        assert {"rollout/kl", "rollout/length", "rollout/reward/learned"} <= logs[i].keys()
    factors = [log["lr"] / other["lr"] for log, other in zip(logs, _constant(run), strict=True)]
    assert factors == pytest.approx([1, 1, 0.4, 0.4, 0.18, 0.18])
    consumed = [logs[i]["apo/tokens_consumed"] for i in first]
    assert 0 < consumed[0] < consumed[1] < consumed[2]


def _constant(run):
    trainer = run("rjs_base", {"apo.lr_by_round": "constant"}, steps=6)
    return [trainer.step() for _ in range(6)]


def test_the_reward_model_starts_afresh_each_round_unless_sequential(run):
    for sequential in (False, True):
        trainer = run("apo_rjs", {"apo.sequential": sequential}, steps=3)
        source, started = trainer.source, []
        answers = source.answers

        def watched(*a, source=source, started=started, answers=answers, **k):
            started.append(checksum(source.net))
            return answers(*a, **k)

        source.answers = watched
        for _ in range(3):
            trainer.step()
        assert len(started) == 3
        assert len(set(started)) == (3 if sequential else 1)


def lessons(trainer, number=0, count=4):
    (make,) = trainer.source.phases(number, count)
    return make()


def prompts(items):
    return {tuple(item.better.prompt) for item in items}


def own(rows):
    return {tuple(row.sequences["chosen"].prompt) for row in rows}


def test_apo_learns_golden_over_samples_and_the_pairs_on_prompts_apart_from_the_policys(run):
    trainer = run("apo_rjs")
    items, pools = lessons(trainer), trainer.source.pools
    golden, pairs = ([item for item in items if (len(item.worse) == 2) is flag] for flag in (True, False))
    assert all(isinstance(item, RankedItem) for item in items)
    assert {item.weight for item in golden} == {len(pairs) / (10 * len(golden))}  # β₂ is 10
    assert {item.weight for item in pairs} == {1.0}
    assert prompts(golden) <= own(pools.golden)
    assert prompts(pairs) <= own(pools.prior)
    trained_on = {tuple(row.sequences["chosen"].prompt) for n in range(3) for row in trainer.source.prompts(n)}
    assert trained_on <= own(pools.prompts)
    assert not trained_on & prompts(items)


@pytest.mark.parametrize(
    ("values", "golden", "prior"),
    [
        ({}, True, True),
        ({"apo.prior_weight": 0.0}, True, False),  # GAIL
        ({"apo.adversarial": False}, False, True),  # RM_AB
    ],
)
def test_the_variants_of_apo_leave_out_what_they_say(values, golden, prior, run):
    trainer = run("apo_rjs", values)
    known = {"golden": own(trainer.source.pools.golden), "prior": own(trainer.source.pools.prior)}
    seen = prompts(lessons(trainer))
    assert bool(seen & known["golden"]) is golden
    assert bool(seen & known["prior"]) is prior


@pytest.mark.parametrize("values", [{}, {"apo.prior_pairs": 3}, {"apo.golden_prompts": 2}, {"apo.prior_share": 0.2}])
def test_beta_is_what_the_field_says_whatever_the_sizes_of_the_pools(values, run):
    trainer = run("apo_rjs", values)
    made = lessons(trainer, count=len(trainer.source.pools.prompts))
    golden = own(trainer.source.pools.golden)
    weights = {True: 0.0, False: 0.0}
    for item in made:
        weights[bool(prompts([item]) & golden)] += item.weight
    assert weights[False] / weights[True] == pytest.approx(10.0)
    assert AdversarialReward().prior_weight == 10.0


def test_a_sequential_reward_model_goes_on_from_the_baselines(run):
    ablation = run("apo_rjs", {"apo.adversarial": False, "apo.sequential": True, "apo.rounds": 1})
    baseline = run("rjs_base", {"apo.rounds": 1})
    first, second = (make() for make in ablation.source.phases(0, 4))
    (alone,) = (make() for make in baseline.source.phases(0, 4))
    completions = [[item.better.completion.tolist() for item in items] for items in (first, second, alone)]
    assert completions[0] == completions[1] == completions[2]
    ablation.step()
    baseline.step()
    assert checksum(ablation.source.net) != checksum(baseline.source.net), "it did not go on"
    assert len(run("apo_rjs", {"apo.sequential": True}).source.phases(1, 4)) == 1


def test_a_round_takes_of_each_pool_the_share_that_it_takes_of_the_policys_prompts(run):
    trainer = run("apo_rjs")
    whole = len(trainer.source.pools.prompts)
    everything = lessons(trainer, count=2 * whole)
    assert prompts(everything) == own(trainer.source.pools.golden) | own(trainer.source.pools.prior)
    assert len(lessons(trainer, count=1)) < len(everything) / 2
    capped = lessons(run("apo_rjs", {"apo.prior_pairs": 3, "apo.golden_prompts": 2}), count=2 * whole)
    assert [len(item.worse) for item in capped] == [1, 1, 1, 2, 2]


def test_the_last_round_samples_no_more_than_the_run_still_needs(run):
    trainer = run("apo_rjs", steps=5)
    assert [len(trainer.source.prompts(number)) for number in range(3)] == [4, 4, 2]
    logs = [trainer.step() for _ in range(5)]
    assert trainer.step_number == len(logs) == 5


def test_a_baselines_reward_model_is_fitted_once_and_gapos_stays_as_its_warm_up_left_it(run):
    for name, values in (("rjs_base", {"apo.rounds": 1}), ("ppo_base", {})):
        trainer = run(name, values, steps=6)
        logs = [trainer.step()]
        after_first = checksum(trainer.source.net)
        logs += [trainer.step() for _ in range(5)]
        assert checksum(trainer.source.net) == after_first
    consumed = [log["gapo/tokens_consumed"] for log in logs[::2]]  # by then the policy's own samples alone
    assert np.diff(consumed).tolist() == [log["rollout/tokens"] for log in logs[2::2]]


def test_a_stage_of_gapo_sees_accepted_rejected_and_generated_responses(run):
    trainer = run("gapo", {"gapo.stage_items": 8})
    warmup, stage = (make() for make in trainer.source.phases(0, 4))
    assert [sum(item.label == label for item in warmup) for label in (1.0, 0.0)] == [6, 6]
    accepted, negative = ([item for item in stage if item.label == label] for label in (1.0, 0.0))
    real = {tuple(pair.sequences["rejected"].completion) for pair in trainer.source.pairs}
    generated = [item for item in negative if tuple(item.sequence.completion) not in real]
    assert (len(accepted), len(negative), len(generated)) == (8, 8, 4)
    (later,) = (make() for make in trainer.source.phases(1, 4))
    assert {id(item.sequence) for item in later if item.label} != {id(item.sequence) for item in accepted}


def test_every_rounds_reward_model_is_kept_beside_the_run(run, tmp_path):
    trainer = run("apo_rjs", steps=3)
    for _ in range(3):
        trainer.step()
    assert sorted(path.name for path in (tmp_path / "players").iterdir()) == [
        f"apo-round{number}.safetensors" for number in range(3)
    ]


def test_a_fully_trained_policy_is_judged_by_its_frozen_reference(run):
    trainer = run("apo_rjs", {"apo.scorer": "backbone"}, steps=2, lora=None)
    log = trainer.step()
    assert log["apo/num_items"] > 0

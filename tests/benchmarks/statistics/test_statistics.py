"""Simulations with known truth: an interval that claims 95 % is held to it, and wrong bootstraps must be caught."""

import numpy as np
import pytest

from benchmarks.statistics.significance import (
    Difference,
    compare,
    detection_power,
    holm,
    honest_ranks,
    mean_interval,
    minimum_detectable_effect,
    probability_of_improvement,
)
from tests.benchmarks.statistics.simulated_experiments import (
    NUM_PROMPTS,
    bounds,
    comparisons_of,
    coverage,
    difficulty,
    experiments,
    graded,
    honest,
    passes,
    rate_of,
)

DESIGNS = [(3, 3), (3, 5), (3, 10), (5, 10), (3, 0), (5, 0), (10, 0)]  # seeds of each row; 0: it has none
RATES = [(0.02, 200), (0.02, 541), (0.3, 541), (0.5, 200), (0.97, 541)]  # with the number of prompts
GRID = [(num_seeds, seed_sd) for num_seeds in (3, 5, 10) for seed_sd in (0, 0.02, 0.06)]


def ours(rng, a, b, **settings):
    return bounds(comparisons_of(rng, a, b, **settings))


def percentiles(resampled):
    return np.quantile(resampled, 0.025, axis=0), np.quantile(resampled, 0.975, axis=0)


def nested(rng, a, b, num_resamples=400):
    """Wrong: each seed's prompts are drawn anew, as if seeds had not answered the same ones."""
    difference = a - b
    repetitions, num_seeds, num_prompts = difference.shape
    resampled = np.empty((num_resamples, repetitions))
    for r in range(num_resamples):
        seeds = rng.integers(num_seeds, size=num_seeds)
        means = [difference[:, s, rng.integers(num_prompts, size=num_prompts)].mean(1) for s in seeds]
        resampled[r] = np.mean(means, axis=0)
    return percentiles(resampled)


def unpaired(rng, a, b, num_resamples=400):
    """Wrong: the two methods' prompts are drawn separately, as if they had not answered the same ones."""
    resampled = np.empty((num_resamples, len(a)))
    for r in range(num_resamples):
        means = []
        for scores in (a, b):
            seeds = rng.integers(scores.shape[1], size=scores.shape[1])
            prompts = np.bincount(rng.integers(scores.shape[2], size=scores.shape[2]), minlength=scores.shape[2])
            means.append(scores[:, seeds].mean(1) @ prompts / scores.shape[2])
        resampled[r] = means[0] - means[1]
    return percentiles(resampled)


def uncorrected(rng, a, b, num_resamples=400):
    """Wrong with few seeds: the crossed bootstrap as it comes."""
    resampled = np.empty((num_resamples, len(a)))
    for r in range(num_resamples):
        prompts = np.bincount(rng.integers(a.shape[2], size=a.shape[2]), minlength=a.shape[2]) / a.shape[2]
        means = [s[:, rng.integers(s.shape[1], size=s.shape[1])].mean(1) @ prompts for s in (a, b)]
        resampled[r] = means[0] - means[1]
    return percentiles(resampled)


def paired_difference(a, b, **settings):
    """The comparison of one pair."""
    return compare({"a": a, "b": b}, [("a", "b")], **settings)["a", "b"]


@pytest.mark.parametrize(("num_seeds", "seed_sd"), GRID)
def test_intervals_cover_the_truth_as_often_as_they_say(num_seeds, seed_sd):
    rng = np.random.default_rng([num_seeds, int(100 * seed_sd)])
    assert honest(coverage(ours(rng, *experiments(rng, 2000, num_seeds, seed_sd, effect=0.05)), truth=0.05))


@pytest.mark.slow
@pytest.mark.parametrize("paired_seeds", [False, True])
@pytest.mark.parametrize("taste", [0, 0.16])
@pytest.mark.parametrize(("num_seeds", "seed_sd"), GRID)
def test_intervals_cover_whether_methods_differ_by_prompt_or_not(num_seeds, seed_sd, taste, paired_seeds):
    rng = np.random.default_rng([num_seeds, int(100 * seed_sd), int(100 * taste)])
    data = experiments(rng, 10_000, num_seeds, seed_sd, taste=taste)
    assert honest(coverage(ours(rng, *data, paired_seeds=paired_seeds)))


def test_a_nested_bootstrap_fails_the_check_that_ours_passes():
    rng = np.random.default_rng(0)
    data = experiments(rng, 600, 10, 0, taste=0.5)
    assert honest(coverage(ours(rng, *data)))
    assert coverage(nested(rng, *data)) < 0.87


def test_an_unpaired_bootstrap_fails_the_check():
    rng = np.random.default_rng(1)
    assert coverage(unpaired(rng, *experiments(rng, 600, 10, 0))) > 0.99


def test_a_crossed_bootstrap_without_the_correction_fails_the_check():
    rng = np.random.default_rng(2)
    assert coverage(uncorrected(rng, *experiments(rng, 600, 3, 0.06))) < 0.93


@pytest.mark.parametrize("num_seeds", [(3, 10), (5, 3)])
def test_methods_may_have_different_numbers_of_seeds(num_seeds):
    rng = np.random.default_rng(3)
    prompts = difficulty(rng, 2000)
    a, b = (passes(rng, prompts, number, 0.02) for number in num_seeds)
    assert honest(coverage(ours(rng, a, b)))


def test_a_row_without_seeds_compares_with_one_that_has_seeds():
    rng = np.random.default_rng(4)
    prompts = difficulty(rng, 2000)
    base = (rng.random((2000, NUM_PROMPTS)) < prompts[:, 0]).astype(float)
    trained = passes(rng, prompts, 5, 0.04)
    comparisons = comparisons_of(rng, base, trained)
    assert comparisons[0].num_seeds == (0, 5)
    assert comparisons[0].claims
    assert honest(coverage(bounds(comparisons)))


def test_two_rows_without_seeds_differ_by_prompts_alone():
    rng = np.random.default_rng(5)
    prompts = difficulty(rng, 2000)[:, 0]
    a, b = ((rng.random(prompts.shape) < prompts).astype(float) for _ in range(2))
    comparisons = comparisons_of(rng, a, b)
    assert comparisons[0].claims
    assert honest(coverage(bounds(comparisons)))


def test_one_seed_gives_an_interval_over_prompts_and_no_claim():
    rng = np.random.default_rng(6)
    prompts = difficulty(rng, 2000)
    seeds = 0.1 * rng.standard_normal((2, 2000, 1, 1))
    a, b = (passes(rng, prompts + seed, 1, 0) for seed in seeds)
    these_runs = np.clip(prompts + seeds[0], 0, 1).mean((1, 2)) - np.clip(prompts + seeds[1], 0, 1).mean((1, 2))
    comparisons = comparisons_of(rng, a, b)
    assert not any(c.claims or c.p_value is not None for c in comparisons)
    low, high = bounds(comparisons)
    assert honest(np.mean((low <= these_runs) & (these_runs <= high)))
    assert coverage((low, high)) < 0.8  # which is why it makes no claim about the methods


@pytest.mark.parametrize(
    ("num_seeds", "claims"),
    [((2, 2), False), ((2, 10), False), ((10, 1), False), ((0, 2), False), ((3, 3), True), ((0, 3), True)],
)
def test_claims_need_three_seeds_in_every_row_that_has_seeds(num_seeds, claims):
    rng = np.random.default_rng(7)
    a, b = (rng.random((number, 20)) if number else rng.random(20) for number in num_seeds)
    comparison = paired_difference(a, b, rng=rng)
    assert comparison.claims == claims
    assert (comparison.p_value is not None) == claims
    if len(a) == len(b):
        assert paired_difference(a, b, rng=rng, paired_seeds=True).claims == claims


def test_paired_seeds_gain_from_runs_that_are_alike():
    rng = np.random.default_rng(8)
    shared = 0.1 * rng.standard_normal((10, 1))
    a, b = (rng.random((10, NUM_PROMPTS)) < 0.5 + shared for _ in range(2))
    wide, narrow = (paired_difference(a, b, rng=rng, paired_seeds=paired).se for paired in (False, True))
    assert narrow < 0.7 * wide


@pytest.mark.parametrize("seed_sd", [0, 0.06])
def test_the_interval_of_one_row_covers_its_mean(seed_sd):
    rng = np.random.default_rng(9)
    a, _ = experiments(rng, 2000, 5, seed_sd)
    assert honest(coverage(bounds([mean_interval(row, rng=rng, num_resamples=500) for row in a]), truth=0.5))


def test_items_of_one_prompt_are_resampled_together():
    rng = np.random.default_rng(10)
    sizes = rng.integers(1, 8, size=100)
    clusters = np.repeat(np.arange(100), sizes)
    liking = 0.4 * rng.choice([-1, 1], (1000, 1, 100))[:, :, clusters]
    a, b = ((rng.random((1000, 5, len(clusters))) < 0.5 + sign * liking / 2).astype(float) for sign in (1, -1))
    assert honest(coverage(ours(rng, a, b, clusters=clusters.tolist())))
    assert coverage(ours(rng, a, b)) < 0.9


def test_a_method_under_two_names_is_declared_different_in_at_most_five_per_cent():
    rng = np.random.default_rng(11)
    declared = [
        np.mean([c.p_value < 0.05 for c in comparisons_of(rng, *experiments(rng, 1000, *cell, taste=0))])
        for cell in GRID
    ]
    assert np.mean(declared) <= 0.05


def declared_different(rng, num_seeds, rate, num_prompts, repetitions):
    """Shares of the comparisons of equal methods that come out significant, over standard deviations of a seed."""
    found = []
    for seed_sd in (0, 0.12, 0.25):
        comparisons = comparisons_of(rng, *graded(rng, repetitions, num_seeds, rate, num_prompts, seed_sd))
        found.append(float(np.mean([c.p_value < 0.05 for c in comparisons])))
    return found


def monte_carlo(repetitions):
    """Two standard errors of a share of 5 % that is counted so often."""
    return 2 * (0.05 * 0.95 / repetitions) ** 0.5


@pytest.mark.parametrize("num_seeds", [(3, 10), (10, 0)])
def test_equal_methods_with_unequal_numbers_of_seeds_differ_in_at_most_five_per_cent(num_seeds):
    rng = np.random.default_rng([17, *num_seeds])
    cells = [(0.02, 200), (0.5, 200), (0.97, 541)]
    shares = [share for cell in cells for share in declared_different(rng, num_seeds, *cell, repetitions=400)]
    assert np.mean(shares) <= 0.05 + monte_carlo(400 * len(shares)), shares


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "num_prompts"), RATES)
@pytest.mark.parametrize("num_seeds", DESIGNS)
def test_equal_methods_differ_in_at_most_five_per_cent_of_every_cell(num_seeds, rate, num_prompts):
    rng = np.random.default_rng([18, *num_seeds, num_prompts])
    shares = declared_different(rng, num_seeds, rate, num_prompts, repetitions=4000)
    assert max(shares) <= 0.05 + monte_carlo(4000), shares


def covered(num_seeds, rate, num_prompts, seed_sd, repetitions):
    """How often the interval of one row holds the rate that the row has in the long run."""
    rng = np.random.default_rng([19, num_seeds, num_prompts, int(100 * seed_sd)])
    (rows,) = graded(rng, repetitions, (num_seeds,), rate, num_prompts, seed_sd)
    found = [mean_interval(row, rng=rng, num_resamples=500, share=True) for row in rows]
    assert all(0 <= i.low <= i.estimate <= i.high <= 1 for i in found)
    return coverage(bounds(found), truth=rate_of(rng, rate, seed_sd))


@pytest.mark.parametrize(("num_seeds", "rate", "num_prompts"), [(0, 0.02, 100), (0, 0.97, 100), (5, 0.02, 100)])
def test_intervals_of_rates_near_the_ends_cover_as_often_as_they_say(num_seeds, rate, num_prompts):
    assert covered(num_seeds, rate, num_prompts, 0.1, repetitions=800) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("seed_sd", [0, 0.25])
@pytest.mark.parametrize(("rate", "num_prompts"), [*RATES, (0.05, 60), (0.97, 100)])
@pytest.mark.parametrize("num_seeds", [0, 3, 5, 10])
def test_intervals_of_rates_cover_in_every_cell(num_seeds, rate, num_prompts, seed_sd):
    assert 0.925 <= covered(num_seeds, rate, num_prompts, seed_sd if num_seeds else 0, repetitions=3000) <= 0.985


def test_bounds_of_a_rate_are_wilsons_where_prompts_alone_vary():
    from statsmodels.stats.proportion import proportion_confint

    scores = (np.arange(4000) < 80) + 0.0
    interval = mean_interval(scores, rng=np.random.default_rng(0), share=True)
    assert (interval.low, interval.high) == pytest.approx(proportion_confint(80, 4000, method="wilson"), abs=2e-4)
    none = mean_interval(np.zeros((3, 100)), rng=np.random.default_rng(0), share=True)
    assert none.low == 0
    assert 0.03 < none.high < 0.2, "nothing was seen in a hundred prompts, which is not never"


def test_a_family_of_equal_methods_shares_the_first_rank_in_at_least_95_per_cent():
    rng = np.random.default_rng(12)
    names = "abcde"
    family = [(x, y) for i, x in enumerate(names) for y in names[i + 1 :]]
    torn = 0
    for prompts in difficulty(rng, 400):
        rows = {name: passes(rng, prompts[None], 5, 0.03)[0] for name in names}
        ranks = honest_ranks(compare(rows, family, rng=rng, num_resamples=500), family)
        torn += set(ranks.values()) != {1}
    assert torn / 400 <= 0.05


@pytest.mark.parametrize(("num_seeds", "num_prompts"), [(5, 200), (5, 800), (20, 200)])
def test_power_is_what_the_minimum_detectable_effect_promised(num_seeds, num_prompts):
    rng = np.random.default_rng([num_seeds, num_prompts])
    pilot = comparisons_of(rng, *experiments(rng, 400, num_seeds, 0.03, num_prompts=num_prompts))
    se = float(np.mean([c.se**2 for c in pilot])) ** 0.5
    effect = minimum_detectable_effect(se, float(np.median([c.df for c in pilot])))
    data = experiments(rng, 1000, num_seeds, 0.03, effect=effect, num_prompts=num_prompts)
    assert np.mean([c.p_value < 0.05 for c in comparisons_of(rng, *data)]) == pytest.approx(0.8, abs=0.05)


def test_power_grows_with_prompts_and_with_seeds():
    rng = np.random.default_rng(13)

    def found(num_seeds, num_prompts):
        data = experiments(rng, 500, num_seeds, 0.03, effect=0.05, num_prompts=num_prompts)
        comparisons = comparisons_of(rng, *data)
        detectable = np.median([minimum_detectable_effect(c.se, c.df) for c in comparisons])
        return np.mean([c.p_value < 0.05 for c in comparisons]), detectable

    powers, detectable = zip(*(found(*design) for design in [(3, 100), (3, 400), (10, 400)]), strict=True)
    assert powers[0] + 0.1 < powers[1] < powers[2] - 0.1
    assert detectable[0] > detectable[1] > detectable[2]


def test_power_of_no_effect_is_alpha_and_of_the_detectable_effect_is_the_power_asked_for():
    assert detection_power(0, 0.02, 7) == pytest.approx(0.05)
    assert detection_power(minimum_detectable_effect(0.02, 7, power=0.9), 0.02, 7) == pytest.approx(0.9)
    # the familiar 2.80 standard errors of a normal test
    assert minimum_detectable_effect(1, 1e9) == pytest.approx(1.96 + 0.8416, abs=1e-3)
    with pytest.raises(ValueError, match="between alpha"):
        minimum_detectable_effect(1, 10, power=0.04)


def test_p_values_and_intervals_agree():
    rng = np.random.default_rng(14)
    for comparison in comparisons_of(rng, *experiments(rng, 100, 4, 0.02, effect=0.08)):
        assert (comparison.p_value < 0.05) == (not comparison.low <= 0 <= comparison.high)


def test_many_comparisons_are_the_comparisons_of_each():
    rng = np.random.default_rng(15)
    rows = {name: rng.random((4, 60)) for name in "abc"}
    together = compare(rows, [("a", "c")], rng=np.random.default_rng(0))["a", "c"]
    alone = paired_difference(rows["a"], rows["c"], rng=np.random.default_rng(0))
    assert together.estimate == pytest.approx(alone.estimate)
    assert together.se == pytest.approx(alone.se, rel=0.05)


def test_identical_rows_do_not_differ():
    scores = np.ones((3, 50))
    comparison = paired_difference(scores, scores, rng=np.random.default_rng(0))
    assert (comparison.estimate, comparison.low, comparison.high, comparison.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize(
    ("a", "b", "settings", "complaint"),
    [
        (np.ones((2, 5)), np.ones((2, 6)), {}, "numbers differ"),
        (np.ones((2, 5)), np.full((2, 5), np.nan), {}, "10 gaps"),
        (np.ones((2, 5)), np.ones((3, 5)), {"paired_seeds": True}, "seeds differ"),
        (np.ones((2, 5)), np.ones((3, 5)), {"clusters": list("aabb")}, "one cluster for each item"),
        (np.ones((2, 5)), np.ones((3, 5)), {"clusters": list("aaaaa")}, "at least two different"),
    ],
)
def test_rows_that_cannot_be_compared_are_refused(a, b, settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        paired_difference(a, b, rng=np.random.default_rng(0), **settings)


def test_holm_multiplies_the_smallest_by_all_and_never_decreases():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": None}
    assert holm(p_values, list("abcd")) == pytest.approx({"a": 0.04, "b": 0.09, "c": 0.09, "d": 1.0})


def test_holm_agrees_with_statsmodels():
    from statsmodels.stats.multitest import multipletests

    p_values = np.random.default_rng(19).random(30) ** 4
    ours = holm(dict(enumerate(p_values.tolist())), range(30))
    np.testing.assert_allclose(list(ours.values()), multipletests(p_values, method="holm")[1])


def test_holm_refuses_a_family_that_is_not_the_one_named():
    with pytest.raises(ValueError, match="'c'"):
        holm({"a": 0.01, "b": 0.04}, ["a", "b", "c"])
    with pytest.raises(ValueError, match="'b'"):
        holm({"a": 0.01, "b": 0.04}, ["a"])


def test_rank_counts_the_methods_that_are_significantly_better():
    def comparison(estimate, p_value):
        return Difference(
            estimate, estimate - 1, estimate + 1, 0.5, 20, (5, 5), 200, claims=p_value is not None, p_value=p_value
        )

    # a > c is established, a > b and b > c are not: b shares the first rank, and groups would not be transitive
    comparisons = {
        ("a", "b"): comparison(0.1, 0.3),
        ("a", "c"): comparison(0.2, 0.001),
        ("c", "b"): comparison(-0.1, 0.3),
        ("one_seed", "a"): comparison(9.0, None),
    }
    assert honest_ranks(comparisons, list(comparisons)) == {"a": 1, "b": 1, "c": 2, "one_seed": 1}


def test_probability_of_improvement_counts_runs_that_win():
    rng = np.random.default_rng(16)
    worse = (rng.random((4, 500)) < 0.4).astype(float)
    better = (rng.random((5, 500)) < 0.6).astype(float)
    assert probability_of_improvement(better, worse, rng=rng) == (1, 1, 1)
    estimate, low, high = probability_of_improvement(better, better, rng=rng)
    assert estimate == 0.5
    assert low < 0.5 < high

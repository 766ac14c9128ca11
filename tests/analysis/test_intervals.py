"""Intervals against closed forms and scipy, exact enumeration, and coverage by simulation.

Coverage tests draw S data sets; if an interval covered at exactly its nominal rate c, the observed
rate would leave c ± 4 sqrt(c (1 - c) / S) with probability below 1e-4. The draws are keyed, so a
test that passes once always passes.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nabla_eval.analysis.intervals import (
    Estimate,
    bootstrap,
    clustered_mean,
    from_resamples,
    mean,
    paired,
    ratio,
    share,
    wilson,
)
from nabla_eval.errors import DataError
from nabla_eval.randomness import Key

KEY = Key.root(7)


def assert_covers(hits: int, trials: int, level: float) -> None:
    slack = 4 * math.sqrt(level * (1 - level) / trials)
    assert abs(hits / trials - level) <= slack, f"covered {hits} of {trials} at level {level}"


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_t_interval_is_scipys(level):
    values = [0.0, 1.0, 1.0, 0.5, 3.0]
    expected = stats.ttest_1samp(values, 0).confidence_interval(level)
    found = mean(values, level)
    assert found.interval == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert found.se == pytest.approx(stats.sem(values), rel=1e-12)


@pytest.mark.parametrize(("hits", "trials"), [(0, 10), (3, 7), (10, 10), (113, 200)])
def test_the_wilson_interval_is_scipys(hits, trials):
    expected = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    found = wilson(hits, trials)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)
    sample = [1.0] * hits + [0.0] * (trials - hits)
    assert found.se == pytest.approx(stats.sem(sample), rel=1e-9)


def test_the_clustered_error_is_the_double_sum_over_runs_of_a_problem():
    groups = {"a": [1, 1, 0, 1], "b": [0, 0, 0, 1], "c": [1, 1, 1, 1], "d": [0, 1, 0, 1]}
    runs = [run for group in groups.values() for run in group]
    centre = sum(runs) / len(runs)
    pairs = sum(
        (x - centre) * (y - centre) for group in groups.values() for x in group for y in group
    )
    found = clustered_mean(groups)
    assert found.value == pytest.approx(centre)
    assert found.se == pytest.approx(math.sqrt(pairs * 4 / 3) / len(runs), rel=1e-12)
    assert found.clusters == 4


def test_nothing_is_claimed_without_data():
    for found in (mean([]), wilson(0, 0), bootstrap(np.empty((0, 2)), lambda t: t[:, 0])):
        assert math.isnan(found.value) and found.clusters == 0 and not found.excludes(0)
    for found in (mean([2.0]), bootstrap(np.array([[2.0]]), lambda t: t[:, 0])):
        assert found.value == 2.0 and math.isnan(found.low) and not found.excludes(0)


def test_pairing_refuses_different_problems_and_removes_what_problems_share():
    with pytest.raises(DataError, match=r"2 problems \(first: 'x/1'\)"):
        paired({"x/1": 1.0, "x/2": 1.0}, {"x/2": 1.0, "x/3": 0.0})
    hard = {f"x/{i}": float(i) for i in range(20)}
    found = paired({p: v + 0.5 for p, v in hard.items()}, hard)
    assert found.interval == pytest.approx((0.5, 0.5)) and found.excludes(0)


def test_excludes_is_strict():
    assert Estimate(0.5, 0.1, 0.1, 0.9, 3).excludes(0)
    assert Estimate(-0.5, 0.1, -0.9, -0.1, 3).excludes(0)
    assert not Estimate(0.5, 0.1, 0.0, 0.9, 3).excludes(0)


@pytest.mark.parametrize(("n", "level"), [(3, 0.8), (5, 0.8), (5, 0.95), (12, 0.95)])
def test_where_resampled_means_are_normal_the_expanded_percentiles_are_students_interval(n, level):
    """Resampled means spread by s sqrt((n - 1)/n)/sqrt(n), too little by a factor that is put back.

    The draws are exact quantiles, so only the quantile's interpolation separates the two.
    """
    mean, s, size = 0.4, 0.3, 200_001
    spread = s * math.sqrt((n - 1) / n) / math.sqrt(n)
    draws = mean + spread * stats.norm.ppf((np.arange(size) + 0.5) / size)
    found = from_resamples(mean, draws, n, level)
    expected = stats.t.interval(level, n - 1, loc=mean, scale=s / math.sqrt(n))
    assert found.interval == pytest.approx(expected, abs=0.01 * s)


def test_problems_without_trials_say_nothing_about_a_share():
    """All of the trials hit: as certain as the problems that had trials, and no more."""
    some = share({"a": 3, "b": 2}, {"a": 3, "b": 2})
    more = share({"a": 3, "b": 2, "c": 0, "d": 0}, {"a": 3, "b": 2, "c": 0, "d": 0})
    assert more == some and more.clusters == 2
    none = share({"a": 0, "b": 0, "c": 0}, {"a": 3, "b": 2, "c": 0})
    assert none == share({"a": 0, "b": 0}, {"a": 3, "b": 2})


def test_the_bootstrap_distribution_is_that_of_all_resamples():
    """P(|empirical - exact distribution function| > 0.02) < 2 exp(-2 * 20000 * 0.02²) = 3e-7."""
    table = np.array([[1.0, 2.0], [0.0, 1.0], [5.0, 5.0], [2.0, 7.0]])
    seen = []

    def statistic(totals):
        seen.append(totals[:, 0] / totals[:, 1])
        return seen[-1]

    bootstrap(table, statistic, KEY, resamples=20_000)
    drawn = np.concatenate(seen[1:])
    exact = [
        table[list(rows), 0].sum() / table[list(rows), 1].sum()
        for rows in itertools.product(range(4), repeat=4)
    ]
    for point in sorted(set(exact)):
        at = point + 1e-9
        assert abs(np.mean(drawn <= at) - np.mean(np.array(exact) <= at)) < 0.02


def test_blocks_change_nothing(monkeypatch):
    table = np.arange(14.0).reshape(7, 2)
    whole = bootstrap(table, lambda t: t[:, 0] / t[:, 1], KEY, resamples=1000)
    monkeypatch.setattr("nabla_eval.analysis.intervals._BLOCK", 100)
    assert bootstrap(table, lambda t: t[:, 0] / t[:, 1], KEY, resamples=1000) == whole


def test_a_ratio_ignores_problems_without_candidates_and_their_order():
    rejected = {"a": 1, "b": 2, "c": 0}
    judged = {"a": 2, "b": 3, "c": 1}
    found = ratio(rejected, judged)
    assert found.value == 0.5 and found.clusters == 3
    again = ratio({"d": 0, **rejected}, {"d": 0, **dict(reversed(judged.items()))})
    assert again == found


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_clustered_interval_covers_at_its_nominal_rate(level):
    """200 problems of different difficulty, four correlated runs each."""
    trials, problems, k = 1500, 200, 4
    draws = KEY.uniforms(0, trials * problems * (k + 1)).reshape(trials, problems, k + 1)
    difficulty = draws[..., :1] ** 2  # mean 1/3
    runs = (draws[..., 1:] < difficulty).astype(float)
    hits = 0
    for trial in runs:
        found = clustered_mean({str(i): list(row) for i, row in enumerate(trial)}, level)
        hits += found.low <= 1 / 3 <= found.high
    assert_covers(hits, trials, level)


def test_pooling_runs_instead_of_problems_would_undercover():
    """The control of the test above: what ignoring clusters costs, so that it can fail."""
    trials, problems, k = 400, 100, 8
    draws = KEY.uniforms(0, trials * problems * (k + 1)).reshape(trials, problems, k + 1)
    runs = (draws[..., 1:] < draws[..., :1] ** 2).astype(float)
    pooled = [mean(list(trial.ravel())) for trial in runs]
    assert sum(found.low <= 1 / 3 <= found.high for found in pooled) < 0.85 * trials


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_bootstrap_of_a_rate_covers_at_its_nominal_rate(level):
    """120 problems with 0 to 6 candidates each; the problem decides both how many and how bad."""
    trials, problems, most = 1000, 120, 6
    draws = KEY.uniforms(0, trials * problems * (most + 1)).reshape(trials, problems, most + 1)
    nature = draws[..., :1]
    judged = np.arange(most) < np.ceil(nature * (most + 1)) - 1  # count = 0..6, equally likely
    rejected = (draws[..., 1:] < 0.3 + 0.5 * nature) & judged
    # E[count * (0.3 + 0.5 nature)] / E[count], with E[nature | count = j] = (j + 1/2)/7
    counts = np.arange(most + 1)
    truth = float((counts * (0.3 + 0.5 * (counts + 0.5) / 7)).sum() / counts.sum())
    hits = 0
    for i in range(trials):
        num, den = rejected[i].sum(1), judged[i].sum(1)
        found = ratio(
            {f"{j:03}": float(x) for j, x in enumerate(num)},
            {f"{j:03}": float(x) for j, x in enumerate(den)},
            KEY / i,
            resamples=1000,
            level=level,
        )
        hits += found.low <= truth <= found.high
    assert_covers(hits, trials, level)


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("p", [0.04, 0.5, 0.93])
def test_wilson_covers_on_average_over_proportions_near_the_nominal_rate(level, p):
    """Exact coverage by enumeration, averaged over p ± 0.03: Wilson is never far off."""
    trials = 200
    intervals = [wilson(hits, trials, level) for hits in range(trials + 1)]
    covered = []
    for near in np.linspace(p - 0.03, p + 0.03, 61):
        inside = [found.low <= near <= found.high for found in intervals]
        covered.append(stats.binom.pmf(np.arange(trials + 1), trials, near) @ inside)
    assert np.mean(covered) == pytest.approx(level, abs=0.01)

"""Intervals in closed form: against scipy, at their ends, and with nothing to rest on.

How often they hold the truth is in test_coverage.
"""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from scipy import stats

from nabla_eval.analysis import intervals, mean_interval
from nabla_eval.analysis.accuracy import accuracy, difference, pass_at
from nabla_eval.analysis.calibration import calibration
from nabla_eval.analysis.cost import correct_per_cost
from nabla_eval.analysis.intervals import (
    Estimate,
    mean,
    mean_probability,
    proportion,
    rate_difference,
    ratio,
    share,
    skewed_mean,
    skewed_means,
    wilson,
    won_minus_lost,
)
from nabla_eval.errors import DataError


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


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("p", [0.04, 0.5, 0.93])
def test_wilson_covers_on_average_over_proportions_near_the_nominal_rate(level, p):
    """Exact coverage by enumeration, averaged over p ± 0.03: Wilson is never far off."""
    trials = 200
    every = [wilson(hits, trials, level) for hits in range(trials + 1)]
    covered = []
    for near in np.linspace(p - 0.03, p + 0.03, 61):
        inside = [found.low <= near <= found.high for found in every]
        covered.append(stats.binom.pmf(np.arange(trials + 1), trials, near) @ inside)
    assert np.mean(covered) == pytest.approx(level, abs=0.01)


def test_the_clustered_error_is_the_double_sum_over_runs_of_a_problem():
    groups = [[1, 1, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 0, 1]]
    centre = np.mean(groups)
    pairs = sum((x - centre) * (y - centre) for group in groups for x in group for y in group)
    for found in (proportion(groups), mean([sum(group) / 4 for group in groups])):
        assert found.value == pytest.approx(centre) and found.clusters == 4
        assert found.se == pytest.approx(math.sqrt(pairs * 4 / 3) / 16, rel=1e-12)


def test_nothing_is_claimed_without_data():
    nothing = [
        mean([]), wilson(0, 0), ratio([], []), ratio([1.0], [0.0]), share([], []), proportion([]),
        rate_difference([[1, 2, 0, 0], [0, 1, 0, 0]]), rate_difference(np.empty((0, 4))),
        won_minus_lost([], 0, 0), mean([1.0, math.inf]),
    ]  # fmt: skip
    for found in nothing:
        assert math.isnan(found.value) and not found.excludes(0)
    for found in (mean([2.0]), ratio([2.0], [1.0]), skewed_mean([2.0])):
        assert found.value == 2.0 and math.isnan(found.low) and not found.excludes(0)
    assert skewed_means({}) == {}


def test_excludes_is_strict():
    assert Estimate(0.5, 0.1, 0.1, 0.9, 3).excludes(0)
    assert Estimate(-0.5, 0.1, -0.9, -0.1, 3).excludes(0)
    assert not Estimate(0.5, 0.1, 0.0, 0.9, 3).excludes(0)


# --- proportions --------------------------------------------------------------------------------


@pytest.mark.parametrize(("right", "n"), [(0, 30), (1, 10), (15, 30), (29, 30), (30, 30)])
def test_the_ends_are_where_the_score_test_turns(right, n):
    """At an end b of Wilson's interval (p - b)^2 = t^2 b (1 - b) / n."""
    found = mean_interval([[1.0]] * right + [[0.0]] * (n - right))
    assert found == (found.mean, found.low, found.high) and found.mean == right / n
    t = stats.t.ppf(0.975, n - 1)
    for end in (found.low, found.high):
        assert (found.mean - end) ** 2 == pytest.approx(t**2 * end * (1 - end) / n, abs=1e-12)
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high - found.low > 0.05


HARD = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0]] * 6


@pytest.mark.parametrize(
    ("values", "size"),
    [
        ([[1.0], [0.0], [1.0]] * 10, 30),
        ([[1.0] * 4, [0.0] * 4, [1.0] * 4] * 10, 30),  # copied runs are worth one
        ([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]] * 15, 30),  # no problem differs
        ([[1, 1, 0, 0]] * 29 + [[1, 0, 0, 0]], 120),  # hardly any does: as many as there are runs
        ([[1.0, 0.0], [0.0, 1.0, 0.0, 1.0]] * 20 + [[1.0, 0.0, 0.0]],
         41**2 / (20 / 2 + 20 / 4 + 1 / 3)),  # unequal k: their harmonic mean
        (HARD, None),  # between: p (1 - p) / se^2
    ],
)  # fmt: skip
def test_the_effective_sample_size_lies_between_problems_and_answers(values, size):
    means = [sum(runs) / len(runs) for runs in values]
    found, t = mean_interval(values), stats.t.ppf(0.975, len(values) - 1)
    assert found.mean == pytest.approx(np.mean(means))
    if size is None:
        size = found.mean * (1 - found.mean) / stats.sem(means) ** 2
        assert len(values) < size < sum(map(len, values))
    high = found.high
    assert (found.mean - high) ** 2 == pytest.approx(t**2 * high * (1 - high) / size)
    assert accuracy({str(i): runs for i, runs in enumerate(values)}).interval == found[1:]


def test_one_problem_says_nothing_about_others():
    assert mean_interval([[1, 1, 1, 0]]) == (0.75, 0.0, 1.0)
    assert mean_interval([[1]]).low == 0.0
    found = difference({"a": [1.0]}, {"a": [0.0]}).estimate
    assert found.interval == (-1.0, 1.0) and share([3], [3]).interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "There are no values"),
        ([[1.0], []], r"values\[1\] is \[\]"),
        ([[1.0], [0.5, 1.5]], r"values\[1\] is \[0.5, 1.5\]"),
        ([[math.nan]], r"values\[0\] is \[nan\]"),
        ([1.0, 0.0], r"values\[0\] is 1.0"),
        ([["right"]], r"values\[0\] is \['right'\]"),
    ],
)
def test_what_are_no_scores_is_refused_in_words(values, said):
    with pytest.raises(DataError, match=said):
        mean_interval(values)


def test_the_public_name_needs_no_torch_and_the_package_alone_no_scipy():
    code = (
        "import sys, nabla_eval.analysis as a; assert 'scipy' not in sys.modules; "
        "assert a.mean_interval([[1, 0], [1]])[0] == .75; assert 'torch' not in sys.modules; "
        "a.nothing"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "has no attribute 'nothing'" in done.stderr.splitlines()[-1]


def test_problems_without_trials_say_nothing_about_a_share():
    """All of the trials hit: as certain as the problems that had trials, and no more."""
    more = share([3, 2, 0, 0], [3, 2, 0, 0])
    assert more == share([3, 2], [3, 2]) and more.clusters == 2


def test_probabilities_stay_in_the_unit_interval_and_are_surer_than_as_many_trials():
    """Calculated chances of .49 +- .02 have the t interval; few near an end, no end beyond it."""
    near = 0.49 + 0.02 * np.sin(np.arange(40))
    found, straight = mean_probability(near, np.ones(40)), mean(near)
    assert found.interval == pytest.approx(straight.interval, abs=1e-4)
    low, high = mean_probability([0.1, 0.9], [1, 1]).interval
    assert 0 <= low < 0.1 and 0.9 < high <= 1
    assert 0 < mean_probability([0.0] * 50, [1] * 50).high < 0.08


def test_a_rate_at_an_end_is_as_sure_as_its_problems_not_as_its_candidates():
    """Kish: one problem with 91 of 100 candidates is hardly more than one."""
    many = [91] + [1] * 9
    lopsided, even = share(many, many), share([10] * 10, [10] * 10)
    assert lopsided.low < 0.4 < 0.6 < even.low


# --- the ends, wherever a proportion is shown ---------------------------------------------------


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=1, max_size=4), min_size=1,
             max_size=9)
)  # fmt: skip
def test_it_never_has_zero_width_and_never_leaves_the_unit_interval(values):
    found = mean_interval(values)
    assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high - found.low > 0.01
    scores = {str(i): runs for i, runs in enumerate(values)}
    for other in (scores, {problem: [1.0] for problem in scores}):
        gap = difference(scores, other).estimate
        assert -1 <= gap.low <= gap.value <= gap.high <= 1 and gap.high - gap.low > 0.01


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_differences_between_ends_have_width(a, b):
    sides = [{str(i): [float(x)] * 4 for i in range(30)} for x in (a, b)]
    found = difference(*sides).estimate
    assert found.value == a - b and found.low < found.high and found.high - found.low > 0.1
    table = np.array([[a * (1 + i % 3), 1 + i % 3, b * (1 + i % 2), 1 + i % 2] for i in range(30)])
    rates = rate_difference(table)
    assert rates.value == a - b and rates.high - rates.low > 0.1
    assert max(abs(found.low), abs(found.high), abs(rates.low), abs(rates.high)) <= 1


@pytest.mark.parametrize("right", [0.0, 1.0])
def test_other_figures_at_an_end_have_width_too(right):
    scores = {f"t/{i}": [right] * 4 for i in range(20)}
    assert pass_at(scores, 2).high - pass_at(scores, 2).low > 0.05
    assert accuracy(scores).se > 0.01
    for calls in (10.0 + np.arange(20), np.full(20, 10.0)):
        answers = DataFrame({"problem": list(scores), "model_calls": calls})
        found = correct_per_cost(SimpleNamespace(scores=scores, answers=answers))
        assert found.low <= found.value <= found.high and found.high - found.low > 0.005


def test_a_perfect_auc_on_few_problems_is_not_certain():
    def answers(rows):
        return DataFrame(rows, columns=["problem", "reward", "right"])

    found = calibration(answers([(i, right, bool(right)) for i in range(5) for right in (0, 1)]))
    assert found.pooled.value == found.within.value == 1.0
    assert found.pooled.low == found.within.low == pytest.approx(mean_interval([[1]] * 5).low)
    one_wrong = answers([(i, 1.0, True) for i in range(9)] + [(9, 0.0, False)])
    assert calibration(one_wrong).pooled.low < 0.2  # it rests on a single wrong answer


# --- means and ratios of costs ------------------------------------------------------------------

COSTS = [1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0, 30.0]


def test_costs_that_do_not_vary_are_known_and_scales_do_not_matter():
    same = skewed_means({"a": [12.0] * 8, "b": COSTS})
    assert same["a"].interval == (12.0, 12.0) and same["b"] == skewed_mean(COSTS)
    large = skewed_mean([1e12 * x for x in COSTS])
    assert large.interval == pytest.approx(tuple(1e12 * x for x in same["b"].interval))
    assert skewed_mean([1.0, 3.0]) == mean([1.0, 3.0])


def test_resamples_are_drawn_with_replacement_each_row_alike(monkeypatch):
    """P(|empirical - exact distribution function| > 0.02) < 2 exp(-2 * 20000 * 0.02^2) = 3e-7.

    Coverage would not show it: an interval's end is never nearer than Student's.
    """
    monkeypatch.setattr(intervals, "_RESAMPLES", 20_000)
    rows = np.array([0.0, 1.0, 5.0, 25.0])  # whose sums tell each resample
    drawn = np.concatenate([weights @ rows for weights in intervals._resampled_weights(4)])
    exact = np.array([sum(picks) for picks in itertools.product(rows, repeat=4)])
    for point in sorted(set(exact)):
        assert abs(np.mean(drawn <= point) - np.mean(exact <= point)) < 0.02


def test_resamples_in_blocks_are_the_same(monkeypatch):
    whole = skewed_mean(COSTS)
    monkeypatch.setattr("nabla_eval.analysis.intervals._BLOCK", 100)
    found = skewed_mean(COSTS)
    assert found.interval == pytest.approx(whole.interval, rel=1e-12)


def test_a_ratio_is_the_mean_of_its_first_order_parts():
    """Of equal wholes it is the mean of the parts; of parts in proportion it is exact."""
    assert ratio(COSTS, [2.0] * 8).interval == pytest.approx(
        tuple(x / 2 for x in skewed_mean(COSTS).interval)
    )
    assert ratio([3 * x for x in COSTS], COSTS).interval == pytest.approx((3.0, 3.0))
    found = ratio([1.0, 2.0, 0.0, 0.0], [2.0, 3.0, 1.0, 0.0])  # nothing is tried in the last
    assert found.value == 0.5 and found.clusters == 3 and found.low == 0.0
    assert ratio([1.0, 2.0, 0.0, 7.0], [2.0, 3.0, 1.0, 0.0]).value == 10 / 6
    assert ratio([-1.0, 2.0, 0.0], [2.0, 3.0, 1.0]).low < 0

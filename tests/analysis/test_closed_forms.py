"""Statistics in cases where the answer is known without them: small corrections that must be there.

Each of these is a factor, a term or a count whose loss changes results by little, so that coverage
simulations pass without it.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
from pandas import DataFrame
from scipy import stats

from nabla_eval.analysis.intervals import from_resamples, share
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.analysis.significance import sign_flip_test
from nabla_eval.randomness import Key

KEY = Key.root(52)


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


def test_rounded_differences_have_a_p_value_between_those_that_rounding_can_make():
    """Differences without a common step are rounded to 1/500 of the largest first.

    That moves each of them by at most 1/1000 of the largest, and so our sum and every other one by
    P/1000: the p value lies between those of sums that are further by twice that, and nearer.
    """
    size = 13
    for trial in range(20):
        draws = (KEY / trial).uniforms(0, size)
        differences = [float(x) for x in np.exp(draws) * (0.1 + draws) - 0.5]
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        slack = 2 * size * max(map(abs, differences)) / 1000 + 1e-12
        ours = abs(sum(differences))
        low, high = ((np.abs(sums) >= ours + move).mean() for move in (slack, -slack))
        assert low <= sign_flip_test(differences) <= high
        assert high - low < 0.05  # or this would say nothing


class LinearRun:
    """Accuracy that is a straight line of the cost, problem by problem."""

    n = 1

    def __init__(self, costs: np.ndarray, gain: float = 0.0) -> None:
        self.scores = {f"t/{i}": [0.1 + 0.01 * cost + gain] for i, cost in enumerate(costs)}
        names = [f"t/{i}" for i in range(len(costs))]
        self.answers = DataFrame({"problem": names, "model_calls": costs})


@pytest.mark.parametrize("gain", [0.0, 0.125])
def test_what_costs_explain_is_taken_out_of_the_spread_at_equal_cost(gain: float) -> None:
    """Accuracy follows cost: less the slope times the cost, problems do not differ.

    Taken with the other sign, the correction would double what the costs explain.
    """
    draws = (KEY / "costs").uniforms(0, 60).reshape(3, 20)
    cheap, dear, ours = (
        cast("Run", LinearRun(costs, own))
        for costs, own in zip(
            draws * [[10], [40], [25]] + [[5], [20], [12]], (0, 0, gain), strict=True
        )
    )
    found = cast("Any", at_equal_cost(ours, [cheap, dear]))
    assert found.difference.estimate.value == pytest.approx(gain, abs=1e-9)
    assert found.difference.estimate.se == pytest.approx(0, abs=1e-9)

"""Exact tests: against scipy, against all signs, and their size."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nabla_eval.analysis.significance import holm, sign_flip_test, sign_test
from nabla_eval.randomness import Key


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (3, 9), (40, 61), (7, 7)])
def test_the_sign_test_is_scipys(wins, losses):
    expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert sign_test(wins, losses) == pytest.approx(expected)
    differences = [1.0] * wins + [-1.0] * losses + [0.0] * 11
    assert sign_flip_test(differences) == pytest.approx(expected)  # McNemar's exact test


@given(st.lists(st.integers(-8, 8), max_size=9), st.sampled_from([1, 2, 4, 6]))
def test_the_sign_flip_test_is_all_signs(steps, repeats):
    differences = [step / repeats for step in steps]
    observed = abs(sum(steps))
    sums = [
        abs(sum(sign * step for sign, step in zip(signs, steps, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(steps))
    ]
    expected = sum(total >= observed for total in sums) / len(sums)
    assert sign_flip_test(differences) == pytest.approx(expected)


def test_its_size_is_at_most_nominal_and_exact():
    """Enumeration: under the null all signs are equally likely, so P(p <= alpha) <= alpha."""
    sizes = np.array([1, 1, 1, 2, 2, 3, 4, 4, 1, 2]) / 4
    p_values = [
        sign_flip_test(list(np.array(signs) * sizes))
        for signs in itertools.product((-1, 1), repeat=len(sizes))
    ]
    for alpha in (0.01, 0.05, 0.1, 0.5):
        rejected = np.mean(np.array(p_values) <= alpha + 1e-12)
        assert alpha / 3 <= rejected <= alpha + 1e-12


def test_rounded_differences_have_a_p_value_between_those_that_rounding_can_make():
    """Differences without a common step are rounded to 1/500 of the largest first.

    That moves each of them by at most 1/1000 of the largest, and so our sum and every other one by
    P/1000: the p value lies between those of sums that are further by twice that, and nearer.
    """
    size = 13
    for trial in range(20):
        draws = (Key.root(52) / trial).uniforms(0, size)
        differences = [float(x) for x in np.exp(draws) * (0.1 + draws) - 0.5]
        sums = np.zeros(1)
        for difference in differences:
            sums = np.concatenate([sums + difference, sums - difference])
        slack = 2 * size * max(map(abs, differences)) / 1000 + 1e-12
        ours = abs(sum(differences))
        low, high = ((np.abs(sums) >= ours + move).mean() for move in (slack, -slack))
        assert low <= sign_flip_test(differences) <= high
        assert high - low < 0.05  # or this would say nothing


def test_holm_is_the_step_down_procedure():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
    adjusted = holm([0.02, math.nan, 0.01])
    assert math.isnan(adjusted[1]) and adjusted[0::2] == pytest.approx([0.02, 0.02])


def test_holm_keeps_the_familywise_rate():
    """1500 families of 5 true nulls: P(rate of any rejection > 0.05 + 4 se) < 1e-4 if nominal."""
    families, tests, trials = 1500, 5, 40
    wins = (Key.root(5).uniforms(0, families * tests * trials) < 0.5).reshape(-1, tests, trials)
    p = [[sign_test(int(w), trials - int(w)) for w in row] for row in wins.sum(axis=2)]
    any_rejected = np.mean([min(holm(row)) <= 0.05 for row in p])
    assert any_rejected <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / families)
    assert np.mean([min(row) <= 0.05 for row in p]) > 0.12  # without the correction

"""GRIM against enumeration, and bounds of significance over all pairings."""

from __future__ import annotations

import math
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from fractions import Fraction
from itertools import product

import pytest
from consistency import (
    as_many_by_luck,
    chance_fit,
    grim,
    noise,
    standard_errors,
)
from scipy import stats

from nabla_eval.errors import DataError


def printed(count: int, total: int, digits: int, how: str) -> str:
    exact = Decimal(100 * count) / Decimal(total)
    return str(exact.quantize(Decimal(1).scaleb(-digits), rounding=how))


@pytest.mark.parametrize(("problems", "runs"), [(30, 4), (40, 4), (83, 4), (500, 1), (7, 1)])
def test_grim_is_enumeration(problems, runs):
    """Every percentage with one decimal, against what every count of right answers prints."""
    total = problems * runs
    possible: dict[str, set[int]] = {}
    for count in range(total + 1):
        for how in (ROUND_HALF_EVEN, ROUND_HALF_UP, "ROUND_HALF_DOWN"):
            possible.setdefault(printed(count, total, 1, how), set()).add(count)
    cut: dict[str, set[int]] = {}
    for count in range(total + 1):
        cut.setdefault(printed(count, total, 1, "ROUND_DOWN"), set()).add(count)
    for tenth in range(1001):
        text = f"{tenth / 10:.1f}"
        found = grim(text, problems, runs)
        assert set(found.rounded) == possible.get(text, set()), text
        assert set(found.cut) == cut.get(text, set()), text
        assert found.below <= Fraction(tenth, 10) <= found.above
        assert found.above - found.below <= Fraction(100, total)


@pytest.mark.parametrize(
    ("problems", "runs", "sample"),
    [(30, 4, "26.6"), (83, 4, "50.1"), (500, 1, "80"), (7, 1, "14.29"), (1000, 1, "0.1"),
     (8, 1, "12.5"), (16, 1, "6.2")],
)  # fmt: skip
def test_the_chance_of_a_lucky_fit_is_enumeration(problems, runs, sample):
    """The share of all percentages with as many decimals that `grim` finds possible."""
    digits = len(sample.partition(".")[2])
    every = [f"{i / 10**digits:.{digits}f}" for i in range(100 * 10**digits + 1)]
    possible = sum(grim(text, problems, runs).possible for text in every)
    assert chance_fit(sample, problems, runs) == Fraction(possible, len(every))


def test_a_fit_says_little_where_the_net_is_wide():
    assert chance_fit("50.1", 83, 4) == Fraction(333, 1001)  # a third, as every count prints apart
    assert chance_fit("50.1", 30, 4) == Fraction(121, 1001)
    assert chance_fit("50", 500) == 1 and chance_fit("50.0", 1000) == 1
    with pytest.raises(DataError, match="no percentage"):
        chance_fit("101", 30)
    with pytest.raises(DataError, match="at least 1"):
        chance_fit("50", 0)


def test_as_many_fits_by_luck_is_the_binomial_tail_and_its_sum_over_all_outcomes():
    for possible in range(9):
        expected = stats.binom.sf(possible - 1, 8, 1 / 3)
        assert as_many_by_luck([1 / 3] * 8, possible) == pytest.approx(expected, abs=1e-12)
    chances = [0.1, 0.5, 0.9, 1.0]
    for possible in range(5):
        expected = sum(
            math.prod(c if hit else 1 - c for c, hit in zip(chances, hits, strict=True))
            for hits in product((0, 1), repeat=4)
            if sum(hits) >= possible
        )
        assert as_many_by_luck(chances, possible) == pytest.approx(expected, abs=1e-12)
    assert as_many_by_luck([], 0) == 1.0


def test_means_of_rounded_runs_are_enumeration_too():
    problems, runs = 7, 3
    singles = [Decimal(printed(c, problems, 1, ROUND_HALF_EVEN)) for c in range(problems + 1)]
    means = {sum(each) / runs for each in product(singles, repeat=runs)}
    for tenth in range(1001):
        value = Decimal(tenth) / 10
        expected = any(abs(mean - value) <= Decimal("0.05") for mean in means)
        assert grim(f"{value:.1f}", problems, runs).run_means == expected


def test_known_cases():
    assert grim("80.4", 500).rounded == (402,) and grim("80.4", 500).verdict == "402 of 500"
    assert grim("80.5", 500).verdict == "not possible"
    assert not grim("26.6", 30, 4).possible
    assert grim("26.6", 30, 4).verdict == "only as 32 of 120 cut off or a mean of rounded runs"
    assert grim("26.7", 30, 4).rounded == (32,)
    assert grim("71", 500).rounded == tuple(range(353, 358))  # no decimals: a wide net
    assert grim("100", 30).rounded == (30,) and grim("0.0", 30).rounded == (0,)


@pytest.mark.parametrize("text", ["", "x", "-1", "101", "nan", "Infinity", "71.0001"])
def test_what_is_no_percentage_is_refused(text):
    with pytest.raises(DataError, match="no percentage"):
        grim(text, 30)
    with pytest.raises(DataError, match="at least 1"):
        grim("50", 0)


def test_standard_errors_bracket_what_repeats_can_tell():
    low, high = standard_errors(0.25, 30, 4)
    assert low == pytest.approx((0.25 * 0.75 / 120) ** 0.5)
    assert high == pytest.approx((0.25 * 0.75 / 29) ** 0.5)
    assert standard_errors(0.8, 500) == (pytest.approx((0.16 / 499) ** 0.5),) * 2


def test_a_difference_of_one_answer_is_noise_however_the_answers_pair():
    found = noise("80.4", "80.2", 500)
    assert found.answers == 1 and found.p_at_best == 1.0 and found.losses_allowed is None
    assert "however" in found.verdict


def test_the_bound_on_losses_is_exact():
    found = noise("80.4", "77.8", 500)
    assert found.answers == 13
    for losses in range(60):
        p = stats.binomtest(losses + 13, 2 * losses + 13).pvalue
        assert (p < 0.05) == (losses <= found.losses_allowed)
    assert "open" in found.verdict and 0.05 < found.p_unpaired < 1


def test_a_large_difference_exceeds_noise():
    found = noise("80.4", "60.0", 500)
    table = [[402, 98], [300, 200]]
    assert found.p_unpaired == pytest.approx(
        stats.norm.sf(20.4 / 100 / (0.804 * 0.196 / 500 + 0.24 / 500) ** 0.5) * 2
    )
    assert found.p_unpaired < stats.chi2_contingency(table).pvalue * 10
    assert found.p_alike == pytest.approx(
        stats.norm.sf(0.204 / (2 * 0.702 * 0.298 / 499) ** 0.5) * 2
    )
    assert found.verdict == "exceeds noise"
    assert noise("60.0", "80.4", 500).answers == -found.answers


def test_what_exceeds_noise_does_so_also_if_the_runs_of_a_problem_are_alike():
    """Greedy repeats itself: 40 problems x 4 are 40 answers, and 13.8 points of them are open."""
    found = noise("56.8", "43.0", 40, 4)
    assert found.p_unpaired < 0.05 < found.p_alike
    assert found.p_alike == pytest.approx(noise("56.8", "43.0", 40).p_alike)
    assert found.verdict == "open: not if runs are alike"
    single = noise("80.4", "74.4", 500)
    assert single.verdict == "exceeds noise"
    assert single.verdict_at(0.06) == "open: not after the correction"
    assert noise("100", "0", 1).p_alike == 1.0 and noise("0", "0", 30).p_alike == 1.0
    assert noise("100", "97.5", 40, 4).verdict != "exceeds noise"

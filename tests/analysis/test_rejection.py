"""Rejection rates: baselines by enumeration of all orders, ties, indices, clusters."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from run_folders import as_run, candidate, record

from nabla_eval.analysis.candidates import (
    challengers_baseline,
    draft_verdicts,
    first_accepted_baseline,
    iid_process,
    judged,
    rate,
    rejection,
    rejection_difference,
)
from nabla_eval.analysis.intervals import wilson
from nabla_eval.errors import ConfigError, DataError
from nabla_eval.randomness import Key

A, R, T = "accepted", "rejected", "tie"


def rates(rewards):
    """Rates of all drafts, and of those that have another before them."""
    process = iid_process(rewards)
    return rate(process), rate(process[process["nth"] > 1])


def test_the_baselines_at_eight_are_the_papers_and_the_designs():
    assert round(float(first_accepted_baseline(8)), 4) == 0.6603
    assert round(float(challengers_baseline(8)), 4) == 0.7546


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_all_orders_of_distinct_rewards_reject_at_exactly_the_baselines(n):
    orders = list(itertools.permutations(range(n)))
    rejected = sum(verdict == R for order in orders for verdict in draft_verdicts(order))
    assert Fraction(rejected, n * len(orders)) == first_accepted_baseline(n)
    if n > 1:
        assert Fraction(rejected, (n - 1) * len(orders)) == challengers_baseline(n)
    every, challengers = rates((str(i), order) for i, order in enumerate(orders))
    assert every.estimate.value == pytest.approx(float(first_accepted_baseline(n)))
    if n > 1:
        assert challengers.estimate.value == pytest.approx(float(challengers_baseline(n)))
    else:
        assert challengers.judged == 0


def test_a_baseline_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="n=0"):
        first_accepted_baseline(0)
    with pytest.raises(ConfigError, match="challenger"):
        challengers_baseline(1)


def test_ties_reject_and_are_counted_apart():
    assert draft_verdicts([1.0, 1.0, 0.5, 2.0, 2.0, 1.5]) == [A, T, R, A, T, R]
    every, challengers = rates([("p", [1.0, 1.0, 0.5, 2.0])])
    assert (every.judged, every.rejected, every.ties) == (4, 2, 1)
    assert (challengers.judged, challengers.rejected, challengers.ties) == (3, 2, 1)


def test_rates_overall_and_by_index():
    found = rejection(judged([("a", [R, T, A]), ("b", [A]), ("c", []), ("a", [R, A])]))
    overall = found.overall
    assert (overall.judged, overall.rejected, overall.ties) == (6, 3, 1)
    assert overall.estimate.value == 0.5
    assert overall.estimate.clusters == 2  # c had no candidate, a came twice
    assert [(r.judged, r.rejected, r.ties) for r in found.by_index] == [
        (3, 2, 0),
        (2, 1, 1),
        (1, 0, 0),
    ]
    assert found.first is found.by_index[0]


def test_no_candidates_at_all_give_no_rate():
    found = rejection(judged([("a", []), ("b", [])]))
    assert math.isnan(found.overall.estimate.value)
    assert found.by_index == () and found.first.judged == 0


@pytest.mark.parametrize(("verdict", "value"), [(A, 0.0), (R, 1.0), (T, 1.0)])
def test_a_rate_at_the_end_still_has_an_interval_of_width(verdict, value):
    found = rate(judged((str(i), [verdict] * 3) for i in range(10))).estimate
    assert found.value == value and found.clusters == 10
    assert found.interval == pytest.approx(wilson(10 * value, 10, freedom=9).interval)


def test_correlated_candidates_widen_the_interval():
    """Four identical candidates per problem say as little as one, or as two."""
    pattern = [R if i % 3 else A for i in range(60)]
    one, two, four = (
        rate(judged((f"{i:02}", [v] * k) for i, v in enumerate(pattern))).estimate
        for k in (1, 2, 4)
    )
    alone = rate(
        judged((f"{i:02}{j}", [v]) for i, v in enumerate(pattern) for j in range(4))
    ).estimate
    assert four.interval == pytest.approx(two.interval)
    assert four.high - four.low == pytest.approx(one.high - one.low, rel=0.05)
    assert alone.high - alone.low == pytest.approx((one.high - one.low) / 2, rel=0.1)


def test_one_candidate_a_problem_is_a_plain_proportion():
    found = rate(judged((str(i), [R if i % 4 else A]) for i in range(40)))
    assert found.estimate.interval == pytest.approx(wilson(30, 40, freedom=39).interval)


def test_a_difference_of_rates_is_paired_by_problem():
    a = [(f"{i:02}", [R, R, A] if i % 2 else [A, A]) for i in range(40)]
    b = [(problem, [*found, R]) for problem, found in a]
    shifted = rejection_difference(judged(b), judged(a))
    assert shifted.value == pytest.approx((40 + 40) / (100 + 40) - 40 / 100)
    assert shifted.low > 0
    moved = judged((f"x{problem}", found) for problem, found in b)
    unpaired = rejection_difference(moved, judged(a))
    assert unpaired.high - unpaired.low > 1.5 * (shifted.high - shifted.low)


def test_equal_rejections_do_not_prove_equality():
    same = judged((f"{i}", ["rejected", "accepted"]) for i in range(22))
    found = rejection_difference(same, same)
    assert found.value == 0 and found.high == -found.low == pytest.approx(
        wilson(0, 22, freedom=21).high
    )
    assert math.isnan(rejection_difference(judged([]), judged([])).value)


def test_iid_drafts_reproduce_the_baseline_within_the_interval():
    """400 problems, 8 keyed rewards each: a right 95 % interval misses with probability 0.05."""
    key = Key.root(0)
    runs = [(f"{i:03}", list((key / i).uniforms(0, 8))) for i in range(400)]
    baselines = first_accepted_baseline(8), challengers_baseline(8)
    for found, baseline in zip(rates(runs), baselines, strict=True):
        assert found.estimate.low <= baseline <= found.estimate.high
        assert found.ties == 0


def test_records_give_their_verdicts_and_drafts_that_were_not_scored_are_refused():
    lines = [record(3, 1, task="t", candidates=[candidate(T), candidate(A)])]
    found = as_run(lines).candidates
    assert list(zip(found["problem"], found["nth"], found["verdict"], strict=True)) == [
        ("t/3", 1, T), ("t/3", 2, A),
    ]  # fmt: skip
    with pytest.raises(DataError, match="t/5: its drafts were not all scored"):
        iid_process([("t/4", (0.5,)), ("t/5", (1.0, None))])

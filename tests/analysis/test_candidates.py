"""Candidates: rejection rates, baselines by enumeration, bins, gains and work saved, by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from run_folders import NABLA, as_run, candidate, record

from nabla_eval.analysis.candidates import (
    bin_edges,
    challengers_baseline,
    draft_verdicts,
    first_accepted_baseline,
    gain,
    gains,
    iid_process,
    in_bins,
    judged,
    rate,
    rejection,
    rejection_difference,
)
from nabla_eval.analysis.cost import acceleration, truncated
from nabla_eval.analysis.intervals import wilson
from nabla_eval.errors import ConfigError, DataError
from nabla_eval.reporting.accuracy import failure_table

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
    nothing = rejection(judged([("a", []), ("b", [])]))
    assert math.isnan(nothing.overall.estimate.value)
    assert nothing.by_index == () and nothing.first.judged == 0


@pytest.mark.parametrize(
    ("verdicts", "hits"),
    [
        ([[A] * 3] * 10, 0),
        ([[R] * 3] * 10, 10),
        ([[T] * 3] * 10, 10),
        ([[A], [R], [R], [R]] * 10, 30),
    ],
)
def test_a_rate_is_a_proportion_of_problems_also_at_its_ends(verdicts, hits):
    found = rate(judged(enumerate(verdicts))).estimate
    n = len(verdicts)
    assert found.value == hits / n and found.clusters == n
    assert found.interval == pytest.approx(wilson(hits, n, freedom=n - 1).interval)


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


def test_records_give_their_verdicts_and_drafts_that_were_not_scored_are_refused():
    lines = [record(3, 1, task="t", candidates=[candidate(T), candidate(A)])]
    found = as_run(lines).candidates
    assert list(zip(found["problem"], found["nth"], found["verdict"], strict=True)) == [
        ("t/3", 1, T), ("t/3", 2, A),
    ]  # fmt: skip
    with pytest.raises(DataError, match="t/5: its drafts were not all scored"):
        iid_process([("t/4", (0.5,)), ("t/5", (1.0, None))])


def test_bins_hold_every_candidate_once_and_count_what_was_accepted():
    records = [
        record(i, candidates=[
            candidate("accepted" if (i + j) % 3 == 0 else "tie", entropy=0.1 * ((7 * i + j) % 10))
            for j in range(i % 4)
        ])
        for i in range(30)
    ]  # fmt: skip
    judged = as_run(records).candidates
    edges = bin_edges([judged], "entropy", bins=4)
    bins = in_bins(judged, "entropy", judged["verdict"] == "accepted", edges)
    everyone = [c for r in records for c in r["candidates"]]
    assert sum(found.rows for found in bins) == len(everyone)
    for i, found in enumerate(bins):
        last = i == len(bins) - 1
        inside = [
            c for c in everyone
            if found.low <= c["entropy"] and (c["entropy"] < found.high or last)
        ]  # fmt: skip
        accepted = sum(c["verdict"] == "accepted" for c in inside)
        assert (found.rows, found.hits) == (len(inside), accepted)
        assert found.share.value == pytest.approx(accepted / len(inside))


def test_bins_of_nothing_and_of_one_value():
    nothing = as_run([record(0)]).candidates
    hits = nothing["verdict"] == "accepted"
    assert bin_edges([nothing], "entropy", 5) == [] == in_bins(nothing, "entropy", hits, [])
    judged = [record(i, candidates=[candidate("rejected", norm=None)]) for i in range(3)]
    same = as_run(judged).candidates
    assert bin_edges([same], "gradient_norm", 5) == []  # no gradient was taken
    edges, hits = bin_edges([same], "position", 5), same["verdict"] == "accepted"
    (only,) = in_bins(same, "position", hits, edges)
    assert (only.rows, only.hits) == (3, 0) and only.share.high > 0


def test_gain_by_hand():
    records = [
        record(0, candidates=[candidate("accepted", new=3.0), candidate("rejected", new=-1.0)],
               drafts=(0.0,), reward=3.0),
        record(1, candidates=[candidate("tie")], drafts=(1.0,), reward=1.0),
        record(2, drafts=(None,), reward=None),
    ]  # fmt: skip
    run = as_run(records)
    found = gain(run)
    assert found.candidates == 3
    assert list(gains(run.candidates)["gain"]) == [3.0, -1.0, 0.0]
    assert found.mean.value == pytest.approx((1.0 + 0.0) / 2)  # means of problem means
    assert found.accepted.value == 3.0 and found.positive.value == pytest.approx(0.25)
    assert found.final.value == pytest.approx(1.5) and found.final.clusters == 2


def test_acceleration_by_hand():
    ledger = record(0)["ledger"] | {
        "refinements": 4, "gradient_passes": 8, "generated_tokens": 30, "model_calls": 100,
        "speculative_tokens": 6, "speculative_scorings": 2, "speculative_passes": 3,
    }  # fmt: skip
    first = candidate("rejected", position=1)
    second = candidate("accepted", position=2)
    second["tokens"] = [1] * 10
    third = candidate("rejected", position=3)
    ours = record(0, candidates=[first, second, third], ledger=ledger)
    ours["outcome"]["positions"], ours["outcome"]["visited"] = 20, 4
    older = as_run([ours])  # traces older than `certify` do not say, which is not "none"
    assert older.answers["certified"].isna().all()
    assert acceleration(older).certified.value == 0.0
    ours["outcome"]["certified"] = 3
    found = acceleration(as_run([ours]))
    assert found.certified.value == pytest.approx(3 / 4)
    assert found.cached.value == pytest.approx(1 - 8 / (4 * 20))
    tails = (4 - 1) + (4 - 2) + (10 - 3)  # of the response that stood at each judgement
    assert found.reused.value == pytest.approx(tails / (tails + 30))
    afresh = 4 + 4 * 4  # the draft, and for each visit a response of at least 4 tokens
    assert found.spared.value == pytest.approx(1 - 30 / afresh)
    assert found.skipped.value == pytest.approx(16 / 20)
    assert found.speculative.value == pytest.approx((6 + 2 + 12) / 100)


def test_tokens_spared_can_come_near_one_and_tokens_reused_cannot_pass_one_half():
    """A response of 200 tokens, refined at 20 places, each draw judged and rejected."""
    records = []
    for i in range(3):
        judged = [candidate("rejected", position=10 * place) for place in range(20)]
        line = record(i, candidates=judged)
        line["drafts"][0]["tokens"] = [1] * 200
        line["ledger"]["generated_tokens"] = 200 + sum(200 - 10 * place for place in range(20))
        records.append(line)
    found = acceleration(as_run(records))
    tails = 20 * 105
    assert found.reused.value == pytest.approx(tails / (2 * tails + 200))
    assert found.spared.value == pytest.approx(1 - (200 + tails) / (21 * 200))
    for line in records:  # no draw differs from its token: nothing but the draft was generated
        line["candidates"], line["ledger"]["generated_tokens"] = [], 200
        line["outcome"]["visited"] = 20
    assert acceleration(as_run(records)).spared.value == pytest.approx(20 / 21)


def test_a_run_that_refines_nothing_saves_nothing():
    twin = [record(i, config={**NABLA, "steps": 0}, candidates=[candidate()]) for i in range(2)]
    assert math.isnan(acceleration(as_run(twin)).cached.value)
    assert math.isnan(acceleration(as_run(twin)).certified.value)
    plain = record(0, method="greedy", config={})
    plain["outcome"]["positions"] = 0
    found = acceleration(as_run([plain]))
    assert math.isnan(found.reused.value) and math.isnan(found.skipped.value)
    assert math.isnan(found.spared.value)


def test_failures_come_from_the_trace_and_from_the_task():
    records = [record(i, repeat) for i in range(4) for repeat in range(2)]
    records[0]["outcome"]["stop"] = "length"
    scores = {f"toy/{i}": [1.0] for i in range(4)}
    metrics = {"no_answer": {f"toy/{i}": [float(i == 0)] for i in range(4)}}
    run = as_run(records, scores, metrics=metrics)
    (row,) = failure_table([run]).rows
    assert row["answers"] == 8 and row["truncated"] == truncated(run).value == 1 / 8
    assert row["no_answer"] == 0.25 and row["grader_timeout"] is row["grader_error"] is None

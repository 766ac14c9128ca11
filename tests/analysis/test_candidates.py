"""Candidates by feature, gains, shares of saved work and of failed answers, by hand."""

from __future__ import annotations

import math

import pytest
from run_folders import NABLA, as_run, candidate, record

from nabla_eval.analysis.candidates import bin_edges, gain, gains, in_bins
from nabla_eval.analysis.cost import acceleration, truncated
from nabla_eval.analysis.frames import by_problem
from nabla_eval.reporting.accuracy import failure_table


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
    assert by_problem(gains(run.candidates), "gain") == {"toy/0": [3.0, -1.0], "toy/1": [0.0]}
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
    assert acceleration(as_run([ours])).certified.value == 0.0  # as in traces of older versions
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

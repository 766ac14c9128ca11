"""Synthetic traces with known truth: intervals of differences and ratios cover, tests keep size.

S data sets each; if an interval covered at exactly its nominal rate c, the observed rate would
leave c ± 4 sqrt(c (1 - c) / S) with probability below 1e-4. The draws are keyed.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from pandas import DataFrame
from run_folders import as_run, candidate, record, write_run

from nabla_eval.analysis import intervals
from nabla_eval.analysis.accuracy import difference
from nabla_eval.analysis.cost import cost_ratio
from nabla_eval.analysis.rejection import (
    best_of_n_process,
    challengers_baseline,
    draft_rewards,
    first_accepted_baseline,
    rejection_difference,
)
from nabla_eval.analysis.study import load
from nabla_eval.randomness import Key
from nabla_eval.reporting.rows import first_rate
from nabla_eval.reporting.sections.rejection import rejection_report

KEY = Key.root(21)


def covers(hits: int, trials: int) -> bool:
    return abs(hits / trials - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / trials)


def test_a_difference_of_rejection_rates_covers(monkeypatch):
    """100 problems of different hardness, 1 to 4 candidates in one method, 2 in the other."""
    monkeypatch.setattr(intervals.bootstrap, "__defaults__", (intervals._KEY, 1000, 0.95))
    trials, problems = 400, 100
    draws = KEY.uniforms(0, trials * problems * 8).reshape(trials, problems, 8)
    hits = 0
    for data in draws:
        counts = 1 + (data[:, 0] * 4).astype(int)
        hard = data[:, 1]
        first = [
            (f"{i:03}", ["rejected" if u < 0.3 + 0.5 * hard[i] else "accepted"
                         for u in data[i, 2 : 2 + counts[i]]])
            for i in range(problems)
        ]  # fmt: skip
        second = [
            (f"{i:03}", ["rejected" if u < 0.5 + 0.5 * hard[i] else "accepted"
                         for u in data[i, 6:8]])
            for i in range(problems)
        ]  # fmt: skip
        found = rejection_difference(first, second)
        hits += found.low <= 0.55 - 0.75 <= found.high  # counts do not depend on hardness
    assert covers(hits, trials), hits


def test_a_ratio_of_costs_covers(monkeypatch):
    """80 problems whose two costs share their length; the true ratio of means is 0.6."""
    monkeypatch.setattr(intervals.bootstrap, "__defaults__", (intervals._KEY, 1000, 0.95))
    trials, problems = 400, 80
    draws = (KEY / "cost").uniforms(0, trials * problems * 3).reshape(trials, problems, 3)
    hits = 0
    for data in draws:
        length = 10 + 30 * data[:, 0]
        ours, theirs = 0.6 * length * (0.5 + data[:, 1]), length * (0.5 + data[:, 2])
        names = [f"t/{i}" for i in range(problems)]
        sides = [DataFrame({"problem": names, "model_calls": side}) for side in (ours, theirs)]
        found = cost_ratio(*(SimpleNamespace(answers=side) for side in sides))
        hits += found.low <= 0.6 <= found.high
    assert covers(hits, trials), hits


@pytest.mark.parametrize("repeats", [1, 4])
def test_the_paired_test_keeps_its_size(repeats):
    """Two equal methods on 120 problems: P(rate of p <= 0.05 above 0.05 + 4 se) < 1e-4."""
    trials, problems = 500, 120
    size = trials * problems * (1 + 2 * repeats)
    draws = (KEY / "size" / repeats).uniforms(0, size).reshape(trials, problems, -1)
    easy = draws[..., :1]
    right = (draws[..., 1:] < easy).astype(float)
    rejected = 0
    for data in right:
        a = {f"{i:03}": list(row[:repeats]) for i, row in enumerate(data)}
        b = {f"{i:03}": list(row[repeats:]) for i, row in enumerate(data)}
        rejected += difference(a, b).p <= 0.05
    assert rejected / trials <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / trials)
    assert rejected / trials >= 0.01  # exact tests are careful, not idle


@pytest.mark.parametrize("n", [2, 3, 4])
def test_iid_drafts_in_traces_reject_at_exactly_the_closed_forms(n):
    """One problem for each order of n distinct rewards: the enumeration is the expectation."""
    records = [
        record(i, method="best_of_n", config={"n": n}, drafts=[float(r) for r in order])
        for i, order in enumerate(itertools.permutations(range(n)))
    ]
    process = best_of_n_process(draft_rewards(as_run(records)))
    total = math.factorial(n)
    first, challengers = process.with_first, process.challengers
    assert Fraction(first.rejected, n * total) == first_accepted_baseline(n)
    assert Fraction(challengers.rejected, (n - 1) * total) == challengers_baseline(n)
    assert first.ties == 0


def test_a_report_on_synthetic_traces_finds_the_truth(tmp_path):
    """Every rate of the report against counts made without it."""
    draws = (KEY / "report").uniforms(0, 40 * 3).reshape(40, 3)
    verdicts = [
        [("rejected", "tie", "accepted")[int(3 * u)] for u in row[: i % 4]]
        for i, row in enumerate(draws)
    ]
    records = [
        record(i, candidates=[candidate(v, index=j) for j, v in enumerate(found)])
        for i, found in enumerate(verdicts)
    ]
    write_run(tmp_path / "a", records, [1.0] * 40)
    report = rejection_report(load([tmp_path]))
    (row,) = report.table("runs").rows
    flat = [v for found in verdicts for v in found]
    assert row["candidates"] == len(flat) and row["ties"] == flat.count("tie")
    assert row["rejected"] == len(flat) - flat.count("accepted")
    assert row["rate"] == pytest.approx(row["rejected"] / len(flat))
    assert row["problems"] == sum(bool(found) for found in verdicts)
    firsts = [found[0] for found in verdicts if found]
    assert first_rate(row)["rate"] == pytest.approx(np.mean([v != "accepted" for v in firsts]))
    assert row["twin_rate"] is None and row["baseline_run"] is None

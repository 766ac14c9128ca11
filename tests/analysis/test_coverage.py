"""Synthetic traces with known truth: intervals of differences and ratios cover, tests keep size.

S data sets each; if an interval covered at exactly its nominal rate c, the observed rate would
leave c ± 4 sqrt(c (1 - c) / S) with probability below 1e-4. The draws are keyed. Together with
test_intervals (accuracy, shares) and test_accuracy (paired differences, AUC) no report shows an
interval that was not simulated.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pandas import DataFrame
from run_folders import as_run, candidate, record, write_run

from nabla_eval.analysis import cost, intervals
from nabla_eval.analysis.accuracy import difference, majority_accuracy, pass_at
from nabla_eval.analysis.calibration import reliability
from nabla_eval.analysis.candidates import (
    challengers_baseline,
    first_accepted_baseline,
    gain,
    iid_process,
    in_bins,
    judged,
    rate,
    rejection_difference,
)
from nabla_eval.analysis.cost import acceleration, correct_per_cost, cost_ratio, costs, truncated
from nabla_eval.analysis.intervals import Estimate, mean
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.analysis.study import load
from nabla_eval.randomness import Key
from nabla_eval.reporting.rejection import first_rate, rejection_report

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
        found = rejection_difference(judged(first), judged(second))
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
    drawn = as_run(records).answers
    process = iid_process(zip(drawn["problem"], drawn["draft_rewards"], strict=True))
    total = math.factorial(n)
    first, challengers = rate(process), rate(process[process["nth"] > 1])
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


# --- every other interval that a report shows ---

TRIALS, PROBLEMS, RESAMPLES = 300, 80, 800
TRUTH = {
    "gain of a candidate": 0.2,
    "gain of an answer": 1.5,
    "candidates that gain": 0.6,
    "accepted in a bin": 0.6,
    "truncated": 0.25,
    "mean cost": 10.0,
    "correct per cost": 0.05,
    "certified": 0.5,
    "cached": 0.6,
    "skipped": 0.5,
    "pass@2": 2 / 3,
    "maj@3": 0.5,
    "right in a bin of rewards": 0.5,
}


def synthetic(u: np.ndarray) -> tuple[list[Any], dict[str, list[float]]]:
    """Two answers to each problem, and three graded ones; `u[:, 0]` is the problem's nature."""
    records = []
    graded = {}
    for i, row in enumerate(u):
        nature, rest = row[0], iter(row[1:])
        graded[f"toy/{i}"] = [float(next(rest) < nature) for _ in range(3)]
        for repeat in range(2):
            judged = []
            for k in range(1 + int(3 * next(rest))):
                new = 0.2 + (2 * next(rest) - 1) + 0.5 * (nature - 0.5)
                verdict = "accepted" if new > 0 else "rejected"
                judged.append(candidate(verdict, entropy=next(rest), old=0.0, new=new, index=k))
            line = cast("dict[str, Any]", record(i, repeat, candidates=judged))
            passed = 5 + int(10 * next(rest))
            line["outcome"] |= {
                "reward": 3 * nature, "positions": passed, "visited": passed * next(rest),
                "stop": "length" if next(rest) < nature / 2 else "eos",
            }  # fmt: skip
            line["outcome"]["certified"] = line["outcome"]["visited"] * next(rest)
            line["ledger"] |= {
                "model_calls": 5 + 5 * (nature + next(rest)), "refinements": 1 + 2 * nature,
                "gradient_passes": 20 * (1 + 2 * nature) * 0.8 * next(rest),
            }  # fmt: skip
            records.append(line)
    return records, graded


def test_each_covers_at_its_nominal_rate(monkeypatch: Any) -> None:
    monkeypatch.setattr(intervals.bootstrap, "__defaults__", (intervals._KEY, RESAMPLES, 0.95))
    monkeypatch.setattr(cost, "_RESAMPLES", RESAMPLES)
    draws = Key.root(35).uniforms(0, TRIALS * PROBLEMS * 32).reshape(TRIALS, PROBLEMS, 32)
    hits: Counter[str] = Counter()
    for u in draws:
        records, graded = synthetic(u)
        run = Run.of("r", records, {p: s[:2] for p, s in graded.items()}, 1.0)
        three = [{**line, "id": f"{line['id'][:-1]}{k}"} for line in records[::2] for k in range(3)]
        for line, right in zip(three, (s for group in graded.values() for s in group), strict=True):
            line["outcome"] = {**line["outcome"], "text": "4" if right else "5"}
        answers = [(p, float(k), s > 0) for p, group in graded.items() for k, s in enumerate(group)]
        gains, saved = gain(run), acceleration(run)
        accepted = run.candidates["verdict"] == "accepted"
        bins = in_bins(run.candidates, "entropy", accepted, [0.0, 0.5, 1.0])
        majority = majority_accuracy(Run.of("m", three, graded, 1.0))
        assert majority is not None
        found: dict[str, Estimate] = {
            "gain of a candidate": gains.mean,
            "gain of an answer": gains.final,
            "candidates that gain": gains.positive,
            "accepted in a bin": bins[0].share,
            "truncated": truncated(run),
            "mean cost": costs(run)["model_calls"],
            "correct per cost": correct_per_cost(run),
            "certified": saved.certified,
            "cached": saved.cached,
            "skipped": saved.skipped,
            "pass@2": pass_at(graded, 3, 2),
            "maj@3": majority,
            "right in a bin of rewards": reliability(answers, bins=3)[0].share,
        }
        assert found.keys() == TRUTH.keys()
        for name, estimate in found.items():
            hits[name] += estimate.low <= TRUTH[name] <= estimate.high
    slack = 4 * math.sqrt(0.95 * 0.05 / TRIALS)
    rates = {name: hits[name] / TRIALS for name in TRUTH}
    assert all(abs(rate - 0.95) <= slack for rate in rates.values()), rates


# --- the difference at equal cost, with costs that are estimates too ---

EQUAL = Key.root(33)
PAIRS, SHARED = 400, 150
# Accuracy of a problem of easiness e, and mean cost, of the rival's runs and of ours.
CHEAP, DEAR, OURS = (0.2, 20.0), (0.8, 40.0), (0.55, 30.0)
RIVAL = (CHEAP[0] + DEAR[0]) / 2  # at 30 calls: halfway


class FakeRun:
    """Scores and costs; all that `at_equal_cost` reads of a run."""

    def __init__(self, scores: np.ndarray, costs: np.ndarray) -> None:
        self.scores = {f"t/{i}": list(row) for i, row in enumerate(scores)}
        names = [f"t/{i}" for i, row in enumerate(costs) for _ in row]
        self.answers = DataFrame({"problem": names, "model_calls": np.concatenate(costs)})


def drawn(key: Key, repeats: int, ours: float = OURS[0]) -> list[Run]:
    """Three runs of the same problems: hard ones fail more often and cost more, in all of them."""
    size = SHARED * (1 + 6 * repeats)
    draws = key.uniforms(0, size).reshape(SHARED, 1 + 6 * repeats)
    hard, rest = draws[:, :1], draws[:, 1:].reshape(SHARED, 6, repeats)
    runs = []
    for k, (right, price) in enumerate((CHEAP, DEAR, (ours, OURS[1]))):
        chance = right + 0.3 * (0.5 - hard)
        spent = price * (0.3 + 0.4 * hard - 0.5 * np.log(rest[:, 2 * k + 1]))  # on average `price`
        runs.append(FakeRun((rest[:, 2 * k] < chance).astype(float), spent))
    return cast("list[Run]", runs)


@pytest.mark.parametrize("repeats", [1, 4])
def test_it_covers_the_difference_at_the_true_mean_cost(repeats: int) -> None:
    """The control, which takes the measured costs as known, covers less often."""
    truth, hits, naive = OURS[0] - RIVAL, 0, 0
    for trial in range(PAIRS):
        cheap, dear, ours = drawn(EQUAL / repeats / trial, repeats)
        found = at_equal_cost(ours, [cheap, dear])
        assert found is not None
        low, high = found.difference.estimate.interval
        hits += low <= truth <= high
        w = found.weight
        mixed = {
            p: (1 - w) * np.mean(cheap.scores[p]) + w * np.mean(dear.scores[p]) for p in ours.scores
        }
        known = mean([float(np.mean(ours.scores[p])) - mixed[p] for p in ours.scores])
        assert known.value == pytest.approx(found.difference.estimate.value, abs=1e-12)
        naive += known.low <= truth <= known.high
    assert abs(hits / PAIRS - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / PAIRS), hits
    assert naive < hits - 4 * math.sqrt(0.95 * 0.05 * PAIRS), naive


def test_its_test_keeps_its_size_and_has_power() -> None:
    def rejected(right: float) -> float:
        p_values: list[Any] = []
        for trial in range(PAIRS // 2):
            cheap, dear, ours = drawn(EQUAL / "size" / trial, 1, right)
            found = at_equal_cost(ours, [cheap, dear])
            p_values.append(found.difference.p if found else 1.0)
        return float(np.mean(np.array(p_values) <= 0.05))

    slack = 4 * math.sqrt(0.05 * 0.95 / (PAIRS // 2))
    assert 0.01 <= rejected(RIVAL) <= 0.05 + slack
    assert rejected(RIVAL + 0.25) > 0.8


@pytest.mark.parametrize("gain", [0.0, 0.125])
def test_what_costs_explain_is_taken_out_of_the_spread_at_equal_cost(gain: float) -> None:
    """Accuracy follows cost: less the slope times the cost, problems do not differ.

    Taken with the other sign, the correction would double what the costs explain.
    """
    draws = (Key.root(52) / "costs").uniforms(0, 60).reshape(3, 20)
    costs = (draws * [[10], [40], [25]] + [[5], [20], [12]])[..., None]
    runs = [FakeRun(0.1 + 0.01 * own, own) for own in costs[:2]]
    ours = FakeRun(0.1 + 0.01 * costs[2] + gain, costs[2])
    cheap, dear, ours = cast("list[Run]", [*runs, ours])
    found = cast("Any", at_equal_cost(ours, [cheap, dear]))
    assert found.difference.estimate.value == pytest.approx(gain, abs=1e-9)
    assert found.difference.estimate.se == pytest.approx(0, abs=1e-9)

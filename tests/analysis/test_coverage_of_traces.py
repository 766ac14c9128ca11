"""Every other interval that a report shows covers on synthetic traces whose truth is known.

S data sets for all of them; an interval that covers at exactly 95 % leaves 0.95 ± 4 se with
probability below 1e-4. The draws are keyed. Together with test_intervals (accuracy, shares),
test_accuracy_cost_runs (paired differences), test_coverage (rejection, ratios of costs),
test_answers (AUC) and test_scaling_coverage (equal cost) nothing is shown that was not simulated.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, cast

import numpy as np
from run_folders import candidate, record

from nabla_eval.analysis import cost, intervals
from nabla_eval.analysis.accuracy import pass_at
from nabla_eval.analysis.answers import majority_accuracy
from nabla_eval.analysis.calibration import reliability
from nabla_eval.analysis.candidates import acceptance, gain
from nabla_eval.analysis.cost import acceleration, correct_per_cost, costs, truncated
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.randomness import Key

KEY = Key.root(35)
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
    draws = KEY.uniforms(0, TRIALS * PROBLEMS * 32).reshape(TRIALS, PROBLEMS, 32)
    hits: Counter[str] = Counter()
    for u in draws:
        records, graded = synthetic(u)
        run = Run.of("r", records, {p: s[:2] for p, s in graded.items()}, 1.0)
        three = [{**line, "id": f"{line['id'][:-1]}{k}"} for line in records[::2] for k in range(3)]
        for line, right in zip(three, (s for group in graded.values() for s in group), strict=True):
            line["outcome"] = {**line["outcome"], "text": "4" if right else "5"}
        answers = [(p, float(k), s > 0) for p, group in graded.items() for k, s in enumerate(group)]
        gains, saved = gain(run), acceleration(run)
        bins = acceptance(run.candidates, "entropy", [0.0, 0.5, 1.0])
        majority = majority_accuracy(Run.of("m", three, graded, 1.0))
        assert majority is not None
        found: dict[str, Estimate] = {
            "gain of a candidate": gains.mean,
            "gain of an answer": gains.final,
            "candidates that gain": gains.positive,
            "accepted in a bin": bins[0].acceptance,
            "truncated": truncated(run),
            "mean cost": costs(run)["model_calls"],
            "correct per cost": correct_per_cost(run),
            "certified": saved.certified,
            "cached": saved.cached,
            "skipped": saved.skipped,
            "pass@2": pass_at(graded, 3, 2),
            "maj@3": majority,
            "right in a bin of rewards": reliability(answers, bins=3)[0].right,
        }
        assert found.keys() == TRUTH.keys()
        for name, estimate in found.items():
            hits[name] += estimate.low <= TRUTH[name] <= estimate.high
    slack = 4 * math.sqrt(0.95 * 0.05 / TRIALS)
    rates = {name: hits[name] / TRIALS for name in TRUTH}
    assert all(abs(rate - 0.95) <= slack for rate in rates.values()), rates

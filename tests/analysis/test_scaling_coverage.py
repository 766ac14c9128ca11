"""The difference at equal cost: it covers and keeps its size, with costs that are estimates too.

S data sets each; at nominal rates an observed one leaves c ± 4 sqrt(c (1 - c) / S) with probability
below 1e-4. The draws are keyed.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import pytest
from pandas import DataFrame

from nabla_eval.analysis.intervals import mean
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.randomness import Key

KEY = Key.root(33)
TRIALS, PROBLEMS = 400, 150
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
    size = PROBLEMS * (1 + 6 * repeats)
    draws = key.uniforms(0, size).reshape(PROBLEMS, 1 + 6 * repeats)
    hard, rest = draws[:, :1], draws[:, 1:].reshape(PROBLEMS, 6, repeats)
    runs = []
    for k, (right, cost) in enumerate((CHEAP, DEAR, (ours, OURS[1]))):
        chance = right + 0.3 * (0.5 - hard)
        spent = cost * (0.3 + 0.4 * hard - 0.5 * np.log(rest[:, 2 * k + 1]))  # on average `cost`
        runs.append(FakeRun((rest[:, 2 * k] < chance).astype(float), spent))
    return cast("list[Run]", runs)


@pytest.mark.parametrize("repeats", [1, 4])
def test_it_covers_the_difference_at_the_true_mean_cost(repeats: int) -> None:
    """The control, which takes the measured costs as known, covers less often."""
    truth, hits, naive = OURS[0] - RIVAL, 0, 0
    for trial in range(TRIALS):
        cheap, dear, ours = drawn(KEY / repeats / trial, repeats)
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
    assert abs(hits / TRIALS - 0.95) <= 4 * math.sqrt(0.95 * 0.05 / TRIALS), hits
    assert naive < hits - 4 * math.sqrt(0.95 * 0.05 * TRIALS), naive


def test_its_test_keeps_its_size_and_has_power() -> None:
    def rejected(right: float) -> float:
        p_values: list[Any] = []
        for trial in range(TRIALS // 2):
            cheap, dear, ours = drawn(KEY / "size" / trial, 1, right)
            found = at_equal_cost(ours, [cheap, dear])
            p_values.append(found.difference.p if found else 1.0)
        return float(np.mean(np.array(p_values) <= 0.05))

    slack = 4 * math.sqrt(0.05 * 0.95 / (TRIALS // 2))
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

"""Accuracy against cost (Fig. 4): curves over N, the Pareto front, rivals at equal cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from nabla_eval.analysis.accuracy import Difference, accuracy
from nabla_eval.analysis.cost import mean_costs
from nabla_eval.analysis.frames import means
from nabla_eval.analysis.intervals import (
    Estimate,
    mean,
    runs_worth,
    same_problems,
    skewed_mean,
    won_minus_lost,
)
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.significance import sign_flip_test

_ROUNDING = 1e-12  # relative, of mean costs that are equal


@dataclass(frozen=True)
class Point:
    """One run as a point: what it costs per problem and how often it is right."""

    run: Run
    curve: str
    cost: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class AtEqualCost:
    """A run against the best that a rival family does at no more than the run's mean cost.

    The rival is one of its runs, or the mixture of two: the dearer one on a share `weight` of the
    problems, drawn at random. `difference` has neither wins nor losses: a mixture does not win a
    problem.
    """

    cheaper: Run
    dearer: Run
    weight: float
    difference: Difference


def curve_name(run: Run) -> str:
    """The run's name without its n: runs that differ in n only share it."""
    return " ".join(part for part in run.name.split(" ") if part != f"n={run.n}")


def points(runs: Iterable[Run], cost: str = "model_calls") -> list[Point]:
    """Runs as points, by task, curve and n."""
    found = []
    for run in runs:
        spent = skewed_mean(mean_costs(run, cost))
        found.append(Point(run, curve_name(run), spent, accuracy(run.scores)))
    return sorted(found, key=lambda point: (point.run.task, point.curve, point.run.n or 0))


def pareto(found: Sequence[Point]) -> list[bool]:
    """Return whether each point is on the front of its task: none is at least as right for no more.

    A statement about the estimates; neighbours on the front may not be told apart.
    """
    return [not any(_dominates(other, point) for other in found) for point in found]


def _dominates(a: Point, b: Point) -> bool:
    if a.run.task != b.run.task:
        return False
    no_worse = a.cost.value <= b.cost.value and a.accuracy.value >= b.accuracy.value
    better = a.cost.value < b.cost.value or a.accuracy.value > b.accuracy.value
    return no_worse and better


def at_equal_cost(
    ours: Run, rivals: Iterable[Run], cost: str = "model_calls"
) -> AtEqualCost | None:
    """`ours` minus the upper envelope of a rival family at our mean cost, paired by problem.

    The envelope at a cost is the best of all mixtures of the rival's runs that cost no more; where
    the rival falls with more compute it stays flat. None where our cost lies below the rival's
    cheapest run or above its dearest: nothing is extrapolated.

    Mean costs are estimates too: interval and p value are those of the accuracy differences less
    the envelope's slope (accuracy per cost) times the cost differences, problem by problem. Their
    spread holds what the costs are uncertain by (the delta method). The best of several rivals on
    the same data looks a little better than it is, which counts against us: simulated, the
    interval covers .93 to .97 and the test errs in at most 6 % (`reports/coverage.md`).
    """
    problems = sorted(ours.scores)

    def array(values: Mapping[str, float]) -> np.ndarray:
        same_problems(ours.scores, values)
        return np.array([values[problem] for problem in problems], dtype=float)

    ladder = [(array(mean_costs(r, cost).to_dict()), array(means(r.scores)), r) for r in rivals]
    ladder.sort(key=lambda step: float(step[0].mean()))
    if not ladder:
        return None
    costs, scores = (np.array([step[i] for step in ladder]) for i in (0, 1))
    own_cost, own_score = array(mean_costs(ours, cost).to_dict()), array(means(ours.scores))
    target = float(own_cost.mean())
    if not (1 - _ROUNDING) * costs[0].mean() <= target <= (1 + _ROUNDING) * costs[-1].mean():
        return None
    low, high, weight = best = _best(costs, scores, target)
    gaps = own_score - _mixed(best, costs, scores, own_cost)
    if (np.abs(gaps) <= 1).all():
        estimate = won_minus_lost(gaps, len(gaps), runs_worth([*map(len, ours.scores.values())]))
    else:  # costs push a gap beyond what a difference of shares is
        estimate = mean(gaps)
    found = Difference(estimate, None, None, sign_flip_test(list(gaps)))
    return AtEqualCost(ladder[low][2], ladder[high][2], weight, found)


def _best(costs: np.ndarray, scores: np.ndarray, budget: float) -> tuple[int, int, float]:
    """Return the best mixture for at most `budget` a problem: two runs, share of the dearer.

    Shapes `[runs, problems]`, runs by rising cost. A single run is mixed with itself, share 1; of
    equally good ones the cheapest is taken.
    """
    price, right = costs.mean(axis=1), scores.mean(axis=1)
    room, slack = price - budget, _ROUNDING * budget
    found = [(float(right[i]), -i, i, 1.0) for i in np.flatnonzero(room <= slack)]
    for low, high in product(np.flatnonzero(room < -slack), np.flatnonzero(room > slack)):
        weight = float((budget - price[low]) / (price[high] - price[low]))
        value = (1 - weight) * right[low] + weight * right[high]
        found.append((float(value), -high, low, weight))
    _, high, low, weight = max(found)
    return int(low), -int(high), weight


def _mixed(
    chosen: tuple[int, int, float], costs: np.ndarray, scores: np.ndarray, spent: np.ndarray
) -> np.ndarray:
    """Return what the mixture scores on each problem for what we spent there; `[problems]`."""
    low, high, weight = chosen
    room = float(costs[high].mean() - costs[low].mean())
    if room <= 0:  # one run, which may cost less than ours and is as right for it
        return scores[high]
    slope = float(scores[high].mean() - scores[low].mean()) / room
    mixed = (1 - weight) * scores[low] + weight * scores[high]
    price = (1 - weight) * costs[low] + weight * costs[high]
    found: np.ndarray = mixed + slope * (spent - price)
    return found

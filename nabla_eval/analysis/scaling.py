"""Accuracy against cost (Fig. 4): curves over N, the Pareto front, rivals at equal cost."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nabla_eval.analysis.accuracy import Difference, accuracy, difference
from nabla_eval.analysis.cost import by_problem
from nabla_eval.analysis.intervals import LEVEL, Estimate, clustered_mean
from nabla_eval.analysis.runs import Run


@dataclass(frozen=True)
class Point:
    """One run as a point: what it costs per problem and how often it is right."""

    run: Run
    curve: str
    cost: Estimate
    accuracy: Estimate


@dataclass(frozen=True)
class AtEqualCost:
    """A run against a rival that was given the same mean cost.

    The rival is the mixture of two of its runs with neighbouring costs that spends as much on
    average: the dearer one on a share `weight` of the problems, drawn at random.
    `difference` counts a win where we are above what the rival scores for our calls.
    """

    cheaper: Run
    dearer: Run
    weight: float
    difference: Difference


def curve_name(run: Run) -> str:
    """The run's name without its n: runs that differ in n only share it."""
    return " ".join(part for part in run.name.split(" ") if part != f"n={run.n}")


def points(runs: Iterable[Run], cost: str = "model_calls", level: float = LEVEL) -> list[Point]:
    """Runs as points, by task, curve and n."""
    found = [
        Point(
            run,
            curve_name(run),
            clustered_mean(by_problem(run.records, cost), level),
            accuracy(run.scores, level),
        )
        for run in runs
    ]
    return sorted(found, key=lambda point: (point.run.task, point.curve, point.run.n or 0))


def pareto(found: Sequence[Point]) -> list[bool]:
    """Whether each point is on the front of its task: none is at least as right for no more.

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
    ours: Run, rivals: Iterable[Run], cost: str = "model_calls", level: float = LEVEL
) -> AtEqualCost | None:
    """`ours` minus a rival family at the same mean cost, paired by problem.

    None where no two of the rivals enclose our cost: nothing is extrapolated. The mean costs are
    estimates too: interval and p value are those of the accuracy differences less the rival's
    slope (accuracy per cost) times the cost differences, problem by problem. Their mean is the
    same, because mean costs are equal; their spread holds what the costs are uncertain by (the
    delta method).
    """
    spent = _means(by_problem(ours.records, cost))
    prices = [(_means(by_problem(rival.records, cost)), rival) for rival in rivals]
    ladder = sorted((_mean(price), i, price, rival) for i, (price, rival) in enumerate(prices))
    target = _mean(spent)
    place = bisect_left([step[0] for step in ladder], target)
    if place == len(ladder) or (place == 0 and ladder[0][0] != target):
        return None
    high, _, high_costs, dearer = ladder[place]
    low, _, low_costs, cheaper = ladder[max(place - 1, 0)]
    weight = 1.0 if high == low else (target - low) / (high - low)
    bottom, top, right = (_means(run.scores) for run in (cheaper, dearer, ours))
    slope = 0.0 if high == low else (_mean(top) - _mean(bottom)) / (high - low)
    scores, spent_there = _mixture(bottom, top, weight), _mixture(low_costs, high_costs, weight)
    rival = {p: scores[p] + slope * (spent[p] - spent_there[p]) for p in scores}
    found = difference(_single(right), _single(rival), level)
    return AtEqualCost(cheaper, dearer, weight, found)


def _means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {problem: sum(group) / len(group) for problem, group in groups.items()}


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _single(values: Mapping[str, float]) -> dict[str, list[float]]:
    return {problem: [value] for problem, value in values.items()}


def _mixture(a: Mapping[str, float], b: Mapping[str, float], weight: float) -> dict[str, float]:
    return {problem: (1 - weight) * a[problem] + weight * b[problem] for problem in a}


def curves(found: Iterable[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points by (task, curve)."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in found:
        groups[point.run.task, point.curve].append(point)
    return dict(groups)

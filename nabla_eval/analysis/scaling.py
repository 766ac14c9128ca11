"""Accuracy against cost (Fig. 4): curves over N, the Pareto front, rivals at equal cost."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nabla_eval.analysis.accuracy import Difference, Scores, accuracy, difference
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

    None where no two of the rivals enclose our cost: nothing is extrapolated. The costs themselves
    are taken as known.
    """
    ladder = sorted(((_mean(rival, cost), i, rival) for i, rival in enumerate(rivals)))
    target = _mean(ours, cost)
    place = bisect_left([price for price, _, _ in ladder], target)
    if place == len(ladder) or (place == 0 and ladder[0][0] != target):
        return None
    high, _, dearer = ladder[place]
    low, _, cheaper = ladder[max(place - 1, 0)]
    weight = 1.0 if high == low else (target - low) / (high - low)
    mixed = _mixture(cheaper.scores, dearer.scores, weight)
    return AtEqualCost(cheaper, dearer, weight, difference(ours.scores, mixed, level))


def _mean(run: Run, cost: str) -> float:
    return clustered_mean(by_problem(run.records, cost)).value


def _mixture(a: Scores, b: Scores, weight: float) -> dict[str, list[float]]:
    return {
        problem: [(1 - weight) * sum(a[problem]) / len(a[problem])
                  + weight * sum(b[problem]) / len(b[problem])]
        for problem in a
    }  # fmt: skip


def curves(found: Iterable[Point]) -> dict[tuple[str, str], list[Point]]:
    """Points by (task, curve)."""
    groups: dict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in found:
        groups[point.run.task, point.curve].append(point)
    return dict(groups)

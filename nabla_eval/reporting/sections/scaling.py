"""`report scaling`: accuracy against cost over N, the front, rivals at equal calls (Fig. 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import Point, at_equal_cost, curves, pareto, points
from nabla_eval.analysis.significance import holm
from nabla_eval.analysis.twins import alike
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.sections.columns import HOLM, count, task_column
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import number, p_value, percent, percent_range, points_range
from nabla_eval.reporting.text import points as in_points

Range = tuple[float, float]


@dataclass(frozen=True)
class PointRow:
    """One run as a point of its curve."""

    run: str
    task: str
    curve: str  # runs that differ in n only
    n: int | None
    model_calls: float
    model_calls_ci95: Range
    accuracy: float
    ci95: Range
    pareto: bool  # no other run of the task is at least as right for no more calls


@dataclass(frozen=True)
class EqualCostRow:
    """A run minus the best that a rival curve does for the run's own mean number of model calls."""

    run: str
    task: str
    model_calls: float
    rival: str
    cheaper: str
    dearer: str
    weight: float  # share of problems that the dearer one answers
    difference: float
    ci95: Range
    p: float
    p_holm: float


def scaling_report(runs: Sequence[Run]) -> Report:
    """Points, and differences at equal calls."""
    found = points(runs)
    rows = _points(found)
    equal = equal_cost_rows(found)
    tables: list[Table[Any]] = [point_table(rows), equal_cost_table(equal)]
    return Report("scaling", "Accuracy against cost", tables, [_worded(row) for row in equal])


def _points(found: Sequence[Point]) -> list[PointRow]:
    return [
        PointRow(
            run=point.run.name,
            task=point.run.task,
            curve=point.curve,
            n=point.run.n,
            model_calls=point.cost.value,
            model_calls_ci95=point.cost.interval,
            accuracy=point.accuracy.value,
            ci95=point.accuracy.interval,
            pareto=front,
        )
        for point, front in zip(found, pareto(found), strict=True)
    ]


def equal_cost_rows(found: Sequence[Point]) -> list[EqualCostRow]:
    """Every run of a searching method against the curves of its twins and of the baselines."""
    ladders = {key: [p.run for p in ladder] for key, ladder in curves(found).items()}
    rows = []
    for point in found:
        if point.run.method in ("best_of_n", "self_consistency", "greedy"):
            continue
        for (task, curve), rivals in ladders.items():
            rival = rivals[0]
            other = rival.method != point.run.method or (rival.is_twin and not point.run.is_twin)
            if task != point.run.task or not other or not alike(rival, point.run):
                continue
            row = _equal_cost_row(point, curve, rivals)
            rows += [] if row is None else [row]
    adjusted = holm([row.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]


def _equal_cost_row(point: Point, curve: str, rivals: Sequence[Run]) -> EqualCostRow | None:
    found = at_equal_cost(point.run, rivals)
    if found is None:
        return None
    return EqualCostRow(
        run=point.run.name,
        task=point.run.task,
        model_calls=point.cost.value,
        rival=curve,
        cheaper=found.cheaper.name,
        dearer=found.dearer.name,
        weight=found.weight,
        difference=found.difference.estimate.value,
        ci95=found.difference.estimate.interval,
        p=found.difference.p,
        p_holm=found.difference.p,
    )


def _worded(row: EqualCostRow) -> str:
    apart = (row.ci95[0] > 0 or row.ci95[1] < 0) and row.p_holm <= 0.05
    verb = "cannot be told apart from" if not apart else "is "
    if apart:
        side = "above" if row.difference > 0 else "below"
        verb = f"is {in_points(abs(row.difference)).lstrip('+')} points {side}"
    detail = f"{in_points(row.difference)} points, 95 % interval {points_range(row.ci95)}"
    calls = number(row.model_calls)
    return f"At {calls} calls a problem, {row.run} {verb} {row.rival} ({detail})."


def point_table(rows: Sequence[PointRow]) -> Table[PointRow]:
    """The points, curve by curve."""
    columns = [
        *task_column(rows),
        Column[PointRow]("Curve", lambda row: row.curve, "left"),
        Column[PointRow]("N", lambda row: count(row.n)),
        Column[PointRow]("Calls", lambda row: number(row.model_calls)),
        Column[PointRow]("Accuracy", lambda row: percent(row.accuracy)),
        Column[PointRow]("95 % CI", lambda row: percent_range(row.ci95)),
        Column[PointRow]("Front", lambda row: "yes" if row.pareto else "", "left"),
    ]
    notes = [
        "Front: no other run of the task is at least as right for no more calls, as estimated."
    ]
    return Table("points", "Accuracy and model calls over N", columns, rows, notes)


def equal_cost_table(rows: Sequence[EqualCostRow]) -> Table[EqualCostRow]:
    """Differences at equal calls."""
    columns = [
        *task_column(rows),
        Column[EqualCostRow]("Run", lambda row: row.run, "left"),
        Column[EqualCostRow]("Calls", lambda row: number(row.model_calls)),
        Column[EqualCostRow]("minus", lambda row: row.rival, "left"),
        Column[EqualCostRow]("Points", lambda row: in_points(row.difference)),
        Column[EqualCostRow]("95 % CI", lambda row: points_range(row.ci95)),
        Column[EqualCostRow]("p", lambda row: p_value(row.p_holm)),
    ]
    notes = [
        "The rival is the best of all mixtures of its runs that spend at most as many calls on "
        "average; nothing is extrapolated. Intervals and p hold what both mean costs are uncertain "
        "by.",
        HOLM,
    ]
    return Table("equal_cost", "At equal model calls", columns, rows, notes)

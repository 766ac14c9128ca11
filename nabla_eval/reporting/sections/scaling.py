"""`report scaling`: accuracy against cost over N, the front, rivals at equal calls (Fig. 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nabla_eval.analysis.controls import alike, is_baseline
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import Point, at_equal_cost, pareto, points
from nabla_eval.reporting.rows import (
    HOLM,
    decided,
    holm_corrected,
    of_run,
    run_table,
    task_column,
    with_interval,
)
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import count, number, p_value, percent, percent_range, points_range
from nabla_eval.reporting.text import points as in_points


def scaling_report(runs: Sequence[Run]) -> Report:
    """Report runs as points of curves over N, and differences at equal calls."""
    found = points(runs)
    rows = [
        {
            **of_run(point.run),
            "curve": point.curve,  # runs that differ in n only
            "n": point.run.n,
            **with_interval("model_calls", point.cost),
            "accuracy": point.accuracy.value,
            "ci95": point.accuracy.interval,
            "pareto": front,  # no other run of the task is at least as right for no more calls
        }
        for point, front in zip(found, pareto(found), strict=True)
    ]
    equal = equal_cost_rows(found)
    tables = [point_table(rows), equal_cost_table(equal)]
    return Report("scaling", "Accuracy against cost", tables, [_worded(row) for row in equal])


def equal_cost_rows(found: Sequence[Point]) -> list[Row]:
    """Return every run of a searching method against the curves of its twins and the baselines.

    The difference is the run minus the best that the rival curve does for the run's own mean number
    of model calls; `weight` is the share of problems that the rival's dearer run answers.
    """
    curves: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for point in found:
        curves[point.run.task, point.curve].append(point.run)
    rows = []
    for point in found:
        run = point.run
        if is_baseline(run):
            continue
        for (_, curve), rivals in curves.items():
            other = rivals[0].method != run.method or (rivals[0].is_twin and not run.is_twin)
            if not other or not alike(rivals[0], run):
                continue
            equal = at_equal_cost(run, rivals)
            if equal is None:
                continue
            rows.append(
                {
                    **of_run(run),
                    "model_calls": point.cost.value,
                    "rival": curve,
                    "cheaper": equal.cheaper.name,
                    "dearer": equal.dearer.name,
                    "weight": equal.weight,
                    "difference": equal.difference.estimate.value,
                    "ci95": equal.difference.estimate.interval,
                    "p": equal.difference.p,
                    "p_holm": None,
                }
            )
    return holm_corrected(rows)


def _worded(row: Row) -> str:
    verb, found = "cannot be told apart from", row["difference"]
    if decided(row):
        side = "above" if found > 0 else "below"
        verb = f"is {in_points(abs(found)).lstrip('+')} points {side}"
    detail = f"{in_points(found)} points, 95 % interval {points_range(row['ci95'])}"
    calls = number(row["model_calls"])
    return f"At {calls} calls a problem, {row['run']} {verb} {row['rival']} ({detail})."


def point_table(rows: Sequence[Row]) -> Table:
    """Tabulate the points, curve by curve."""
    columns = [
        *task_column(rows),
        text("Curve", "curve"),
        Column("N", "n", count),
        Column("Calls", "model_calls"),
        Column("Accuracy", "accuracy", percent),
        Column("95 % CI", "ci95", percent_range),
        text("Front", lambda row: "yes" if row["pareto"] else ""),
    ]
    notes = [
        "Front: no other run of the task is at least as right for no more calls, as estimated."
    ]
    return Table("points", "Accuracy and model calls over N", columns, rows, notes)


def equal_cost_table(rows: Sequence[Row]) -> Table:
    """Tabulate differences at equal calls."""
    columns = [
        Column("Calls", "model_calls"),
        text("minus", "rival"),
        Column("Points", "difference", in_points),
        Column("95 % CI", "ci95", points_range),
        Column("p", "p_holm", p_value),
    ]
    notes = [
        "The rival is the best of all mixtures of its runs that spend at most as many calls on "
        "average; nothing is extrapolated. Intervals and p hold what both mean costs are uncertain "
        "by.",
        HOLM,
    ]
    return run_table("equal_cost", "At equal model calls", rows, columns, notes)

"""Columns that several tables have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.twins import controls_of
from nabla_eval.reporting.rows import DifferenceRow, holm_corrected
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import MISSING, p_value, points, points_range

HOLM = (
    "Paired by problem. Interval: Wilson's of the share won and of the share lost, joined. p: "
    "exact sign-flip test (McNemar's where every problem has one right-or-wrong answer), corrected "
    "by Holm for all tests of this table. Runs are told apart only where both say so; with few "
    "problems they can disagree, and then the p value is the one that keeps its error rate."
)


def task_column(rows: Iterable[Any]) -> list[Column[Any]]:
    """The task, where there are several."""
    several = len({row.task for row in rows if row.task}) > 1
    return [Column[Any]("Task", lambda row: row.task or MISSING, "left")] if several else []


def count(value: int | None) -> str:
    """A whole number with commas."""
    return MISSING if value is None else f"{value:,}"


def against_controls(runs: Sequence[Run]) -> Table[DifferenceRow]:
    """Every run that claims something, in accuracy against each of its controls."""
    rows = holm_corrected(
        [
            DifferenceRow.accuracy(run, control, role)
            for run in runs
            for role, control in controls_of(run, runs)
        ]
    )
    return difference_table("differences", "Accuracy against the controls", rows)


def difference_table(
    name: str, title: str, rows: Sequence[DifferenceRow], notes: Sequence[str] = (HOLM,)
) -> Table[DifferenceRow]:
    """Differences a - b; the column of measures only where there are several."""
    measures = {row.measure for row in rows}
    columns = [
        *task_column(rows),
        Column[DifferenceRow]("Run", lambda row: row.a, "left"),
        Column[DifferenceRow]("minus", lambda row: row.b, "left"),
    ]
    if len(measures) > 1:
        columns.append(Column[DifferenceRow]("in", lambda row: row.measure, "left"))
    columns += [
        Column[DifferenceRow]("Points", lambda row: points(row.difference)),
        Column[DifferenceRow]("95 % CI", lambda row: points_range(row.ci95)),
        Column[DifferenceRow](
            "Won : lost", lambda row: MISSING if row.wins is None else f"{row.wins} : {row.losses}"
        ),
        Column[DifferenceRow]("p", lambda row: p_value(row.p_holm)),
    ]
    return Table(name, title, columns, rows, notes)

"""`report compare A B`: two runs on the same problems, in accuracy, calls and rejection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nabla_eval.analysis.cost import cost_ratio
from nabla_eval.analysis.runs import Run
from nabla_eval.errors import DataError
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.rows import DifferenceRow, holm_corrected
from nabla_eval.reporting.sections.columns import difference_table, task_column
from nabla_eval.reporting.sections.cost import SavingRow, saving_table
from nabla_eval.reporting.summary import verdict
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import number
from nabla_eval.traces.schema import document


@dataclass(frozen=True)
class ApartRow:
    """A problem on which one of two runs scored higher."""

    problem: str
    task: str
    prompt: str
    score_a: float
    score_b: float
    answer_a: str  # the first of each
    answer_b: str


def compare_report(a: Sequence[Run], b: Sequence[Run], show: int = 10) -> Report:
    """a minus b for each task that both have. Raises `DataError` where they share none.

    Each side must hold one run per task.
    """
    pairs = [(x, y) for x in a for y in b if x.task == y.task]
    for side, runs in (("The first", a), ("The second", b)):
        tasks = [run.task for run in runs]
        if len(set(tasks)) < len(tasks):
            names = ", ".join(run.name for run in runs[:5])
            raise DataError(
                f"{side} folder holds several runs of a task ({names}). Give the folder of one."
            )
    if not pairs:
        raise DataError("The two have no task in common. Give runs of the same task.")
    pairs = [_told_apart(x, y) for x, y in pairs]
    rows = holm_corrected([DifferenceRow.accuracy(x, y) for x, y in pairs])
    for x, y in pairs:
        if all(any(r["candidates"] for r in run.records) for run in (x, y)):
            rows += DifferenceRow.rejection(x, y)
    savings = [_saving(x, y) for x, y in pairs]
    apart = [row for x, y in pairs for row in _apart(x, y)[:show]]
    tables: list[Table[Any]] = [
        difference_table("differences", "Differences", rows),
        saving_table(savings),
        apart_table(apart, *pairs[0]),
    ]
    return Report("compare", f"{pairs[0][0].name} against {pairs[0][1].name}", tables,
                  [verdict(row) for row in rows])  # fmt: skip


def _told_apart(a: Run, b: Run) -> tuple[Run, Run]:
    """The two runs under different names: their folders', where one configuration ran twice."""
    if a.name != b.name:
        return a, b
    places = [str(run.folders[0]) if run.folders else "" for run in (a, b)]
    return replace(a, name=f"{a.name} ({places[0]})"), replace(b, name=f"{b.name} ({places[1]})")


def _saving(a: Run, b: Run) -> SavingRow:
    found = cost_ratio(a.records, b.records)
    return SavingRow(a.name, a.task, "compare", b.name, found.value, found.interval)


def _apart(a: Run, b: Run) -> list[ApartRow]:
    first_a = {document(record["id"]): record for record in reversed(a.records)}
    first_b = {document(record["id"]): record for record in reversed(b.records)}
    rows = []
    for problem in a.scores:
        ours, theirs = a.scores[problem], b.scores[problem]
        x, y = sum(ours) / len(ours), sum(theirs) / len(theirs)
        if x != y:
            record = first_a[problem]
            answers = record["outcome"]["text"], first_b[problem]["outcome"]["text"]
            rows.append(ApartRow(problem, a.task, record["prompt"], x, y, *answers))
    return rows


def apart_table(rows: Sequence[ApartRow], a: Run, b: Run) -> Table[ApartRow]:
    """The first problems on which they differ."""
    columns = [
        *task_column(rows),
        Column[ApartRow]("Problem", lambda row: _short(row.prompt), "left"),
        Column[ApartRow]("A", lambda row: number(row.score_a, 2)),
        Column[ApartRow]("B", lambda row: number(row.score_b, 2)),
        Column[ApartRow]("Answer of A", lambda row: _short(row.answer_a), "left"),
        Column[ApartRow]("Answer of B", lambda row: _short(row.answer_b), "left"),
    ]
    notes = [f"A: {a.name}. B: {b.name}. In the order of the problems; long texts by their ends."]
    return Table("apart", "Problems on which they differ", columns, rows, notes)


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"… {text[-most:]}"

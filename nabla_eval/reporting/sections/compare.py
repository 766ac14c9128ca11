"""`report compare A B`: two runs on the same problems, in accuracy, calls and rejection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nabla_eval.analysis.frames import grouped
from nabla_eval.analysis.runs import Run
from nabla_eval.errors import DataError
from nabla_eval.reporting.rows import (
    accuracy_difference,
    holm_corrected,
    rejection_differences,
    task_column,
    verdict,
)
from nabla_eval.reporting.sections.accuracy import difference_table
from nabla_eval.reporting.sections.cost import saving_row, saving_table
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import number


def compare_report(a: Sequence[Run], b: Sequence[Run], show: int = 10) -> Report:
    """Report a minus b for each task that both have. Raises `DataError` where they share none.

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
    rows = holm_corrected([accuracy_difference(x, y) for x, y in pairs])
    for x, y in pairs:
        if len(x.candidates) and len(y.candidates):
            rows += rejection_differences(x, y)
    savings = [saving_row(x, "compare", y) for x, y in pairs]
    apart = [row for x, y in pairs for row in _apart_rows(x, y)[:show]]
    tables = [
        difference_table("differences", "Differences", rows),
        saving_table(savings),
        apart_table(apart, *pairs[0]),
    ]
    return Report("compare", f"{pairs[0][0].name} against {pairs[0][1].name}", tables,
                  [verdict(row) for row in rows])  # fmt: skip


def _told_apart(a: Run, b: Run) -> tuple[Run, Run]:
    """Give the two runs different names: their folders', where one configuration ran twice."""
    if a.name != b.name:
        return a, b
    places = [str(run.folders[0]) if run.folders else "" for run in (a, b)]
    return replace(a, name=f"{a.name} ({places[0]})"), replace(b, name=f"{b.name} ({places[1]})")


def _apart_rows(a: Run, b: Run) -> list[Row]:
    """Return the problems on which one of two runs scored higher, with the first answer of each."""
    ours, theirs = (grouped(run.answers, "prompt", "text") for run in (a, b))
    rows = []
    for problem in a.scores:
        x, y = (sum(s) / len(s) for s in (a.scores[problem], b.scores[problem]))
        if x != y:
            (prompt, answer_a), (_, answer_b) = ours[problem][0], theirs[problem][0]
            rows.append(
                {
                    "problem": problem,
                    "task": a.task,
                    "prompt": prompt,
                    "score_a": x,
                    "score_b": y,
                    "answer_a": answer_a,
                    "answer_b": answer_b,
                }
            )
    return rows


def apart_table(rows: Sequence[Row], a: Run, b: Run) -> Table:
    """Tabulate the first problems on which they differ."""

    def end(words: str, most: int = 60) -> str:
        return words if len(words) <= most else f"… {words[-most:]}"

    columns = [
        *task_column(rows),
        text("Problem", lambda row: end(row["prompt"])),
        Column("A", "score_a", number, 2),
        Column("B", "score_b", number, 2),
        text("Answer of A", lambda row: end(row["answer_a"])),
        text("Answer of B", lambda row: end(row["answer_b"])),
    ]
    notes = [f"A: {a.name}. B: {b.name}. In the order of the problems; long texts by their ends."]
    return Table("apart", "Problems on which they differ", columns, rows, notes)

"""`report accuracy`: how often each run is right, against its controls, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.shares import FAILURES, failures
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.rows import AccuracyRow
from nabla_eval.reporting.sections.columns import against_controls, count, task_column
from nabla_eval.reporting.summary import verdict
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import number, percent, percent_range


@dataclass(frozen=True)
class FailureRow:
    """Shares of answers that failed for a reason of their own; None where nobody measured it."""

    run: str
    task: str
    answers: int
    truncated: float
    truncated_ci95: tuple[float, float]
    no_answer: float | None
    grader_timeout: float | None
    grader_error: float | None

    @classmethod
    def of(cls, run: Run) -> FailureRow:
        """The row of a run."""
        found = failures(run)

        def value(name: str) -> float | None:
            estimate: Estimate | None = found.reported.get(name)
            return None if estimate is None else estimate.value

        return cls(
            run=run.name,
            task=run.task,
            answers=found.answers,
            truncated=found.truncated.value,
            truncated_ci95=found.truncated.interval,
            no_answer=value("no_answer"),
            grader_timeout=value("grader_timeout"),
            grader_error=value("grader_error"),
        )


def accuracy_report(runs: Sequence[Run]) -> Report:
    """Accuracy of every run, differences from the controls, failures."""
    differences = against_controls(runs)
    twins = {run.name for run in runs if run.is_twin}
    sentences = [verdict(row) for row in differences.rows if row.a not in twins]
    tables: list[Table[Any]] = [accuracy_table(runs), differences, failure_table(runs)]
    return Report("accuracy", "Accuracy", tables, sentences)


def accuracy_table(runs: Sequence[Run]) -> Table[AccuracyRow]:
    """avg@k with its interval, and what more can be said with several answers a problem."""
    rows = [AccuracyRow.of(run) for run in runs]
    columns = [
        *task_column(rows),
        Column[AccuracyRow]("Run", lambda row: row.run, "left"),
        Column[AccuracyRow](
            "Accuracy ± se", lambda row: f"{number(100 * row.accuracy)} ± {percent(row.se)}"
        ),
        Column[AccuracyRow]("95 % CI", lambda row: percent_range(row.ci95)),
        Column[AccuracyRow]("Problems", lambda row: _answers(row)),
    ]
    if any(row.majority is not None for row in rows):
        columns.append(Column[AccuracyRow]("maj", lambda row: percent(row.majority)))
    largest = max((int(k) for row in rows for k in row.pass_at), default=0)
    if largest > 1:
        columns.append(_pass_column(largest))
    columns += [
        Column[AccuracyRow]("Calls", lambda row: number(row.model_calls)),
        Column[AccuracyRow]("Right/100", lambda row: number(row.correct_per_100_calls, 2)),
    ]
    notes = [
        "Accuracy is avg@k with the standard error of problem means (where no problem differs, the "
        "interval's). Interval: Wilson's, with the effective sample size. Calls: model calls per "
        "answer. Right/100: right answers per 100 calls. Names say what deviates from most runs of "
        "the same method."
    ]
    return Table("runs", "Accuracy", columns, rows, notes)


def _answers(row: AccuracyRow) -> str:
    return f"{row.problems:,} × {row.repeats}" if row.repeats > 1 else f"{row.problems:,}"


def _pass_column(k: int) -> Column[AccuracyRow]:
    return Column[AccuracyRow](f"pass@{k}", lambda row: percent(row.pass_at.get(str(k))))


def failure_table(runs: Sequence[Run]) -> Table[FailureRow]:
    """Truncation from the traces, the rest as the task reports it."""
    rows = [FailureRow.of(run) for run in runs]
    columns = [
        *task_column(rows),
        Column[FailureRow]("Run", lambda row: row.run, "left"),
        Column[FailureRow]("Answers", lambda row: count(row.answers)),
        Column[FailureRow]("Truncated", lambda row: percent(row.truncated)),
    ]
    columns += [
        _reported(name) for name in FAILURES if any(getattr(row, name) is not None for row in rows)
    ]
    notes = ["Truncated: cut off by the length limit. The rest only where the task reports it."]
    return Table("failures", "Answers that failed", columns, rows, notes)


def _reported(name: str) -> Column[FailureRow]:
    header = name.replace("_", " ").capitalize()
    return Column[FailureRow](header, lambda row: percent(getattr(row, name)))

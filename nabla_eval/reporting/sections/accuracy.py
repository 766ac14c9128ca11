"""`report accuracy`: how often each run is right, against its controls, and what went wrong."""

from __future__ import annotations

from collections.abc import Sequence

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.controls import controls_of
from nabla_eval.analysis.cost import FAILURES, truncated
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.rows import (
    HOLM,
    accuracy_difference,
    accuracy_row,
    holm_corrected,
    of_run,
    run_table,
    task_column,
    verdict,
    with_interval,
    won_lost,
)
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import (
    count,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)


def accuracy_report(runs: Sequence[Run]) -> Report:
    """Report accuracy of every run, differences from the controls, failures."""
    pairs = [(run, role, control) for run in runs for role, control in controls_of(run, runs)]
    rows = holm_corrected([accuracy_difference(a, b, role) for a, role, b in pairs])
    twins = {run.name for run in runs if run.is_twin}
    sentences = [verdict(row) for row in rows if row["a"] not in twins]
    differences = difference_table("differences", "Accuracy against the controls", rows)
    tables = [accuracy_table(runs), differences, failure_table(runs)]
    return Report("accuracy", "Accuracy", tables, sentences)


def accuracy_table(runs: Sequence[Run]) -> Table:
    """Tabulate avg@k, and what more can be said with several answers a problem."""
    rows = [accuracy_row(run) for run in runs]
    columns = [
        Column("Accuracy ± se", _with_error, str),
        Column("95 % CI", "ci95", percent_range),
        Column("Problems", _answers, str),
    ]
    if any(row["majority"] is not None for row in rows):
        columns.append(Column("maj", "majority", percent))
    most = max((int(k) for row in rows for k in row["pass_at"]), default=0)
    if most > 1:
        columns.append(Column(f"pass@{most}", lambda row: row["pass_at"].get(str(most)), percent))
    columns += [
        Column("Calls", "model_calls"),
        Column("Right/100", "correct_per_100_calls", number, 2),
    ]
    notes = [
        "Accuracy is avg@k with the standard error of problem means (where no problem differs, the "
        "interval's). Interval: Wilson's, with the effective sample size. Calls: model calls per "
        "answer. Right/100: right answers per 100 calls. Names say what deviates from most runs of "
        "the same method."
    ]
    return run_table("runs", "Accuracy", rows, columns, notes)


def _with_error(row: Row) -> str:
    return f"{number(100 * row['accuracy'])} ± {percent(row['se'])}"


def _answers(row: Row) -> str:
    several = f" × {row['repeats']}" if row["repeats"] > 1 else ""
    return f"{row['problems']:,}{several}"


def difference_table(
    name: str, title: str, rows: Sequence[Row], notes: Sequence[str] = (HOLM,)
) -> Table:
    """Tabulate differences a - b; the column of measures only where there are several."""
    several = len({row["measure"] for row in rows}) > 1
    columns = [
        *task_column(rows),
        text("Run", "a"),
        text("minus", "b"),
        *([text("in", "measure")] if several else []),
        Column("Points", "difference", points),
        Column("95 % CI", "ci95", points_range),
        Column("Won : lost", won_lost, str),
        Column("p", "p_holm", p_value),
    ]
    return Table(name, title, columns, rows, notes)


def failure_table(runs: Sequence[Run]) -> Table:
    """Tabulate truncation, and the failures that the task reports (None where it does not)."""
    rows: list[Row] = []
    for run in runs:
        reported = {
            name: accuracy(run.metrics[name]).value if name in run.metrics else None
            for name in FAILURES
        }
        cut = with_interval("truncated", truncated(run))
        rows.append({**of_run(run), "answers": len(run.answers), **cut, **reported})
    columns = [
        Column("Answers", "answers", count),
        Column("Truncated", "truncated", percent),
    ]
    for name in FAILURES:
        if any(row[name] is not None for row in rows):
            columns.append(Column(name.replace("_", " ").capitalize(), name, percent))
    notes = ["Truncated: cut off by the length limit. The rest only where the task reports it."]
    return run_table("failures", "Answers that failed", rows, columns, notes)

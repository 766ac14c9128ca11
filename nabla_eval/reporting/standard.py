"""The standard tables: accuracy and cost, rejection with its controls, differences, revisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.rows import (
    AccuracyRow,
    DifferenceRow,
    RejectionRow,
    RevisionRow,
    examples,
)
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import (
    MISSING,
    number,
    percent,
    percent_range,
    points,
    points_range,
)


def accuracy_table(runs: Iterable[Run]) -> Table[AccuracyRow]:
    """Accuracy ± standard error, and what it cost."""
    rows = [AccuracyRow.of(run) for run in runs]
    columns = [
        Column[AccuracyRow]("Run", lambda row: row.run, "left"),
        Column[AccuracyRow](
            "Accuracy ± s.e.", lambda row: f"{number(100 * row.accuracy)} ± {percent(row.se)}"
        ),
        Column[AccuracyRow]("Model calls", lambda row: number(row.model_calls)),
        Column[AccuracyRow]("Tokens", lambda row: number(row.generated_tokens)),
        Column[AccuracyRow]("Gradients", lambda row: number(row.gradient_passes)),
        Column[AccuracyRow]("Correct/100 calls", lambda row: number(row.correct_per_100_calls, 2)),
        Column[AccuracyRow]("Seconds", lambda row: number(row.seconds)),
    ]
    notes = [
        "Calls, generated tokens and gradient passes are means per problem; seconds are of the "
        "whole run. A token or a scoring is one call, a gradient pass four."
    ]
    return Table("accuracy", "Accuracy and cost", columns, rows, notes)


def rejection_table(runs: Iterable[Run], drafts: Run) -> Table[RejectionRow]:
    """Rejection rates of `runs` above their controls; `drafts` is a best-of-N run without stop."""
    rows = [*(RejectionRow.of(run) for run in runs), *RejectionRow.controls(drafts)]
    columns = [
        Column[RejectionRow]("Draws", lambda row: row.run, "left"),
        Column[RejectionRow]("Judged", lambda row: _count(row.candidates)),
        Column[RejectionRow]("Rejected", lambda row: percent(row.rate, 2)),
        Column[RejectionRow]("95 % interval", lambda row: percent_range(row.ci95)),
        Column[RejectionRow]("Ties", _tie_share),
        Column[RejectionRow]("First rejected", _first),
    ]
    notes = [
        "Ties are rejected; their share of the judged candidates is listed too. Intervals resample "
        "problems. First: the first candidate of each problem."
    ]
    return Table("rejection", "Rejection rate", columns, rows, notes)


def difference_table(
    ours: Run, rivals: Sequence[Run], twins: Sequence[Run] = ()
) -> Table[DifferenceRow]:
    """Paired differences of `ours`: in accuracy to all rivals, in rejection to the twins."""
    rows = [DifferenceRow.accuracy(ours, rival) for rival in rivals]
    rows += [row for twin in twins for row in DifferenceRow.rejection(ours, twin)]
    columns = [
        Column[DifferenceRow]("Difference", lambda row: f"{row.a} - {row.b}", "left"),
        Column[DifferenceRow]("in", lambda row: row.measure, "left"),
        Column[DifferenceRow]("Points", lambda row: points(row.difference)),
        Column[DifferenceRow]("95 % interval", lambda row: points_range(row.ci95)),
        Column[DifferenceRow](
            "Won : lost",
            lambda row: MISSING if row.wins is None else f"{row.wins} : {row.losses}",
        ),
    ]
    notes = ["Paired by problem, one comparison at a time: no correction for several."]
    return Table("differences", f"{ours.name} against the others", columns, rows, notes)


def revision_table(run: Run, count: int = 3) -> Table[RevisionRow]:
    """A few judged revisions, the first of each verdict."""
    columns = [
        Column[RevisionRow]("Problem", lambda row: row.prompt, "left"),
        Column[RevisionRow]("Before", lambda row: row.context, "left"),
        Column[RevisionRow]("Token", lambda row: f"{row.old} → {row.new}", "left"),
        Column[RevisionRow]("Response", lambda row: row.response, "left"),
        Column[RevisionRow](
            "Reward", lambda row: f"{number(row.old_reward, 2)} → {number(row.new_reward, 2)}"
        ),
        Column[RevisionRow]("Verdict", lambda row: row.verdict, "left"),
    ]
    title = f"Example revisions of {run.name}"
    notes = ["The first accepted, rejected and tied ones in the order of the problems."]
    return Table("revisions", title, columns, examples(run.records, count), notes)


def _count(value: int | None) -> str:
    return MISSING if value is None else f"{value:,}"


def _tie_share(row: RejectionRow) -> str:
    return (
        percent(row.ties / row.candidates) if row.ties is not None and row.candidates else MISSING
    )


def _first(row: RejectionRow) -> str:
    first = row.first
    if first is None:
        return MISSING
    return f"{percent(first.rate)} ({percent_range(first.ci95)})"

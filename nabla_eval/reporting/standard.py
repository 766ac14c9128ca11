"""The standard tables: accuracy and cost, rejection with its controls, differences, revisions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.rejection_rows import RejectionRow
from nabla_eval.reporting.rows import AccuracyRow, DifferenceRow, RevisionRow, examples
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
            "Accuracy ± se", lambda row: f"{number(100 * row.accuracy)} ± {percent(row.se)}"
        ),
        Column[AccuracyRow]("Calls", lambda row: number(row.model_calls)),
        Column[AccuracyRow]("Tokens", lambda row: number(row.generated_tokens)),
        Column[AccuracyRow]("Grads", lambda row: number(row.gradient_passes)),
        Column[AccuracyRow]("Right/100", lambda row: number(row.correct_per_100_calls, 2)),
        Column[AccuracyRow]("Seconds", lambda row: number(row.seconds)),
    ]
    notes = [
        "Model calls, generated tokens and gradient passes are means per problem (a token or a "
        "scoring is one call, a gradient pass four). Right/100: correct answers per 100 calls. "
        "Seconds: generation, all problems."
    ]
    return Table("accuracy", "Accuracy and cost", columns, rows, notes)


def rejection_table(runs: Iterable[Run], drafts: Run) -> Table[RejectionRow]:
    """Rejection rates of `runs` above their controls; `drafts` is a best-of-N run without stop."""
    rows = [*(RejectionRow.of(run) for run in runs), *RejectionRow.controls(drafts)]
    columns = [
        Column[RejectionRow]("Draws of", lambda row: row.run, "left"),
        Column[RejectionRow]("Judged", lambda row: _count(row.candidates)),
        Column[RejectionRow]("Rejected", lambda row: percent(row.rate, 2)),
        Column[RejectionRow]("95 % CI", lambda row: percent_range(row.ci95)),
        Column[RejectionRow]("Ties", _tie_share),
        Column[RejectionRow](
            "First", lambda row: percent(row.first.rate) if row.first else MISSING
        ),
        Column[RejectionRow](
            "95 % CI", lambda row: percent_range(row.first.ci95) if row.first else MISSING
        ),
    ]
    notes = [
        "Ties are rejected; their share of all judged is listed apart. First: the first candidate "
        "of each problem. Intervals: Wilson's, problems as clusters. The last two lines are closed "
        "forms."
    ]
    return Table("rejection", "Rejection rate", columns, rows, notes)


def index_table(runs: Iterable[Run]) -> Table[RejectionRow]:
    """Rejection rate of the first, second, ... candidates of all problems."""
    rows = [RejectionRow.of(run) for run in runs]
    longest = max((len(row.by_index) for row in rows), default=0)
    columns = [Column[RejectionRow]("k-th", lambda row: row.run, "left")]
    columns += [_nth(index) for index in range(longest)]
    notes = ["Per cent rejected of all k-th candidates; in brackets, how many there were."]
    return Table("rejection_by_index", "Rejection by candidate", columns, rows, notes)


def _nth(index: int) -> Column[RejectionRow]:
    def cell(row: RejectionRow) -> str:
        if index >= len(row.by_index):
            return MISSING
        found = row.by_index[index]
        return f"{number(100 * found.rate, 0)} ({found.candidates})"

    return Column(str(index + 1), cell, wrap=True)


def difference_table(
    ours: Run, rivals: Sequence[Run], twins: Sequence[Run] = ()
) -> Table[DifferenceRow]:
    """Paired differences of `ours`: in accuracy to all rivals, in rejection to the twins."""
    rows = [DifferenceRow.accuracy(ours, rival) for rival in rivals]
    rows += [row for twin in twins for row in DifferenceRow.rejection(ours, twin)]
    columns = [
        Column[DifferenceRow](f"{ours.name} minus", lambda row: row.b, "left"),
        Column[DifferenceRow]("in", lambda row: row.measure, "left"),
        Column[DifferenceRow]("Points", lambda row: points(row.difference)),
        Column[DifferenceRow]("95 % CI", lambda row: points_range(row.ci95)),
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

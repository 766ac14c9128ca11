"""`report rejection`: Table 4 of the paper, beside everything that it must be compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.analysis import rejection as rejections
from nabla_eval.analysis.candidates import FEATURES, Bin, Feature, acceptance, bin_edges
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.twins import drafts_of, twin_of
from nabla_eval.reporting.rejection_rows import RejectionRow
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.rows import DifferenceRow
from nabla_eval.reporting.sections.columns import count, difference_table, task_column
from nabla_eval.reporting.summary import verdict
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import MISSING, number, percent, percent_range


@dataclass(frozen=True)
class IndexedRow:
    """Rejection of the first, second, ... candidates of one run."""

    run: str
    task: str
    rates: tuple[float, ...]
    candidates: tuple[int, ...]


@dataclass(frozen=True)
class AcceptanceRow:
    """Acceptance of the candidates whose feature lies in one bin; bins are shared by all runs."""

    run: str
    task: str
    feature: str
    low: float
    high: float
    candidates: int
    accepted: int
    rate: float
    ci95: tuple[float, float]


def rejection_report(runs: Sequence[Run]) -> Report:
    """Rates of the runs that judge candidates, their controls, and where candidates succeed."""
    judging = [run for run in runs if any(record["candidates"] for record in run.records)]
    rows = [RejectionRow.of(run).beside(run, runs) for run in judging]
    pairs = [(run, twin) for run in judging if (twin := twin_of(run, runs)) is not None]
    differences = [row for run, twin in pairs for row in DifferenceRow.rejection(run, twin, "twin")]
    notes = ["Paired by problem; intervals have problems as clusters."]
    tables: list[Table[Any]] = [
        rejection_table(rows),
        control_table(judging, runs),
        difference_table("differences", "Rejection against the twin", differences, notes),
        index_table(rows),
        acceptance_table(judging),
    ]
    return Report("rejection", "Rejection", tables, [verdict(row) for row in differences])


def rejection_table(rows: Sequence[RejectionRow]) -> Table[RejectionRow]:
    """One line per run, its four controls on the same line."""
    columns = [
        *task_column(rows),
        Column[RejectionRow]("Run", lambda row: row.run, "left"),
        Column[RejectionRow]("Judged", lambda row: count(row.candidates)),
        Column[RejectionRow]("Rate", lambda row: _share(row.rate)),
        Column[RejectionRow]("95 % CI", lambda row: percent_range(row.ci95)),
        Column[RejectionRow]("Ties", lambda row: _ties(row).removesuffix(" %")),
        Column[RejectionRow]("First", lambda row: _share(row.first.rate if row.first else None)),
        Column[RejectionRow]("Twin", lambda row: _share(row.twin_rate)),
        Column[RejectionRow]("Drafts", lambda row: _share(row.baseline_measured_challengers)),
        Column[RejectionRow]("iid", lambda row: _share(row.baseline_challengers)),
        Column[RejectionRow]("1-H/N", lambda row: _share(row.baseline_h)),
    ]
    notes = [
        "All in per cent. Rate: rejected of the judged candidates, ties included (their share of "
        "all is in Ties). First: the first candidate of each problem. Problems are clusters.",
        "Controls: the zeroth-order twin; best-of-N's own drafts under the same rule, without the "
        "first; the same for i.i.d. draws without ties, 1 - (H_N - 1)/(N - 1); and 1 - H_N/N, "
        "which counts the first draw as accepted. The drafts are of a best-of-N run with this N, "
        "drawn with the same temperature where there is one.",
    ]
    return Table("runs", "Rejection rate", columns, rows, notes)


def _ties(row: RejectionRow) -> str:
    return (
        percent(row.ties / row.candidates) if row.ties is not None and row.candidates else MISSING
    )


def _share(value: float | None) -> str:
    """A share in per cent, without the sign, for a wide table."""
    return percent(value).removesuffix(" %")


def control_table(judging: Sequence[Run], runs: Sequence[Run]) -> Table[RejectionRow]:
    """What i.i.d. draws do: measured on best-of-N's drafts, and in closed form."""
    drafts = {d.name + d.task: d for run in judging if (d := drafts_of(run, runs)) is not None}
    rows = [row for run in drafts.values() for row in RejectionRow.controls(run)]
    measured = {run.n for run in drafts.values()}
    for n in sorted({run.n for run in judging if run.n} - measured):
        rows.append(RejectionRow.exact(f"1 - H_{n}/{n}", n, rejections.first_accepted_baseline(n)))
        if n > 1:
            exact = rejections.challengers_baseline(n)
            rows.append(RejectionRow.exact(f"1 - (H_{n} - 1)/{n - 1}", n, exact))
    columns = [
        Column[RejectionRow]("Draws of", lambda row: row.run, "left"),
        Column[RejectionRow]("N", lambda row: count(row.n)),
        Column[RejectionRow]("Judged", lambda row: count(row.candidates)),
        Column[RejectionRow]("Rejected", lambda row: percent(row.rate, 2)),
        Column[RejectionRow]("95 % CI", lambda row: percent_range(row.ci95)),
        Column[RejectionRow]("Ties", _ties),
    ]
    notes = ["Lines without an interval are closed forms for draws whose rewards never tie."]
    return Table("controls", "Rejection of i.i.d. draws", columns, rows, notes)


def index_table(rows: Sequence[RejectionRow]) -> Table[IndexedRow]:
    """Rejection rate of the first, second, ... candidates of all problems."""
    found = [
        IndexedRow(
            row.run,
            row.task,
            tuple(index.rate for index in row.by_index),
            tuple(index.candidates for index in row.by_index),
        )
        for row in rows
    ]
    longest = min(max((len(row.rates) for row in found), default=0), 15)
    columns = [*task_column(found), Column[IndexedRow]("Run", lambda row: row.run, "left")]
    columns += [_nth(index) for index in range(longest)]
    notes = ["In brackets: how many candidates that is."]
    return Table("by_index", "Rejection by candidate", columns, found, notes)


def _nth(index: int) -> Column[IndexedRow]:
    def cell(row: IndexedRow) -> str:
        if index >= len(row.rates):
            return MISSING
        return f"{percent(row.rates[index], 0)} ({row.candidates[index]:,})"

    return Column(str(index + 1), cell, wrap=True)


def acceptance_table(runs: Sequence[Run]) -> Table[AcceptanceRow]:
    """Share of accepted candidates by position, entropy, gradient norm and sweep."""
    rows = [row for name in FEATURES for row in _acceptance(runs, name)]
    columns = [
        *task_column(rows),
        Column[AcceptanceRow]("By", lambda row: row.feature.replace("_", " "), "left"),
        Column[AcceptanceRow]("from", lambda row: _bound(row, row.low)),
        Column[AcceptanceRow]("to", lambda row: _bound(row, row.high)),
        Column[AcceptanceRow]("Run", lambda row: row.run, "left"),
        Column[AcceptanceRow]("Judged", lambda row: count(row.candidates)),
        Column[AcceptanceRow]("Accepted", lambda row: percent(row.rate)),
        Column[AcceptanceRow]("95 % CI", lambda row: percent_range(row.ci95)),
    ]
    notes = [
        "Bins part the candidates of all runs of a task into about equally many; the upper end "
        "belongs to the next bin. Position in tokens, entropy in nats at temperature 1."
    ]
    return Table("acceptance", "Acceptance by where it was tried", columns, rows, notes)


def _bound(row: AcceptanceRow, value: float) -> str:
    return number(value, 0 if row.feature in ("position", "sweep") else 3)


def _acceptance(runs: Sequence[Run], name: Feature) -> list[AcceptanceRow]:
    """Rows by task, bin and run: what is to be compared stands together."""
    rows = []
    for task in dict.fromkeys(run.task for run in runs):
        ours = [run for run in runs if run.task == task]
        edges = bin_edges((run.records for run in ours), name)
        found = [(run, acceptance(run.records, name, edges)) for run in ours]
        for place in range(len(edges) - 1):
            bins = [(run, bins[place]) for run, bins in found]
            rows += [_row(run, name, entry) for run, entry in bins if entry.candidates]
    return rows


def _row(run: Run, name: Feature, found: Bin) -> AcceptanceRow:
    return AcceptanceRow(
        run=run.name,
        task=run.task,
        feature=name,
        low=found.low,
        high=found.high,
        candidates=found.candidates,
        accepted=found.accepted,
        rate=found.acceptance.value,
        ci95=found.acceptance.interval,
    )

"""`report rejection`: Table 4 of the paper, beside everything that it must be compared with."""

from __future__ import annotations

from collections.abc import Sequence

from nabla_eval.analysis.candidates import FEATURES, Feature, acceptance, bin_edges
from nabla_eval.analysis.controls import drafts_of, twin_of
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.rows import (
    closed_form_rows,
    first_rate,
    iid_rows,
    of_run,
    rejection_differences,
    rejection_row,
    run_table,
    task_column,
    tie_share,
    verdict,
)
from nabla_eval.reporting.sections.accuracy import difference_table
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import MISSING, count, number, percent, percent_range


def rejection_report(runs: Sequence[Run]) -> Report:
    """Report rates of the runs that judge candidates, controls, and where candidates succeed."""
    judging = [run for run in runs if len(run.candidates)]
    rows = [rejection_row(run, runs) for run in judging]
    pairs = [(run, twin) for run in judging if (twin := twin_of(run, runs)) is not None]
    differences = [row for run, twin in pairs for row in rejection_differences(run, twin, "twin")]
    notes = ["Paired by problem; intervals have problems as clusters."]
    tables = [
        rejection_table(rows),
        control_table(judging, runs),
        difference_table("differences", "Rejection against the twin", differences, notes),
        index_table(rows),
        acceptance_table(judging),
    ]
    return Report("rejection", "Rejection", tables, [verdict(row) for row in differences])


def rejection_table(rows: Sequence[Row]) -> Table:
    """Tabulate one line per run, its four controls on the same line."""
    columns = [
        Column("Judged", "candidates", count),
        Column("Rate", "rate", _share),
        Column("95 % CI", "ci95", percent_range),
        Column("Ties", tie_share, _share),
        Column("First", lambda row: first_rate(row)["rate"], _share),
        Column("Twin", "twin_rate", _share),
        Column("Drafts", "baseline_measured_challengers", _share),
        Column("iid", "baseline_challengers", _share),
        Column("1-H/N", "baseline_h", _share),
    ]
    notes = [
        "All in per cent. Rate: rejected of the judged candidates, ties included (their share of "
        "all is in Ties). First: the first candidate of each problem. Problems are clusters.",
        "Controls: the zeroth-order twin; best-of-N's own drafts under the same rule, without the "
        "first; the same for i.i.d. draws without ties, 1 - (H_N - 1)/(N - 1); and 1 - H_N/N, "
        "which counts the first draw as accepted. The drafts are of a best-of-N run with this N, "
        "drawn with the same temperature where there is one.",
    ]
    return run_table("runs", "Rejection rate", rows, columns, notes)


def _share(value: float | None) -> str:
    """Word a share in per cent, without the sign, for a wide table."""
    return percent(value).removesuffix(" %")


def control_table(judging: Sequence[Run], runs: Sequence[Run]) -> Table:
    """Tabulate what i.i.d. draws do: measured on best-of-N's drafts, and in closed form."""
    drafts = {d.name + d.task: d for run in judging if (d := drafts_of(run, runs)) is not None}
    rows = [row for run in drafts.values() for row in iid_rows(run)]
    measured = {run.n for run in drafts.values()}
    for n in sorted({run.n for run in judging if run.n} - measured):
        rows += closed_form_rows(n)
    columns = [
        text("Draws of", "run"),
        Column("N", "n", count),
        Column("Judged", "candidates", count),
        Column("Rejected", "rate", percent, 2),
        Column("95 % CI", "ci95", percent_range),
        Column("Ties", tie_share, percent),
    ]
    notes = ["Lines without an interval are closed forms for draws whose rewards never tie."]
    return Table("controls", "Rejection of i.i.d. draws", columns, rows, notes)


def index_table(rejected: Sequence[Row]) -> Table:
    """Tabulate the rejection rate of the first, second, ... candidates of all problems."""
    rows = [
        {"run": row["run"], "task": row["task"]}
        | {key: tuple(of[k] for of in row["by_index"])
           for key, k in (("rates", "rate"), ("candidates", "candidates"))}
        for row in rejected
    ]  # fmt: skip
    longest = min(max((len(row["rates"]) for row in rows), default=0), 15)
    columns = [_nth(index) for index in range(longest)]
    notes = ["In brackets: how many candidates that is."]
    return run_table("by_index", "Rejection by candidate", rows, columns, notes)


def _nth(index: int) -> Column:
    def cell(row: Row) -> str:
        if index >= len(row["rates"]):
            return MISSING
        return f"{percent(row['rates'][index], 0)} ({row['candidates'][index]:,})"

    return Column(str(index + 1), cell, str, wrap=True)


def acceptance_table(runs: Sequence[Run]) -> Table:
    """Tabulate the share of accepted candidates by position, entropy, gradient norm and sweep."""
    rows = [row for name in FEATURES for row in _acceptance_rows(runs, name)]

    def bound(key: str) -> Column:
        def cell(row: Row) -> str:
            return number(row[key], 0 if row["feature"] in ("position", "sweep") else 3)

        return Column({"low": "from", "high": "to"}[key], cell, str)

    columns = [
        *task_column(rows),
        text("By", lambda row: row["feature"].replace("_", " ")),
        bound("low"),
        bound("high"),
        text("Run", "run"),
        Column("Judged", "candidates", count),
        Column("Accepted", "rate", percent),
        Column("95 % CI", "ci95", percent_range),
    ]
    notes = [
        "Bins part the candidates of all runs of a task into about equally many; the upper end "
        "belongs to the next bin. Position in tokens, entropy in nats at temperature 1."
    ]
    return Table("acceptance", "Acceptance by where it was tried", columns, rows, notes)


def _acceptance_rows(runs: Sequence[Run], name: Feature) -> list[Row]:
    """Return rows by task, bin and run: what is to be compared stands together."""
    rows = []
    for task in dict.fromkeys(run.task for run in runs):
        ours = [run for run in runs if run.task == task]
        edges = bin_edges((run.candidates for run in ours), name)
        found = [acceptance(run.candidates, name, edges) for run in ours]
        for bins in zip(*found, strict=True):
            rows += [
                {
                    **of_run(run),
                    "feature": name,
                    "low": of.low,
                    "high": of.high,
                    "candidates": of.candidates,
                    "accepted": of.accepted,
                    "rate": of.acceptance.value,
                    "ci95": of.acceptance.interval,
                }
                for run, of in zip(ours, bins, strict=True)
                if of.candidates
            ]
    return rows

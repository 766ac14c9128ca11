"""`report rejection`: Table 4 of the paper, beside everything that it must be compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nabla_eval.analysis.candidates import (
    FEATURES,
    Rate,
    bin_edges,
    challengers_baseline,
    first_accepted_baseline,
    iid_process,
    in_bins,
    rate,
    rejection,
    rejection_difference,
)
from nabla_eval.analysis.controls import drafts_of, twin_of
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.rows import (
    INTERVAL,
    difference_table,
    of_run,
    rejection_differences,
    run_table,
    task_column,
    with_interval,
    worded,
)
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import MISSING, count, percent

_UNKNOWN: Row = {
    **dict.fromkeys(("problems", "candidates", "rejected", "ties", "rate", "ci95")),
    "by_index": (), "method": None, "task": "",
    **dict.fromkeys(
        ("baseline_h", "baseline_challengers", "baseline_run", "baseline_measured",
         "baseline_measured_challengers", "twin", "twin_rate", "twin_ci95", "minus_twin",
         "minus_twin_ci95")
    ),
}  # fmt: skip


def rejection_report(runs: Sequence[Run]) -> Report:
    """Report rates of the runs that judge candidates, controls, and where candidates succeed."""
    judging = [run for run in runs if len(run.candidates)]
    rows = [rejection_row(run, runs) for run in judging]
    pairs = [(run, twin) for run in judging if (twin := twin_of(run, runs)) is not None]
    differences = [row for run, twin in pairs for row in rejection_differences(run, twin, "twin")]
    tables = [
        _rate_table(rows),
        _control_table(judging, runs),
        difference_table(
            "differences", "Rejection against the twin", differences,
            "Paired by problem; intervals have problems as clusters.",
        ),
        _index_table(rows),
        _acceptance_table(judging),
    ]  # fmt: skip
    return Report("rejection", "Rejection", tables, worded(differences))


def rejection_row(run: Run, runs: Sequence[Run] = ()) -> Row:
    """Return the rejection rate of a run that judges candidates, beside its controls in `runs`.

    `rejected` includes ties. `by_index` has the k-th candidates of all problems. Controls: the
    closed forms `baseline_h`, 1 - H_N/N, and `baseline_challengers`, 1 - (H_N - 1)/(N - 1), which
    leaves out the first draw; a best-of-N run's own drafts under the acceptance rule
    (`baseline_measured...`); the zeroth-order twin (`twin_rate`; `minus_twin` is paired).
    """
    found, n = rejection(run.candidates), run.n or 0
    row = {**_rate_row(run.name, run.n, found.overall), "method": run.method, "task": run.task}
    row["by_index"] = tuple(
        {"index": i, **_counts(rate)} for i, rate in enumerate(found.by_index, start=1)
    )
    row["baseline_h"] = float(first_accepted_baseline(n)) if n else None
    row["baseline_challengers"] = float(challengers_baseline(n)) if n > 1 else None
    twin, drafts = twin_of(run, runs), drafts_of(run, runs)
    if drafts is not None:
        every, challengers = _of_drafts(drafts)
        row["baseline_run"] = drafts.name
        row["baseline_measured"] = every.estimate.value
        row["baseline_measured_challengers"] = challengers.estimate.value
    if twin is not None:
        row["twin"] = twin.name
        row |= with_interval("twin_rate", rate(twin.candidates).estimate, "twin_ci95")
        row |= with_interval("minus_twin", rejection_difference(run.candidates, twin.candidates))
    return row


def iid_rows(drafts: Run) -> list[Row]:
    """Return what i.i.d. draws do: measured on a best-of-N run's drafts, and in closed form."""
    n = int(drafts.config["n"])
    every, challengers = _of_drafts(drafts)
    rows = [_rate_row(f"{drafts.name} drafts", n, every)]
    if n > 1:
        rows.append(_rate_row("... without the first", n, challengers))
    return [*rows, *_closed_form_rows(n)]


def _of_drafts(drafts: Run) -> tuple[Rate, Rate]:
    """Return the rates of all drafts, and of those from the second on."""
    columns = (drafts.answers[name] for name in ("problem", "draft_rewards"))
    process = iid_process(zip(*columns, strict=True))
    return rate(process), rate(process[process["nth"] > 1])


def _closed_form_rows(n: int) -> list[Row]:
    """Return the rejection rates of n i.i.d. draws without ties: all, and challengers only."""
    exact = {f"1 - H_{n}/{n}": first_accepted_baseline(n)}
    if n > 1:
        exact[f"1 - (H_{n} - 1)/{n - 1}"] = challengers_baseline(n)
    return [
        {"run": name, "n": n, **_UNKNOWN, "rate": float(value)} for name, value in exact.items()
    ]


def _rate_row(name: str, n: int | None, found: Rate) -> Row:
    known = {"problems": found.estimate.clusters, **_counts(found)}
    return {"run": name, "n": n, **_UNKNOWN, **known}


def _counts(found: Rate) -> dict[str, Any]:
    counts = {"candidates": found.judged, "rejected": found.rejected, "ties": found.ties}
    return {**counts, **with_interval("rate", found.estimate, "ci95")}


def first_rate(row: Row) -> Row:
    """Return the first candidates' entry of a rejection row; unknowns where there is none."""
    return row["by_index"][0] if row["by_index"] else {"rate": None, "ci95": None}


def tie_share(row: Row) -> float | None:
    """Return the share of ties among all judged candidates."""
    return row["ties"] / row["candidates"] if row["candidates"] else None


def _rate_table(rows: Sequence[Row]) -> Table:
    """Tabulate one line per run, its four controls on the same line."""
    columns = [
        Column("Judged", "candidates", count),
        Column("Rate", "rate", _share),
        INTERVAL,
        Column("Ties", tie_share, _share),
        Column("First", lambda row: first_rate(row)["rate"], _share),
        Column("Twin", "twin_rate", _share),
        Column("Drafts", "baseline_measured_challengers", _share),
        Column("iid", "baseline_challengers", _share),
        Column("1-H/N", "baseline_h", _share),
    ]
    return run_table(
        "runs", "Rejection rate", rows, columns,
        "All in per cent. Rate: rejected of all judged candidates of the run together (lm-eval's "
        "rejection_rate is the mean over problems, another number). A tie, a reward equal to the "
        "current response's, is a rejection; Ties is their share of the judged. First: the first "
        "candidate of each problem, which meets a first draft and not yet an improved response. "
        "Intervals have problems as clusters.",
        "Controls. Twin: the same run without gradient steps. Drafts: best-of-N's own drafts, each "
        "against the best before it, the first left out; of a run with this N, and the same "
        "temperature where there is one. iid: what N independent draws would give if rewards never "
        "tied, 1 - (H_N - 1)/(N - 1), where H_N = 1 + 1/2 + ... + 1/N; 1-H/N: the same with the "
        "first draw counted as accepted, 1 - H_N/N. Drafts that repeat each other tie, so a "
        "measured rate can lie above both.",
    )  # fmt: skip


def _share(value: float | None) -> str:
    """Word a share in per cent, without the sign, for a wide table."""
    return percent(value).removesuffix(" %")


def _control_table(judging: Sequence[Run], runs: Sequence[Run]) -> Table:
    """Tabulate what i.i.d. draws do: measured on best-of-N's drafts, and in closed form."""
    drafts = {d.name + d.task: d for run in judging if (d := drafts_of(run, runs)) is not None}
    rows = [row for run in drafts.values() for row in iid_rows(run)]
    measured = {run.n for run in drafts.values()}
    for n in sorted({run.n for run in judging if run.n} - measured):
        rows += _closed_form_rows(n)
    columns = [
        text("Draws of", "run"),
        Column("N", "n", count),
        Column("Judged", "candidates", count),
        Column("Rejected", "rate", percent, 2),
        INTERVAL,
        Column("Ties", tie_share, percent),
    ]
    note = (
        "Each draft is rejected unless its reward is above all before it; nothing can reject the "
        "first, so the rate without it is given too. Lines without an interval are closed forms "
        "for independent draws whose rewards never tie: the k-th is the best so far with "
        "probability 1/k. Repeated drafts tie and are rejected, so measured rates can lie above "
        "them."
    )
    return Table("controls", "Rejection of i.i.d. draws", columns, rows, (note,))


def _index_table(rejected: Sequence[Row]) -> Table:
    """Tabulate the rejection rate of the first, second, ... candidates of all problems."""
    rows = [
        {
            "run": row["run"],
            "task": row["task"],
            "rates": tuple(of["rate"] for of in row["by_index"]),
            "candidates": tuple(of["candidates"] for of in row["by_index"]),
        }
        for row in rejected
    ]
    found = lambda row: list(zip(row["rates"], row["candidates"], strict=True))  # noqa: E731
    columns = by_index_columns(rows, found, lambda rate: percent(rate, 0))[:15]
    note = (
        "Column k: the k-th candidates of all problems; in brackets, how many. Later ones have a "
        "better response to beat."
    )
    return run_table("by_index", "Rejection by candidate", rows, columns, note)


def by_index_columns(
    rows: Sequence[Row],
    found: Callable[[Row], Sequence[tuple[float, int]]],
    form: Callable[[float], str],
) -> list[Column]:
    """Return a column for each k: the rate of k-th candidates, and how many there were."""

    def nth(place: int) -> Column:
        def cell(row: Row) -> str:
            if place >= len(found(row)):
                return MISSING
            rate, judged = found(row)[place]
            return f"{form(rate)} ({judged:,})"

        return Column(str(place + 1), cell, str, wrap=True)

    return [nth(place) for place in range(max((len(found(row)) for row in rows), default=0))]


def _acceptance_table(runs: Sequence[Run]) -> Table:
    """Tabulate the share of accepted candidates by position, entropy, gradient norm and sweep."""
    rows = [row for name in FEATURES for row in _acceptance_rows(runs, name)]

    columns = [
        *task_column(rows),
        text("By", "feature"),
        Column("from", "low", "{:.4g}".format),
        Column("to", "high", "{:.4g}".format),
        text("Run", "run"),
        Column("Judged", "candidates", count),
        Column("Accepted", "rate", percent),
        INTERVAL,
    ]
    note = (
        "Bins part the candidates of all runs of a task into about equally many; the upper end "
        "belongs to the next bin. Position in tokens, entropy in nats at temperature 1."
    )
    return Table("acceptance", "Acceptance by where it was tried", columns, rows, (note,))


def _acceptance_rows(runs: Sequence[Run], name: str) -> list[Row]:
    """Return rows by task, bin and run: what is to be compared stands together."""
    rows = []
    for task in dict.fromkeys(run.task for run in runs):
        ours = [run for run in runs if run.task == task]
        edges = bin_edges((run.candidates for run in ours), name, bins=5)
        bins = [
            in_bins(run.candidates, name, run.candidates["verdict"] == "accepted", edges)
            for run in ours
        ]
        rows += [
            {
                **of_run(run), "feature": name, "low": of.low, "high": of.high,
                "candidates": of.rows, "accepted": of.hits,
                **with_interval("rate", of.share, "ci95"),
            }
            for same_bin in zip(*bins, strict=True)
            for run, of in zip(ours, same_bin, strict=True)
            if of.rows
        ]  # fmt: skip
    return rows

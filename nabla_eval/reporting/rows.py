"""Rows that several reports have: plain dicts, whose keys are those of the JSON and the CSV.

`ci95` in a key stands for a pair (low, high) of a 95 % interval over problems. Shares and
accuracies are fractions of one, costs are means per answer, p values two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from nabla_eval.analysis.accuracy import accuracy, difference, pass_at
from nabla_eval.analysis.answers import majority_accuracy
from nabla_eval.analysis.controls import drafts_of, twin_of
from nabla_eval.analysis.cost import correct_per_cost, costs
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.rejection import (
    Rate,
    best_of_n_process,
    challengers_baseline,
    draft_rewards,
    first_accepted_baseline,
    rejection,
    rejection_difference,
    verdicts,
)
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.significance import holm
from nabla_eval.errors import DataError
from nabla_eval.reporting.tables import Column, Row, Table, text
from nabla_eval.reporting.text import MISSING, p_value, points, points_range

HOLM = (
    "Paired by problem. Interval: Wilson's of the share won and of the share lost, joined. p: "
    "exact sign-flip test (McNemar's where every problem has one right-or-wrong answer), corrected "
    "by Holm for all tests of this table. Runs are told apart only where both say so; with few "
    "problems they can disagree, and then the p value is the one that keeps its error rate."
)


def with_interval(name: str, estimate: Estimate) -> Row:
    """Return the value and its interval as `name` and `name_ci95`."""
    return {name: estimate.value, f"{name}_ci95": estimate.interval}


def task_column(rows: Sequence[Row]) -> list[Column]:
    """Return a column that names the task, where there are several."""
    several = len({row["task"] for row in rows if row["task"]}) > 1
    return [text("Task", lambda row: row["task"] or MISSING)] if several else []


def run_table(
    name: str, title: str, rows: Sequence[Row], columns: Sequence[Column], notes: Sequence[str] = ()
) -> Table:
    """Return a table of rows that each begin with a run, its task named where there are several."""
    return Table(name, title, [*task_column(rows), text("Run", "run"), *columns], rows, notes)


def of_run(run: Run) -> Row:
    """Return the keys that say which run a row is of."""
    return {"run": run.name, "task": run.task}


def accuracy_row(run: Run) -> Row:
    """Return accuracy and cost of a run; `seconds` is the whole run's.

    `majority` is maj@repeats, None where single answers are not known; `pass_at` has pass@k,
    unbiased, for k = 1, 2, 4, ... up to repeats, the answers to each problem over all seeds.
    """
    right, spent, per_call = accuracy(run.scores), costs(run), correct_per_cost(run)
    most = majority_accuracy(run)
    return {
        **of_run(run),
        "method": run.method,
        "n": run.n,
        "problems": right.clusters,
        "repeats": run.repeats,
        "seeds": run.seeds,
        "accuracy": right.value,
        "se": right.se,
        "ci95": right.interval,
        "majority": None if most is None else most.value,
        "pass_at": _pass_at(run),
        **with_interval("model_calls", spent.pop("model_calls")),
        **{name: spent[name].value for name in spent if name != "seconds"},
        "seconds": run.seconds,
        "correct_per_100_calls": 100 * per_call.value,
        "correct_per_100_calls_ci95": (100 * per_call.low, 100 * per_call.high),
    }


def _pass_at(run: Run) -> dict[str, float]:
    """Return pass@k for powers of two; nothing where answers are graded in parts."""
    if run.repeats < 2:
        return {}
    sizes = [2**i for i in range(run.repeats.bit_length()) if 2**i <= run.repeats]
    try:
        return {str(k): pass_at(run.scores, run.repeats, k).value for k in sizes}
    except DataError:
        return {}


def accuracy_difference(a: Run, b: Run, role: str = "") -> Row:
    """Return the difference in accuracy a - b, paired by problem; `role` says why b is compared.

    `wins` and `losses` are the problems on which a scored higher and lower, `p` is of the exact
    sign-flip test (McNemar's for single right-or-wrong answers).
    """
    found = difference(a.scores, b.scores)
    tests = {"wins": found.wins, "losses": found.losses, "p": found.p}
    return {**_difference("accuracy", a, b, found.estimate, role), **tests}


def rejection_differences(a: Run, b: Run, role: str = "") -> list[Row]:
    """Return the differences in the rejection rate, and in that of first candidates."""
    ours, theirs = verdicts(a), verdicts(b)
    first, their_first = ([(p, found[:1]) for p, found in side] for side in (ours, theirs))
    return [
        _difference("rejection", a, b, rejection_difference(ours, theirs), role),
        _difference("first rejection", a, b, rejection_difference(first, their_first), role),
    ]


def _difference(measure: str, a: Run, b: Run, found: Estimate, role: str) -> Row:
    return {
        "measure": measure,
        "a": a.name,
        "b": b.name,
        "problems": found.clusters,
        "difference": found.value,
        "ci95": found.interval,
        **dict.fromkeys(("wins", "losses", "p", "p_holm")),
        "task": a.task,
        "role": role,
    }


def holm_corrected(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with their p values corrected for all tests among them."""
    adjusted = holm([math.nan if row["p"] is None else row["p"] for row in rows])
    return [
        row if row["p"] is None else {**row, "p_holm": p}
        for row, p in zip(rows, adjusted, strict=True)
    ]


def decided(row: Row) -> bool:
    """Tell whether the interval excludes zero, also after the correction for several tests."""
    apart = row["ci95"][0] > 0 or row["ci95"][1] < 0
    return bool(apart and (row["p_holm"] is None or row["p_holm"] <= 0.05))


def verdict(row: Row) -> str:
    """Word a paired difference: above or below only where the interval and the test say so."""
    measure, a, b, found = row["measure"].capitalize(), row["a"], row["b"], row["difference"]
    if math.isnan(found):
        return f"{measure}: {a} and {b} cannot be compared, there are no data."
    if math.isnan(row["ci95"][0]):
        return f"{measure}: {a} and {b} cannot be compared, there are too few problems."
    numbers = f"95 % interval {points_range(row['ci95'])}, {row['problems']} problems"
    if row["wins"] is not None:
        numbers += f", {row['wins']} won and {row['losses']} lost"
    if row["p_holm"] is not None:
        numbers += f", corrected p {p_value(row['p_holm'])}"
    if not decided(row):
        return f"{measure}: {a} and {b} cannot be told apart ({points(found)} points, {numbers})."
    side, distance = "above" if found > 0 else "below", points(abs(found)).lstrip("+")
    return f"{measure}: {a} is {distance} points {side} {b} ({numbers})."


def won_lost(row: Row) -> str:
    """Return the problems won and lost as one cell."""
    return MISSING if row["wins"] is None else f"{row['wins']} : {row['losses']}"


_UNMEASURED = dict.fromkeys(
    (
        "method", "task", "baseline_h", "baseline_challengers", "baseline_run",
        "baseline_measured", "baseline_measured_challengers",
        "twin", "twin_rate", "twin_ci95", "minus_twin", "minus_twin_ci95",
    )
)  # fmt: skip


def rejection_row(run: Run, runs: Sequence[Run] = ()) -> Row:
    """Return the rejection rate of a run that judges candidates, beside its controls in `runs`.

    `rejected` includes ties. `by_index` has the k-th candidates of all problems. Controls: the
    closed forms `baseline_h`, 1 - H_N/N, and `baseline_challengers`, 1 - (H_N - 1)/(N - 1), which
    leaves out the first draw; a best-of-N run's own drafts under the acceptance rule
    (`baseline_measured...`); the zeroth-order twin (`twin_rate`; `minus_twin` is paired).
    """
    judged = verdicts(run)
    found, n = rejection(judged), run.n or 0
    row = _rate_row(run.name, run.n, found.overall)
    row["by_index"] = tuple(
        {"index": i, **_counts(rate)} for i, rate in enumerate(found.by_index, start=1)
    )
    row |= {"method": run.method, "task": run.task}
    row["baseline_h"] = float(first_accepted_baseline(n)) if n else None
    row["baseline_challengers"] = float(challengers_baseline(n)) if n > 1 else None
    twin, drafts = twin_of(run, runs), drafts_of(run, runs)
    if drafts is not None:
        process = best_of_n_process(draft_rewards(drafts))
        row["baseline_run"] = drafts.name
        row["baseline_measured"] = process.with_first.estimate.value
        row["baseline_measured_challengers"] = process.challengers.estimate.value
    if twin is not None:
        theirs = verdicts(twin)
        rate = rejection(theirs).overall.estimate
        row |= {"twin": twin.name, "twin_rate": rate.value, "twin_ci95": rate.interval}
        row |= with_interval("minus_twin", rejection_difference(judged, theirs))
    return row


def iid_rows(drafts: Run) -> list[Row]:
    """Return what i.i.d. draws do: measured on a best-of-N run's drafts, and in closed form."""
    n = int(drafts.config["n"])
    process = best_of_n_process(draft_rewards(drafts))
    challengers = [_rate_row("... challengers only", n, process.challengers)] if n > 1 else []
    first = _rate_row(f"{drafts.name} drafts", n, process.with_first)
    return [first, *challengers, *closed_form_rows(n)]


def closed_form_rows(n: int) -> list[Row]:
    """Return the rejection rates of n i.i.d. draws without ties: all, and challengers only."""
    rows = [_exact_row(f"1 - H_{n}/{n}", n, first_accepted_baseline(n))]
    if n > 1:
        rows.append(_exact_row(f"1 - (H_{n} - 1)/{n - 1}", n, challengers_baseline(n)))
    return rows


def _rate_row(name: str, n: int | None, rate: Rate) -> Row:
    counts = {"problems": rate.estimate.clusters, **_counts(rate)}
    return {"run": name, "n": n, **counts, "by_index": (), **_UNMEASURED, "task": ""}


def _exact_row(name: str, n: int, rate: Fraction) -> Row:
    unknown = dict.fromkeys(("problems", "candidates", "rejected", "ties"))
    shown = {"rate": float(rate), "ci95": None, "by_index": ()}
    return {"run": name, "n": n, **unknown, **shown, **_UNMEASURED, "task": ""}


def _counts(rate: Rate) -> dict[str, Any]:
    found = {"candidates": rate.judged, "rejected": rate.rejected, "ties": rate.ties}
    return {**found, "rate": rate.estimate.value, "ci95": rate.estimate.interval}


def first_rate(row: Row) -> Row:
    """Return the first candidates' entry of a rejection row; unknowns where there is none."""
    return row["by_index"][0] if row["by_index"] else {"rate": None, "ci95": None}


def tie_share(row: Row) -> float | None:
    """Return the share of ties among all judged candidates."""
    return row["ties"] / row["candidates"] if row["candidates"] else None

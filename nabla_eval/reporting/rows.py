"""Rows and columns that several reports have: plain dicts, whose keys are those of JSON and CSV.

`ci95` in a key stands for a pair (low, high) of a 95 % interval over problems. Shares and
accuracies are fractions of one, costs are means per answer, p values two-sided.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from nabla_eval.analysis.accuracy import difference
from nabla_eval.analysis.candidates import rejection_difference
from nabla_eval.analysis.cost import correct_per_cost, costs
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.significance import holm
from nabla_eval.reporting.tables import Column, Row, Table, text
from nabla_eval.reporting.text import (
    MISSING,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)

HOLM = (
    "Paired by problem. Interval: Wilson's of the share won and of the share lost, joined. p: "
    "exact sign-flip test (McNemar's where every problem has one right-or-wrong answer), corrected "
    "by Holm for all tests of this table. Runs are told apart only where both say so; with few "
    "problems they can disagree, and then the p value is the one that keeps its error rate."
)
INTERVAL = Column("95 % CI", "ci95", percent_range)
POINTS = Column("Points", "difference", points)
POINTS_INTERVAL = Column("95 % CI", "ci95", points_range)
CALLS = Column("Calls", "model_calls")
RIGHT_PER_100 = Column("Right/100", "correct_per_100_calls", number, 2)
P_VALUE = Column("p", "p_holm", p_value)
WON_LOST = Column(
    "Won : lost", lambda r: MISSING if r["wins"] is None else f"{r['wins']} : {r['losses']}", str
)
ACCURACY = Column(
    "Accuracy ± se", lambda r: f"{number(100 * r['accuracy'])} ± {percent(r['se'])}", str
)


def with_interval(name: str, estimate: Estimate, interval: str | None = None) -> Row:
    """Return the value and its interval as `name` and `name_ci95`, or the `interval` key given."""
    return {name: estimate.value, interval or f"{name}_ci95": estimate.interval}


def of_run(run: Run) -> Row:
    """Return the keys that say which run a row is of."""
    return {"run": run.name, "task": run.task}


def cost_row(run: Run) -> Row:
    """Return what an answer costs, in means over problems.

    `latency` is in seconds from the start of a problem to its answer, `seconds` of the whole run
    (NaN where nobody noted them).
    """
    spent, per_call = costs(run), correct_per_cost(run)
    counts = ("generated_tokens", "gradient_passes", "scorings", "prefix_scorings")
    return {
        **of_run(run),
        "method": run.method,
        "n": run.n,
        "problems": spent["model_calls"].clusters,
        **with_interval("model_calls", spent["model_calls"]),
        **{name: spent[name].value for name in (*counts, "prefix_gradients")},
        **with_interval("flops", spent["flops"]),
        "latency": spent["seconds"].value,
        "seconds": run.seconds,
        "correct_per_100_calls": 100 * per_call.value,
        "correct_per_100_calls_ci95": (100 * per_call.low, 100 * per_call.high),
    }


def task_column(rows: Sequence[Row]) -> list[Column]:
    """Return a column that names the task, where there are several."""
    several = len({row["task"] for row in rows if row["task"]}) > 1
    return [text("Task", lambda row: row["task"] or MISSING)] if several else []


def run_table(
    name: str, title: str, rows: Sequence[Row], columns: Sequence[Column], *notes: str
) -> Table:
    """Return a table of rows that each begin with a run, its task named where there are several."""
    return Table(name, title, [*task_column(rows), text("Run", "run"), *columns], rows, notes)


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
    first, their_first = (run.candidates[run.candidates["nth"] == 1] for run in (a, b))
    found = rejection_difference(a.candidates, b.candidates)
    return [
        _difference("rejection", a, b, found, role),
        _difference("first rejection", a, b, rejection_difference(first, their_first), role),
    ]


def _difference(measure: str, a: Run, b: Run, found: Estimate, role: str) -> Row:
    return {
        "measure": measure,
        "a": a.name,
        "b": b.name,
        "problems": found.clusters,
        **with_interval("difference", found, "ci95"),
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
    for unknown, lack in ((found, "no data"), (row["ci95"][0], "too few problems")):
        if math.isnan(unknown):
            return f"{measure}: {a} and {b} cannot be compared, there are {lack}."
    numbers = f"95 % interval {points_range(row['ci95'])}, {row['problems']} problems"
    if row["wins"] is not None:
        numbers += f", {row['wins']} won and {row['losses']} lost"
    if row["p_holm"] is not None:
        numbers += f", corrected p {p_value(row['p_holm'])}"
    if not decided(row):
        return f"{measure}: {a} and {b} cannot be told apart ({points(found)} points, {numbers})."
    side, distance = "above" if found > 0 else "below", points(abs(found)).lstrip("+")
    return f"{measure}: {a} is {distance} points {side} {b} ({numbers})."


def worded(rows: Sequence[Row], word: Callable[[Row], str] = verdict) -> list[str]:
    """Return a sentence for each row, of which task it is where there are several."""
    several = len({row["task"] for row in rows}) > 1
    return [f"{row['task']}: {word(row)}" if several else word(row) for row in rows]


def difference_table(name: str, title: str, rows: Sequence[Row], note: str = HOLM) -> Table:
    """Tabulate differences a - b; the column of measures only where there are several."""
    several = len({row["measure"] for row in rows}) > 1
    columns = [
        *task_column(rows), text("Run", "a"), text("minus", "b"),
        *([text("in", "measure")] if several else []),
        POINTS, POINTS_INTERVAL, WON_LOST, P_VALUE,
    ]  # fmt: skip
    return Table(name, title, columns, rows, (note,))

"""The overview that `report all` starts with: a few sentences, each from the numbers by a rule.

A run is called better than another only where `rows.decided` says so: the paired interval excludes
zero and the p value, corrected by Holm, is at most 0.05.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from nabla_eval.analysis.controls import is_baseline, twin_of
from nabla_eval.analysis.cost import cost_ratio
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.figures import scaling_plot
from nabla_eval.reporting.rows import accuracy_difference, decided, holm_corrected
from nabla_eval.reporting.tables import Report, Row
from nabla_eval.reporting.text import number, p_value, percent, percent_range, points, points_range


def summary_report(runs: Sequence[Run], accuracy: Report, scaling: Report) -> Report:
    """Report which run is best at which cost, what the gradient adds, how sure, what is missing.

    The numbers are those of the accuracy report's differences and of the scaling report's points.
    """
    differences, found = accuracy.table("differences").rows, scaling.table("points").rows
    tasks = list(dict.fromkeys(row["task"] for row in found))
    sentences: list[str] = []
    for task in tasks:
        own = [row for row in found if row["task"] == task]
        about = f"{task}: " if len(tasks) > 1 else ""
        sentences += [about + sentence for sentence in _best(own, runs, alone=not about)]
    sentences += _gradient(runs, [row for row in differences if row["role"] == "twin"])
    sentences += _certainty(runs, differences)
    sentences += _unmeasured(runs, bool(scaling.table("equal_cost").rows))
    plots = [scaling_plot(found, task) for task in tasks]
    return Report("overview", "Overview", [], sentences, plots)


# --- which run is best at which cost ---


def _best(rows: Sequence[Row], runs: Sequence[Run], alone: bool) -> list[str]:
    """Word the most accurate run of a task and, from cheap to dear, the runs that are better."""
    if len(rows) == 1:
        (row,) = rows
        of = f"{_accuracy(row)}, 95 % interval {percent_range(row['ci95'])}, {_calls(row)}"
        return [f"{row['run']} is the only run ({of}). With nothing beside it, it shows no gain."]
    steps, top = _steps(rows, runs)
    ranges = f"95 % interval {percent_range(top['ci95'])}"
    equal = sum(row["accuracy"] == top["accuracy"] for row in rows) - 1
    others = "others are" if equal > 1 else "other is"
    also = f"; {equal} {others} as often, for no fewer" if equal else ""
    most = f"{top['run']} is right most often ({_accuracy(top)}, {ranges}) for "
    most += f"{number(top['model_calls'])} model calls an answer{also}."
    first, *rest = steps
    if rest:
        climbs = "; ".join(f"{row['run']} ({_accuracy(row)}, {_calls(row)})" for row in rest)
        said = f"By cost: {first['run']} ({_accuracy(first)}, {_calls(first)}), then {climbs}."
        more = " Nothing dearer is shown to be better." if steps[-1] is not top else ""
    else:
        said = f"Nothing is shown to be better than the cheapest run, {first['run']}"
        said += f" ({_accuracy(first)}, {_calls(first)})."
        more = ""
    return [most, said + more] if alone else [said + more]


def _steps(rows: Sequence[Row], runs: Sequence[Run]) -> tuple[list[Row], Row]:
    """Return the climbs in accuracy that are shown, cheap to dear, and the most accurate run.

    Along the Pareto front, each run is the first one that is better than the one before; all pairs
    of the front are one family of tests.
    """
    front = sorted((r for r in rows if r["pareto"]), key=lambda r: (r["model_calls"], r["run"]))
    of = {run.name: run for run in runs if run.task == rows[0]["task"]}
    tests = [
        accuracy_difference(of[dear["run"]], of[cheap["run"]])
        for cheap, dear in combinations(front, 2)
    ]
    better = {
        (row["b"], row["a"])
        for row in holm_corrected(tests)
        if row["difference"] > 0 and decided(row)
    }
    steps = front[:1]
    for row in front[1:]:
        if (steps[-1]["run"], row["run"]) in better:
            steps.append(row)
    return steps, max(front, key=lambda row: row["accuracy"])  # the first of several


def _accuracy(row: Row) -> str:
    return percent(row["accuracy"])


def _calls(row: Row) -> str:
    return f"{number(row['model_calls'])} calls"


# --- whether the gradient helps ---


def _gradient(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    """Word the runs that take gradients against their twins."""
    taking = [run for run in runs if run.config.get("steps")]
    if not taking:
        return []
    if not rows:
        return [
            "Whether the gradient helps was not measured: no run has its twin beside it, the same "
            "run without gradient steps (steps=0)."
        ]
    told = [row for row in rows if decided(row)]
    said = []
    for word, side, sign in (("helps", "above", 1), ("hurts", "below", -1)):
        found = [row for row in told if sign * row["difference"] > 0]
        if found:
            row = max(found, key=lambda row: abs(row["difference"]))
            run, twin = (_named(row[key], row["task"], runs) for key in ("a", "b"))
            some = f" in {len(found)} of {len(rows)} comparisons, most" if len(rows) > 1 else ""
            said.append(
                f"The gradient {word}{some}: {row['a']} is {points(abs(row['difference']))[1:]} "
                f"points {side} its twin, the same run without gradient steps (95 % interval "
                f"{points_range(row['ci95'])}, corrected p {p_value(row['p_holm'])}), at "
                f"{percent(cost_ratio(run, twin).value)} of its calls."
            )
    rest = [row for row in rows if not decided(row)]
    if not rest:
        return said
    ends = min(row["ci95"][0] for row in rest), max(row["ci95"][1] for row in rest)
    sides = "a run and its twin" if len(rows) > 1 else f"{rest[0]['a']} and its twin"
    within = "95 % interval" if len(rest) == 1 else "95 % intervals within"
    some = f"In {len(rest)} of {len(rows)} comparisons" if len(rows) > 1 else "Here"
    said.append(
        f"{'' if told else 'No effect of the gradient is shown. '}{some} {sides}, the same without "
        f"gradient steps, cannot be told apart ({within} {points_range(ends)} points)."
        + _certified([_named(row["a"], row["task"], runs) for row in rest])
    )
    return said


def _certified(runs: Iterable[Run]) -> str:
    """Say how many draws no gradient could have changed; nothing where traces do not say."""
    kept = [run.answers[["certified", "visited"]].dropna().sum() for run in runs]
    draws = sum(float(of["visited"]) for of in kept)
    same = sum(float(of["certified"]) for of in kept)
    if not same:
        return ""
    return f" No gradient could have changed {percent(same / draws)} of the draws (certified)."


def _named(name: str, task: str, runs: Sequence[Run]) -> Run:
    return next(run for run in runs if run.name == name and run.task == task)


# --- how sure, and what is missing ---


def _certainty(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    """Word what the comparisons rest on, and how small a difference they could show."""
    half = [(row["ci95"][1] - row["ci95"][0]) / 2 for row in rows]
    half = [width for width in half if width == width]  # NaN: too few problems
    if not half:
        return []
    sizes = sorted({len(run.scores) for run in runs})
    problems = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    low, high = (points(end)[1:] for end in (min(half), max(half)))
    reach = low if low == high else f"{low} to {high}"
    return [
        f"How sure: {problems} problems a run; the 95 % intervals of the differences reach {reach} "
        "points to either side, so smaller differences would not be seen."
    ]


def _unmeasured(runs: Sequence[Run], equal: bool) -> list[str]:
    """Name what a reader might expect and these runs do not hold."""
    searching = [run for run in runs if not is_baseline(run)]
    lacks = []
    lonely = [run.name for run in searching if run.config.get("steps") and not twin_of(run, runs)]
    if lonely and len(lonely) < len(searching):
        lacks.append(f"the twin of {lonely[0]}" + (" and others" if lonely[1:] else ""))
    if searching and not any(run.method == "best_of_n" for run in runs):
        lacks.append("best-of-N")
    if searching and not equal:
        lacks.append("accuracy at equal calls (it needs rivals at several N)")
    if all(run.answers["reward"].isna().all() for run in runs):
        lacks.append("any reward")
    if all(len(run.seeds) <= 1 for run in runs):
        lacks.append("other seeds")
    for what, several in (
        ("tasks", {run.task for run in runs}),
        ("policies", {str(run.models.get("policy")) for run in runs}),
    ):
        if len(several) == 1:
            lacks.append(f"other {what}")
        elif what == "policies":
            lacks.append("the price of a call, which differs between policies")
    return [f"Not measured: {', '.join(lacks)}."] if lacks else []

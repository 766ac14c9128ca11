"""`report accuracy`, `compare` and `ablation`: how often runs are right, against each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from nabla_eval.analysis.accuracy import accuracy, difference, majority_accuracy, pass_at
from nabla_eval.analysis.candidates import rate
from nabla_eval.analysis.controls import alike, controls_of, twin_of
from nabla_eval.analysis.cost import FAILURES, cost_difference, truncated
from nabla_eval.analysis.frames import graded_answers, means
from nabla_eval.analysis.runs import Run, Scores, option_text
from nabla_eval.errors import DataError, suggest
from nabla_eval.reporting.cost import saving_row, saving_table
from nabla_eval.reporting.rows import (
    ACCURACY,
    CALLS,
    HOLM,
    INTERVAL,
    P_VALUE,
    POINTS,
    POINTS_INTERVAL,
    RIGHT_PER_100,
    accuracy_difference,
    cost_row,
    difference_table,
    holm_corrected,
    of_run,
    rejection_differences,
    run_table,
    task_column,
    with_interval,
    worded,
)
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import (
    MISSING,
    count,
    number,
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
    sentences = worded([row for row in rows if row["a"] not in twins])
    differences = difference_table("differences", "Accuracy against the controls", rows)
    tables = [accuracy_table(runs), differences, failure_table(runs)]
    return Report("accuracy", "Accuracy", tables, sentences)


def accuracy_row(run: Run) -> Row:
    """Return accuracy and cost of a run.

    `repeats` are the answers to each problem over all seeds, `graded` those that lm-eval scored one
    by one or together. `majority` is maj@repeats, None where single answers are not known;
    `pass_at` has pass@k, unbiased, for k = 1, 2, 4, ... up to `graded`.
    """
    right, most = accuracy(run.scores), majority_accuracy(run)
    graded = graded_answers(run.answers)
    each = min(len(graded.get(problem, ())) for problem in run.scores)
    return {
        **cost_row(run),
        "repeats": run.repeats,
        "graded": each,
        "seeds": run.seeds,
        "accuracy": right.value,
        "se": right.se,
        "ci95": right.interval,
        "majority": None if most is None else most.value,
        "pass_at": _pass_at(graded, each) if run.repeats > 1 else {},
    }


def _pass_at(graded: Scores, each: int) -> dict[str, float]:
    """Return pass@k for powers of two; nothing where answers are graded in parts."""
    sizes = [2**i for i in range(each.bit_length())]
    try:
        return {str(k): pass_at(graded, k).value for k in sizes}
    except DataError:
        return {}


def accuracy_table(runs: Sequence[Run]) -> Table:
    """Tabulate avg@k, and what more can be said with several answers a problem."""
    rows = [accuracy_row(run) for run in runs]
    columns = [ACCURACY, INTERVAL, Column("Problems", _answers, str)]
    if any(row["majority"] is not None for row in rows):
        columns.append(Column("maj", "majority", percent))
    most = max((int(k) for row in rows for k in row["pass_at"]), default=0)
    if most > 1:
        columns.append(Column(f"pass@{most}", lambda row: row["pass_at"].get(str(most)), percent))
    return run_table(
        "runs", "Accuracy", rows, [*columns, CALLS, RIGHT_PER_100],
        "Accuracy: the mean over problems, and over the answers to each where it has several "
        "(avg@k), with the standard error of problem means (where no problem differs, the "
        "interval's). Interval: Wilson's, with the effective sample size. Calls: model calls per "
        "answer. Right/100: right answers per 100 calls. Twin: the same run without gradient steps "
        "(steps=0). Names say what deviates from most runs of the same method.",
        *how_graded(rows, runs),
        *called_otherwise(runs),
    )  # fmt: skip


def how_graded(rows: Sequence[Row], runs: Sequence[Run]) -> Iterator[str]:
    """Say what lm-eval scored where that is not all, and by which of a task's filters."""
    if any(row["graded"] < row["repeats"] for row in rows):
        yield (
            "Graded: how many of the answers to a problem lm-eval scored. Accuracy and pass@ are "
            "of these, 0 of a response that its filter chose among them. A filter that ends in "
            "take_first_k keeps all."
        )
    for task, names in {run.task: run.filters for run in runs if len(run.filters) > 1}.items():
        yield (
            f"Filters: {task} has {', '.join(names)}. Scores are of {names[0]}; --metric "
            f"exact_match,{names[1]} takes another."
        )


def called_otherwise(runs: Sequence[Run], most: int = 8) -> list[str]:
    """Say which folders the first runs are of: the table after `run` calls a run by its folder."""
    told = {
        f"{run.name} is {', '.join(dict.fromkeys(folder.name for folder in run.folders))}": None
        for run in runs
        if run.folders
    }
    more = f"; and {len(told) - most} more" if len(told) > most else ""
    return [f"Run folders: {'; '.join([*told][:most])}{more}."] if told else []


def _answers(row: Row) -> str:
    several = f" × {row['repeats']}" if row["repeats"] > 1 else ""
    some = f", {row['graded']} graded" if row["graded"] < row["repeats"] else ""
    return f"{row['problems']:,}{several}{some}"


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
    shown = [name for name in FAILURES if any(row[name] is not None for row in rows)]
    columns = [
        Column("Answers", "answers", count),
        Column("Truncated", "truncated", percent),
        Column("95 % CI", "truncated_ci95", percent_range),
        *(Column(name.replace("_", " ").capitalize(), name, percent) for name in shown),
    ]
    note = (
        "Truncated: cut off by the length limit. No answer: no final answer was found in the "
        "response. Grader timeout and error: it was counted as wrong. Only what the task reports."
    )
    return run_table("failures", "Answers that failed", rows, columns, note)


# --- compare: two runs on the same problems ---


def compare_report(a: Sequence[Run], b: Sequence[Run]) -> Report:
    """Report a minus b for each task that both have. Raises `DataError` where they share none.

    Each side must hold one run per task.
    """
    pairs = [_told_apart(x, y) for x in a for y in b if x.task == y.task]
    for side, runs in (("The first", a), ("The second", b)):
        if len({run.task for run in runs}) < len(runs):
            names = ", ".join(run.name for run in runs[:5])
            raise DataError(
                f"{side} folder holds several runs of a task ({names}). Give the folder of one."
            )
    if not pairs:
        raise DataError("The two have no task in common. Give runs of the same task.")
    rows = holm_corrected([accuracy_difference(x, y) for x, y in pairs])
    for x, y in pairs:
        if len(x.candidates) and len(y.candidates):
            rows += rejection_differences(x, y)
    tables = [
        difference_table("differences", "Differences", rows),
        saving_table([saving_row(x, "compare", y) for x, y in pairs]),
        _apart_table([row for x, y in pairs for row in _apart_rows(x, y)], *pairs[0]),
    ]
    title = f"{pairs[0][0].name} against {pairs[0][1].name}"
    return Report("compare", title, tables, worded(rows))


def _told_apart(a: Run, b: Run) -> tuple[Run, Run]:
    """Give the two runs different names, where one configuration ran twice: seeds, or folders."""
    if a.name != b.name:
        return a, b
    told = [", ".join(map(str, run.seeds)) for run in (a, b)]
    words = [
        f"seed{'s' * (len(run.seeds) > 1)} {own}" for run, own in zip((a, b), told, strict=True)
    ]
    if told[0] == told[1] or not all(told):
        words = [str(run.folders[0]) if run.folders else "" for run in (a, b)]
        if all(words) and words[0] != words[1]:
            shared = os.path.commonpath(words)
            words = [os.path.relpath(own, shared) for own in words]
    return replace(a, name=f"{a.name} ({words[0]})"), replace(b, name=f"{b.name} ({words[1]})")


def _apart_rows(a: Run, b: Run) -> list[Row]:
    """Return the problems on which one of two runs scored higher, with the first answer of each."""
    ours, theirs = (run.answers.drop_duplicates("problem").set_index("problem") for run in (a, b))
    right, other = means(a.scores), means(b.scores)
    return [
        {
            "problem": problem, "task": a.task, "prompt": ours["prompt"][problem],
            "score_a": score, "score_b": other[problem],
            "answer_a": ours["text"][problem], "answer_b": theirs["text"][problem],
        }
        for problem, score in right.items()
        if score != other[problem]
    ]  # fmt: skip


def _apart_table(rows: Sequence[Row], a: Run, b: Run) -> Table:
    def end(header: str, key: str, most: int = 60) -> Column:
        return text(header, lambda r: r[key] if len(r[key]) <= most else f"… {r[key][-most:]}")

    columns = [
        *task_column(rows),
        end("Problem", "prompt"),
        Column("A", "score_a", number, 2),
        Column("B", "score_b", number, 2),
        end("Answer of A", "answer_a"),
        end("Answer of B", "answer_b"),
    ]
    note = f"A: {a.name}. B: {b.name}. In the order of the problems; long texts by their ends."
    return Table("apart", "Problems on which they differ", columns, rows, (note,), most=10)


# --- ablation: one option changed at a time, each run beside its own twin ---


def ablation_report(runs: Sequence[Run], base: str | None = None) -> Report:
    """Report changes against the run named `base` of each task, or the one with most neighbours.

    Raises `DataError` where no task has two runs that differ in one option.
    """
    rows: list[Row] = []
    bases: list[str] = []
    for task in dict.fromkeys(run.task for run in runs):
        ours = [run for run in runs if run.task == task]
        try:
            start = base_of(ours) if base is None else named(base, ours)
        except DataError:
            if task == runs[-1].task and not bases:
                raise
            continue
        bases.append(f"{task}: {start.name}")
        changes = [_change_row(start, run, ours) for run in _siblings(start, ours)]
        rows += sorted(changes, key=lambda row: (len(row["changed"]), list(row["changed"])))
    return Report("ablation", "Ablations", [_ablation_table(holm_corrected(rows), bases)])


def changed_options(base: Run, run: Run) -> dict[str, tuple[Any, Any]]:
    """Return the options of `run` that differ from the base's, with both values."""
    values = {name: (base.config.get(name), run.config.get(name)) for name in base.config}
    values |= {name: (None, value) for name, value in run.config.items() if name not in values}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def base_of(runs: Sequence[Run]) -> Run:
    """Return the run from which most others differ in a single option; the first of several such.

    Raises `DataError` where no two runs of one method, task and pair of models differ in one.
    """
    counts = [
        sum(len(changed_options(run, other)) == 1 for other in _siblings(run, runs)) for run in runs
    ]
    if not counts or max(counts) == 0:
        raise DataError(
            "No two runs differ in a single option, so there is nothing to ablate. Give runs of "
            "one method with one option changed at a time, or --base."
        )
    return runs[counts.index(max(counts))]


def named(name: str, runs: Sequence[Run]) -> Run:
    """Return the run of that name, or of that folder. Raises `DataError` for none."""
    for run in runs:
        if name == run.name or name in [folder.name for folder in run.folders]:
            return run
    raise DataError(f"There is no run {name!r}. {suggest(name, [run.name for run in runs])}")


def _siblings(run: Run, runs: Iterable[Run]) -> list[Run]:
    return [o for o in runs if o is not run and o.method == run.method and alike(o, run)]


def _change_row(base: Run, run: Run, runs: Sequence[Run]) -> Row:
    """Return one changed run minus the base (accuracy, calls), and minus its own twin."""
    found, twin = difference(run.scores, base.scores), twin_of(run, runs)
    over = None if twin is None else difference(run.scores, twin.scores)
    calls, rejected = cost_difference(run, base), rate(run.candidates)
    return {
        "run": run.name,
        "task": base.task,
        "base": base.name,
        "changed": changed_options(base, run),  # option -> (the base's value, this run's)
        "accuracy": accuracy(run.scores).value,
        **with_interval("difference", found.estimate, "ci95"),
        "p": found.p,
        "p_holm": None,
        **with_interval("calls", calls),
        "rejection": rejected.estimate.value if rejected.judged else None,
        "twin": None if twin is None else twin.name,
        "over_twin": None if over is None else over.estimate.value,
        "over_twin_ci95": None if over is None else over.estimate.interval,
        "over_twin_p": None if over is None else over.p,
    }


def _ablation_table(rows: Sequence[Row], bases: Sequence[str]) -> Table:
    columns = [
        text("Changed", _changes),
        Column("Accuracy", "accuracy", percent),
        POINTS,
        POINTS_INTERVAL,
        P_VALUE,
        Column("Calls", "calls", "{:+,.1f}".format),
        Column("Rejected", "rejection", percent),
        Column("Over twin", _over_twin, str),
    ]
    notes = [
        f"Base: {'; '.join(bases)}. Points and calls: minus the base. Over twin: points of "
        "accuracy above the run's own zeroth-order twin, with the interval.",
        HOLM,
    ]
    return Table("changes", "One change at a time", columns, rows, notes)


def _changes(row: Row) -> str:
    changed = row["changed"].items()
    return ", ".join(f"{name} {option_text(a)} → {option_text(b)}" for name, (a, b) in changed)


def _over_twin(row: Row) -> str:
    if row["over_twin"] is None:
        return MISSING
    return f"{points(row['over_twin'])} ({points_range(row['over_twin_ci95'])})"

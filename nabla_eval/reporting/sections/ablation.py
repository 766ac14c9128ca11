"""`report ablation`: what each switch contributes, each changed run beside its own twin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nabla_eval.analysis.accuracy import accuracy, difference
from nabla_eval.analysis.controls import alike, twin_of
from nabla_eval.analysis.cost import mean_costs
from nabla_eval.analysis.intervals import paired
from nabla_eval.analysis.rejection import rejection, verdicts
from nabla_eval.analysis.runs import Run, option_text
from nabla_eval.errors import DataError, suggest
from nabla_eval.reporting.rows import HOLM, holm_corrected
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import MISSING, p_value, percent, points, points_range


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
    return Report("ablation", "Ablations", [ablation_table(holm_corrected(rows), bases)])


def changed_options(base: Run, run: Run) -> dict[str, tuple[Any, Any]]:
    """Return the options of `run` that differ from the base's, with both values."""
    names = [*base.config, *(name for name in run.config if name not in base.config)]
    values = {name: (base.config.get(name), run.config.get(name)) for name in names}
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
    calls, rate = paired(mean_costs(run), mean_costs(base)), rejection(verdicts(run)).overall
    return {
        "run": run.name,
        "task": base.task,
        "base": base.name,
        "changed": changed_options(base, run),  # option -> (the base's value, this run's)
        "accuracy": accuracy(run.scores).value,
        "difference": found.estimate.value,
        "ci95": found.estimate.interval,
        "p": found.p,
        "p_holm": None,
        "calls": calls.value,
        "calls_ci95": calls.interval,
        "rejection": rate.estimate.value if rate.judged else None,
        "twin": None if twin is None else twin.name,
        "over_twin": None if over is None else over.estimate.value,
        "over_twin_ci95": None if over is None else over.estimate.interval,
        "over_twin_p": None if over is None else over.p,
    }


def ablation_table(rows: Sequence[Row], bases: Sequence[str]) -> Table:
    """Tabulate changes, fewest options first."""
    columns = [
        text("Changed", _changes),
        Column("Accuracy", "accuracy", percent),
        Column("Points", "difference", points),
        Column("95 % CI", "ci95", points_range),
        Column("p", "p_holm", p_value),
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
    shown = [
        f"{name} {option_text(a)} → {option_text(b)}" for name, (a, b) in row["changed"].items()
    ]
    if len(shown) > 4:
        shown = [*shown[:3], f"and {len(shown) - 3} more"]
    return ", ".join(shown)


def _over_twin(row: Row) -> str:
    if row["over_twin"] is None:
        return MISSING
    return f"{points(row['over_twin'])} ({points_range(row['over_twin_ci95'])})"

"""`report ablation`: what each switch contributes, each changed run beside its own twin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from nabla_eval.analysis.ablation import Change, ablations, base_of, named
from nabla_eval.analysis.naming import word
from nabla_eval.analysis.rejection import rejection, verdicts
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.significance import holm
from nabla_eval.errors import DataError
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.sections.columns import HOLM
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import MISSING, p_value, percent, points, points_range

Range = tuple[float, float]


@dataclass(frozen=True)
class AblationRow:
    """One changed run: against the base, and against its own twin."""

    run: str
    task: str
    base: str
    changed: dict[str, tuple[Any, Any]]  # option -> (the base's value, this run's)
    accuracy: float
    difference: float  # in accuracy, this run minus the base
    ci95: Range
    p: float
    p_holm: float
    calls: float  # model calls, this run minus the base's
    calls_ci95: Range
    rejection: float | None
    twin: str | None
    over_twin: float | None  # in accuracy, this run minus its twin
    over_twin_ci95: Range | None
    over_twin_p: float | None

    @classmethod
    def of(cls, base: Run, change: Change) -> AblationRow:
        """The row of a change."""
        rate = rejection(verdicts(change.run.records)).overall
        over = change.over_twin
        found = change.accuracy
        return cls(
            run=change.run.name,
            task=base.task,
            base=base.name,
            changed=change.changed,
            accuracy=change.value,
            difference=found.estimate.value,
            ci95=found.estimate.interval,
            p=found.p,
            p_holm=found.p,
            calls=change.cost.value,
            calls_ci95=change.cost.interval,
            rejection=rate.estimate.value if rate.judged else None,
            twin=None if change.twin is None else change.twin.name,
            over_twin=None if over is None else over.estimate.value,
            over_twin_ci95=None if over is None else over.estimate.interval,
            over_twin_p=None if over is None else over.p,
        )


def ablation_report(runs: Sequence[Run], base: str | None = None) -> Report:
    """One table per task, against the run named `base` or the one with most neighbours.

    Raises `DataError` where no task has two runs that differ in one option.
    """
    rows: list[AblationRow] = []
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
        rows += [AblationRow.of(start, change) for change in ablations(start, ours)]
    adjusted = holm([row.p for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, adjusted, strict=True)]
    return Report("ablation", "Ablations", [ablation_table(rows, bases)])


def ablation_table(rows: Sequence[AblationRow], bases: Sequence[str]) -> Table[AblationRow]:
    """Changes, fewest options first."""
    columns = [
        Column[AblationRow]("Changed", _changes, "left"),
        Column[AblationRow]("Accuracy", lambda row: percent(row.accuracy)),
        Column[AblationRow]("Points", lambda row: points(row.difference)),
        Column[AblationRow]("95 % CI", lambda row: points_range(row.ci95)),
        Column[AblationRow]("p", lambda row: p_value(row.p_holm)),
        Column[AblationRow]("Calls", lambda row: f"{row.calls:+,.1f}"),
        Column[AblationRow]("Rejected", lambda row: percent(row.rejection)),
        Column[AblationRow]("Over twin", _over_twin),
    ]
    notes = [
        f"Base: {'; '.join(bases)}. Points and calls: minus the base. Over twin: points of "
        "accuracy above the run's own zeroth-order twin, with the interval.",
        HOLM,
    ]
    return Table("changes", "One change at a time", columns, rows, notes)


def _changes(row: AblationRow) -> str:
    shown = [f"{name} {word(a)} → {word(b)}" for name, (a, b) in row.changed.items()]
    if len(shown) > 4:
        shown = [*shown[:3], f"and {len(shown) - 3} more"]
    return ", ".join(shown)


def _over_twin(row: AblationRow) -> str:
    if row.over_twin is None or row.over_twin_ci95 is None:
        return MISSING
    return f"{points(row.over_twin)} ({points_range(row.over_twin_ci95)})"

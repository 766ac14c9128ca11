"""What each switch contributes: runs that differ from a base run in few options."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.analysis.accuracy import Difference, accuracy, difference
from nabla_eval.analysis.cost import by_problem
from nabla_eval.analysis.intervals import LEVEL, Estimate, paired
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.twins import alike, twin_of
from nabla_eval.errors import DataError, suggest


@dataclass(frozen=True)
class Change:
    """One run against the base, and against its own twin."""

    run: Run
    value: float  # accuracy of the run
    changed: dict[str, tuple[Any, Any]]  # option -> (value of the base, value here)
    accuracy: Difference  # this run minus the base
    cost: Estimate  # model calls of this run minus the base's, by problem
    twin: Run | None
    over_twin: Difference | None  # this run minus its twin


def changed_options(base: Run, run: Run) -> dict[str, tuple[Any, Any]]:
    """Options of `run` that differ from the base's, with both values."""
    names = [*base.config, *(name for name in run.config if name not in base.config)]
    values = {name: (base.config.get(name), run.config.get(name)) for name in names}
    return {name: pair for name, pair in values.items() if pair[0] != pair[1]}


def base_of(runs: Sequence[Run]) -> Run:
    """The run from which most others differ in a single option; the first of several such.

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
    """The run of that name, or of that folder. Raises `DataError` for none."""
    for run in runs:
        if name == run.name or name in [folder.name for folder in run.folders]:
            return run
    raise DataError(f"There is no run {name!r}. {suggest(name, [run.name for run in runs])}")


def _siblings(run: Run, runs: Iterable[Run]) -> list[Run]:
    return [o for o in runs if o is not run and o.method == run.method and alike(o, run)]


def ablations(base: Run, runs: Sequence[Run], level: float = LEVEL) -> list[Change]:
    """Every other run of the base's method, task and models, fewest changes first."""
    found = []
    for run in _siblings(base, runs):
        twin = twin_of(run, runs)
        found.append(
            Change(
                run=run,
                value=accuracy(run.scores).value,
                changed=changed_options(base, run),
                accuracy=difference(run.scores, base.scores, level),
                cost=paired(calls(run), calls(base), level),
                twin=twin,
                over_twin=None if twin is None else difference(run.scores, twin.scores, level),
            )
        )
    return sorted(found, key=lambda change: (len(change.changed), list(change.changed)))


def calls(run: Run) -> dict[str, float]:
    """Mean model calls of each problem."""
    spent = by_problem(run.records, "model_calls")
    return {problem: sum(values) / len(values) for problem, values in spent.items()}

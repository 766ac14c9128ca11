"""A run of the checks: the rows of the first seed, and how they varied over the others."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from nabla_theory import claims
from nabla_theory.checks import Check, Context


@dataclass(frozen=True)
class Repeat:
    """One row over all seeds."""

    name: str
    held: int  # seeds for which the row passed
    seeds: int
    lowest: float  # of what was measured
    highest: float


@dataclass(frozen=True)
class Result:
    """A run: the rows of the first seed, and how the rows that depend on it varied."""

    context: Context
    rows: list[Check]
    seconds: dict[str, float]  # by claim, first seed
    repeats: list[Repeat]  # rows whose measured value differs between seeds

    @property
    def passed(self) -> bool:
        """Return whether every row passed for every seed."""
        every = all(row.passed for row in self.rows)
        return every and all(repeat.held == repeat.seeds for repeat in self.repeats)

    @property
    def chance(self) -> float:
        """A bound on the probability that a sound package fails this run."""
        seeds = self.repeats[0].seeds if self.repeats else 1
        return sum(row.chance for row in self.rows) * seeds


def collect(names: Sequence[str], context: Context, seeds: int = 1) -> Result:
    """Run claims, then those that draw again for the seeds after the first."""
    rows: list[Check] = []
    seconds, again = {}, [name for name in names if name not in claims.SEEDLESS]
    found: dict[str, list[Check]] = {}
    with _progress() as progress:
        bar = progress.add_task("checks", total=len(names) + (seeds - 1) * len(again))
        for name, new, took in claims.run(names, context):
            rows += new
            seconds[name] = took
            progress.update(bar, advance=1, description=name)
        for offset in range(1, seeds):
            other = replace(context, seed=context.seed + offset)
            for name, new, _ in claims.run(again, other) if again else ():
                for row in new:
                    found.setdefault(row.name, []).append(row)
                progress.update(bar, advance=1, description=f"seed {other.seed}: {name}")
    repeats = [_repeat([row, *found[row.name]]) for row in rows if row.name in found]
    varied = [r for r in repeats if r.lowest != r.highest or r.held < r.seeds]
    return Result(context, rows, seconds, varied)


def only(result: Result, names: Sequence[str]) -> Result:
    """The rows that were asked for, by their own names or by that of their claim."""
    there = {row.name for row in result.rows}
    for name in names:
        if "/" in name and name not in there:
            claim = name.partition("/")[0]
            rows = ", ".join(row.name for row in result.rows if row.name.startswith(f"{claim}/"))
            raise ValueError(f"There is no check {name!r}. {claim} has: {rows}.")
    asked = {name for name in there if not {name, name.partition("/")[0]}.isdisjoint(names)}
    kept = asked if names else there
    return replace(
        result,
        rows=[row for row in result.rows if row.name in kept],
        repeats=[repeat for repeat in result.repeats if repeat.name in kept],
    )


def _repeat(rows: Sequence[Check]) -> Repeat:
    values = [row.measured for row in rows]
    held = sum(row.passed for row in rows)
    return Repeat(rows[0].name, held, len(rows), min(values), max(values))


def versions() -> dict[str, str]:
    """Python and the libraries that the numbers may depend on."""
    names = ("torch", "numpy", "scipy", "sympy", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def summary(result: Result) -> dict[str, Any]:
    """The run as plain values."""
    rows = result.rows
    return {
        "seed": result.context.seed,
        "device": result.context.device,
        "versions": versions(),
        "seconds": round(sum(result.seconds.values()), 2),
        "passed": sum(row.passed for row in rows),
        "failed": [row.name for row in rows if not row.passed],
        "chance": result.chance,
        "seconds_by_claim": {name: round(took, 2) for name, took in result.seconds.items()},
        "checks": [row.as_json() for row in rows],
        "repeats": [asdict(repeat) for repeat in result.repeats],
    }


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        redirect_stdout=False,  # nothing else prints meanwhile
        redirect_stderr=False,
        transient=True,
    )

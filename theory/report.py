"""Run checks and show them: a rich table, or JSON."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from theory import checks
from theory.checks import Check, Context

WIDE = 140  # characters of a screen on which the whole table reads well


def versions() -> dict[str, str]:
    """Python and the libraries that the numbers may depend on."""
    names = ("torch", "numpy", "scipy", "sympy", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def execute(
    names: Sequence[str],
    *,
    seed: int = 0,
    seeds: int = 1,
    device: str = "cpu",
    plot: Path | None = None,
    report: Path | None = None,
    as_json: bool = False,
) -> int:
    """Run the named claims or rows (all for none), print them, return 0 iff every row passed.

    Claims that draw are repeated with `seeds` seeds in all. `plot` is a folder for the figures,
    `report` one for README.md, checks.json and the figures. Progress goes to stderr, results to
    stdout. Raises ValueError for an unknown claim, row or device.
    """
    check_device(device)
    # A name that was copied from a narrow table has line breaks and spaces in it.
    names = ["".join(name.split()) for name in names]
    result = _only(collect(checks.select(names), Context(seed, device), seeds), names)
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    for folder in (plot, report):
        if folder is not None:
            from theory import figures

            for path in figures.draw_all(folder, result.context):
                notes.print(f"wrote {path}")
    if report is not None:
        from theory import document

        for path in document.write(report, result, names):
            notes.print(f"wrote {path}")
    if as_json:
        sys.stdout.write(json.dumps(summary(result), indent=1) + "\n")
    else:
        show(console, result)
    return 0 if result.passed else 1


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
        """Whether every row passed for every seed."""
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
    seconds, again = {}, [name for name in names if name not in checks.SEEDLESS]
    found: dict[str, list[Check]] = {}
    with _progress() as progress:
        bar = progress.add_task("checks", total=len(names) + (seeds - 1) * len(again))
        for name, new, took in checks.run(names, context):
            rows += new
            seconds[name] = took
            progress.update(bar, advance=1, description=name)
        for offset in range(1, seeds):
            other = replace(context, seed=context.seed + offset)
            for name, new, _ in checks.run(again, other) if again else ():
                for row in new:
                    found.setdefault(row.name, []).append(row)
                progress.update(bar, advance=1, description=f"seed {other.seed}: {name}")
    repeats = [_repeat([row, *found[row.name]]) for row in rows if row.name in found]
    varied = [r for r in repeats if r.lowest != r.highest or r.held < r.seeds]
    return Result(context, rows, seconds, varied)


def _only(result: Result, names: Sequence[str]) -> Result:
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


def check_device(device: str) -> None:
    """Raise ValueError when torch cannot compute on `device`; one thread from here on."""
    import torch

    torch.set_num_threads(1)  # the tensors are small: more threads wait for each other
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {device!r} cannot be used ({reason}). Try cpu.") from error


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


def show(console: Console, result: Result) -> None:
    """Print the table and one line that says how it went."""
    rows, context = result.rows, result.context
    console.print(table(rows, console.width))
    failed = [row.name for row in rows if not row.passed]
    line = f"{len(rows) - len(failed)} of {len(rows)} checks hold (seed {context.seed}, "
    line += f"{context.device}, {sum(result.seconds.values()):.0f} s)."
    console.print(line, style="green" if not failed else "bold red")
    if result.repeats:
        seeds = result.repeats[0].seeds
        lost = [f"{r.name} ({r.seeds - r.held})" for r in result.repeats if r.held < r.seeds]
        verdict = f"failed for some: {', '.join(lost)}" if lost else "held for every one"
        line = f"{len(result.repeats)} checks vary over {seeds} seeds and {verdict}"
        line += f" (by chance one fails with p ≤ {result.chance:.1g})."
        console.print(line, style="red" if lost else "green", soft_wrap=True, markup=False)
    if failed:
        # Without line breaks of ours: these are copied.
        console.print("Failed: " + ", ".join(failed), style="red", soft_wrap=True, markup=False)
        again = " ".join(
            f"--check {name}" for name in dict.fromkeys(f.split("/")[0] for f in failed)
        )
        line = f"Again, alone: python -m theory {again} --seed {context.seed}"
        console.print(line, soft_wrap=True, markup=False)


def table(rows: Sequence[Check], width: int = WIDE) -> Table:
    """All rows: name, statement, expected, measured, tolerance with its reason, what the row
    rejects, verdict.

    On screens narrower than `WIDE` characters the statement stands below the row's name; why the
    tolerance is what it is, and what the row rejects, stay in the JSON and in the report.
    """
    wide = width >= WIDE
    result = Table(show_lines=True, title="∇-Reasoner's mathematics, checked")
    result.add_column("check", overflow="fold", ratio=3)
    if wide:
        result.add_column("statement", overflow="fold", ratio=6)
    for title in ("expected", "measured", "tolerance"):
        result.add_column(title, justify="right", no_wrap=True)
    if wide:
        result.add_column("why this tolerance", overflow="fold", ratio=4)
        result.add_column("rejects", overflow="fold", ratio=3)
    result.add_column("", no_wrap=True)
    for row in rows:
        name = Text(row.name, "" if wide else "bold")
        verdict = Text("pass", "green") if row.passed else Text("FAIL", "bold red")
        figures = (
            f"{row.sense.value} {row.expected:.6g}",
            f"{row.measured:.6g}",
            f"{row.tolerance:.2g}",
        )
        if wide:
            result.add_row(
                name, Text(row.statement), *figures, Text(row.why), Text(row.rejects), verdict
            )
        else:
            result.add_row(Text.assemble(name, "\n", row.statement), *figures, verdict)
    return result


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

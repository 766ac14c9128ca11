"""Run checks and show them: a rich table, or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from nabla_theory import claims
from nabla_theory.checks import Check, Context
from nabla_theory.results import Result, collect, only, summary

WIDE = 140  # characters of a screen on which the whole table reads well


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
    result = only(collect(claims.select(names), Context(seed, device), seeds), names)
    console, notes = Console(highlight=False), Console(stderr=True, highlight=False)
    for folder in (plot, report):
        if folder is not None:
            from nabla_theory import figures

            for path in figures.draw_all(folder, result.context):
                notes.print(f"wrote {path}")
    if report is not None:
        from nabla_theory import document

        for path in document.write(report, result, names):
            notes.print(f"wrote {path}")
    if as_json:
        sys.stdout.write(json.dumps(summary(result), indent=1) + "\n")
    else:
        show(console, result)
    return 0 if result.passed else 1


def check_device(device: str) -> None:
    """Raise ValueError when torch cannot compute on `device`; one thread from here on."""
    import torch

    torch.set_num_threads(1)  # the tensors are small: more threads wait for each other
    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {device!r} cannot be used ({reason}). Try cpu.") from error


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
        line = f"Again, alone: python -m nabla_theory {again} --seed {context.seed}"
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

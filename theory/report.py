"""Run checks and show them: a rich table, or JSON."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from theory import checks
from theory.checks import Check, Context


def versions() -> dict[str, str]:
    """Python and the libraries that the numbers may depend on."""
    names = ("torch", "numpy", "scipy", "sympy", "matplotlib")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def execute(
    names: Sequence[str],
    *,
    seed: int = 0,
    device: str = "cpu",
    plot: Path | None = None,
    as_json: bool = False,
) -> int:
    """Run the named claims (all for none), print them, and return 0 iff every row passed.

    Progress goes to stderr, results to stdout; `plot` is a folder for the figures. Raises
    ValueError for an unknown claim or device.
    """
    check_device(device)
    context = Context(seed, device)
    console = Console(highlight=False)
    rows, seconds, began = [], {}, time.perf_counter()
    with _progress() as progress:
        bar = progress.add_task("checks", total=len(checks.select(names)))
        for name, found, took in checks.run(names, context):
            rows += found
            seconds[name] = took
            progress.update(bar, advance=1, description=name)
    if plot is not None:
        from theory import figures

        for path in figures.draw_all(plot, context):
            Console(stderr=True).print(f"wrote {path}")
    total = time.perf_counter() - began
    if as_json:
        sys.stdout.write(json.dumps(summary(rows, context, seconds, total), indent=1) + "\n")
    else:
        show(console, rows, context, total)
    return 0 if all(row.passed for row in rows) else 1


def check_device(device: str) -> None:
    """Raise ValueError when torch cannot compute on `device`."""
    import torch

    try:
        torch.zeros(1, dtype=torch.float64, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"The device {device!r} cannot be used ({reason}). Try cpu.") from error


def summary(
    rows: Sequence[Check], context: Context, seconds: dict[str, float], total: float
) -> dict[str, Any]:
    """The run as plain values."""
    return {
        "seed": context.seed,
        "device": context.device,
        "versions": versions(),
        "seconds": round(total, 2),
        "passed": sum(row.passed for row in rows),
        "failed": [row.name for row in rows if not row.passed],
        "seconds_by_claim": {name: round(took, 2) for name, took in seconds.items()},
        "checks": [row.as_json() for row in rows],
    }


def show(console: Console, rows: Sequence[Check], context: Context, total: float) -> None:
    """Print the table and one line that says how it went."""
    console.print(table(rows))
    failed = [row.name for row in rows if not row.passed]
    line = f"{len(rows) - len(failed)} of {len(rows)} checks hold"
    line += f" (seed {context.seed}, {context.device}, {total:.0f} s)."
    console.print(line, style="green" if not failed else "bold red")
    if failed:
        console.print("Failed: " + ", ".join(failed), style="red")
        again = " ".join(
            f"--check {name}" for name in dict.fromkeys(f.split("/")[0] for f in failed)
        )
        console.print(f"Again, alone: python -m theory {again} --seed {context.seed}")


def table(rows: Sequence[Check]) -> Table:
    """All rows: name, statement, expected, measured, tolerance with its reason, verdict."""
    result = Table(show_lines=True, title="∇-Reasoner's mathematics, checked")
    result.add_column("check", overflow="fold", ratio=3)
    result.add_column("statement", overflow="fold", ratio=6)
    for title in ("expected", "measured", "tolerance"):
        result.add_column(title, justify="right", no_wrap=True)
    result.add_column("why this tolerance", overflow="fold", ratio=4)
    result.add_column("", no_wrap=True)
    for row in rows:
        verdict = Text("pass", "green") if row.passed else Text("FAIL", "bold red")
        result.add_row(
            Text(row.name.replace("/", "/\u200b")),
            Text(row.statement),
            f"{row.sense.value} {row.expected:.6g}",
            f"{row.measured:.6g}",
            f"{row.tolerance:.2g}",
            Text(row.why),
            verdict,
        )
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
        transient=True,
    )

"""`nabla-eval sweep`: a grid of methods and options into one study folder."""

from __future__ import annotations

import os
import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nabla_eval.errors import NablaError
from nabla_eval.signals import stoppable

if TYPE_CHECKING:
    from nabla_eval.cli.screen import Screen
    from nabla_eval.reporting.overview import Measured
    from nabla_eval.runs.sweep import Sweep
    from nabla_eval.runs.sweep_file import SweepFile


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The study folder.  [default: below results/, named as the study]",
)
@click.option("--dry-run", is_flag=True, help="List the cells and what is done; run nothing.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Cells at once, each in a process of one torch thread.",
)
@click.option("--replace", is_flag=True, help="Run cells anew whose options have changed.")
@click.pass_context
def sweep(
    ctx: click.Context, file: Path, output: Path | None, dry_run: bool, jobs: int, replace: bool
) -> None:
    """Evaluate every combination that FILE asks for, each in a run folder of its own.

    What is done is skipped and what was stopped is continued, so the same command goes on after
    Ctrl-C. A cell that fails is listed at the end (exit code 1) and holds up no other. Models and
    tasks are loaded once per process.

    \b
    FILE is YAML:
      tasks: nabla_countdown          one or several
      seeds: [0, 1]
      limit: 500                      and batch_size, device, num_fewshot, ...
      grid: {n: [4, 8]}               model arguments; lists multiply
      variants:                       each a name and its own model arguments
        - {name: nabla, method: nabla}
        - {name: twin, method: nabla, steps: 0}
        - {name: best-of-n, method: best_of_n}

    Example: nabla-eval sweep study.yaml --output results/study --jobs 2
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # on few cores, waiting threads must yield
    from nabla_eval.cli.screen import Screen
    from nabla_eval.cli.sweep_progress import SweepProgress
    from nabla_eval.runs.sweep import Sweep
    from nabla_eval.runs.sweep_file import read_sweep

    read = read_sweep(file)
    folder = output or Path("results", read.name)
    console = Screen()
    if dry_run:
        list_cells(console, read, folder)
        return
    words = ["nabla-eval", "sweep", str(file), *(["--output", str(output)] if output else [])]
    work = Sweep(read, folder, shlex.join(words), replace=replace)
    progress = SweepProgress(console)
    progress.watch(work)
    with stoppable(lambda: f"{work.kept()}; the same command continues from there."):
        with progress.show():
            failed = work.run(jobs)
        sum_up(console, work, progress.results)
    ctx.exit(1 if failed else 0)


def list_cells(console: Screen, read: SweepFile, folder: Path) -> None:
    """Print every cell with what its folder holds; touches nothing."""
    from rich.text import Text

    from nabla_eval.runs.folder import inspect

    counts: dict[str, int] = defaultdict(int)
    for cell in read.cells:
        state, note = "other", ""
        try:
            state = str(inspect(folder / cell.folder, cell.evaluation.manifest("", "")).state)
        except NablaError as error:
            note = f"  {error}"
        counts[state] += 1
        console.print(Text(f"{state:<11}{cell.folder}{note}"), soft_wrap=True)
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(Text(f"\n{len(read.cells)} cells: {parts}. Nothing was run.", style="bold"))


def sum_up(console: Screen, sweep: Sweep, results: Mapping[str, Sequence[Measured]]) -> None:
    """Print one line per configuration and task, what failed, and where everything is."""
    from rich.text import Text

    from nabla_eval.reporting.overview import combine, overview_table
    from nabla_eval.reporting.tables import fitting, to_rich
    from nabla_eval.reporting.text import bullet

    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for state in sweep.cells:
        for part in results.get(state.cell.folder, ()):
            groups[state.cell.name, part.task].append(part)
    rows = [combine(name, parts) for (name, _), parts in groups.items()]
    for table in fitting(overview_table(rows, sweep.file.name), console.width) if rows else ():
        console.print()
        console.print(to_rich(table))
    if sweep.failed:
        console.print(Text("\nFailed", style="bold red"))
    for state in sweep.failed:
        told = bullet(f"{state.cell.folder}: {state.error}", console.width)
        console.print(Text(told), soft_wrap=True)
    ended, seconds = len(sweep.cells) - len(sweep.failed), time.monotonic() - sweep.began
    text = f"\n{ended} of {len(sweep.cells)} cells are done; {seconds:.0f} s. Everything is in "
    console.print(Text(f"{text}{sweep.folder}:", style="bold"), soft_wrap=True)
    console.print(
        Text(
            "  study.json       the file of the sweep, versions, the state of each cell\n"
            "  CELL/            run.json, lm-eval's results and samples, traces\n"
            "  log*.txt         what lm-eval and its libraries printed"
        )
    )

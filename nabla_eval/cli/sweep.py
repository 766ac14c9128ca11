"""`nabla-eval sweep`: a grid of methods and options into one study folder."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nabla_eval.cli.options import COUNT, FOLDER, option
from nabla_eval.cli.screen import Screen
from nabla_eval.cli.sweep_plan import estimate_cells, list_cells, write_array
from nabla_eval.cli.sweep_progress import SweepProgress
from nabla_eval.signals import stoppable

if TYPE_CHECKING:
    from nabla_eval.reporting.overview import Measured
    from nabla_eval.runs.sweep import Sweep


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@option("--output", "The study folder.  [default: below results/, named as the study]", type=FOLDER)
@option("--dry-run", "List the cells and what is done; run nothing.", is_flag=True)
@option(
    "--estimate", "Try one problem of each configuration; say what all would take.", is_flag=True
)
@option(
    "--jobs", "Cells at once, in processes that share out the visible GPUs.", type=COUNT, default=1
)
@option(
    "--cell",
    "Only this cell, by its folder's name; may be repeated.",
    "cells",
    multiple=True,
    metavar="NAME",
)
@option(
    "--slurm",
    "Write an array of the cells that are not done, with these options of sbatch.",
    metavar="OPTIONS",
)
@option("--replace", "Run cells anew whose options have changed.", is_flag=True)
@click.pass_context
def sweep(
    ctx: click.Context,
    file: Path,
    output: Path | None,
    dry_run: bool,
    estimate: bool,
    jobs: int,
    cells: tuple[str, ...],
    slurm: str | None,
    replace: bool,
) -> None:
    """Evaluate every combination that FILE asks for, each in a run folder of its own.

    What is done is skipped and what was stopped is continued, so the same command goes on after
    Ctrl-C. A cell that fails is listed at the end (exit code 1) and holds up no other. Where the
    options of a cell have changed, nothing is run without --replace. Models and tasks are loaded
    once per process. With --jobs each process has its share of the GPUs that CUDA_VISIBLE_DEVICES
    names, or of all.

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

    \b
    Example:
      nabla-eval sweep study.yaml --estimate
      nabla-eval sweep study.yaml --output results/study --jobs 2
      nabla-eval sweep study.yaml --slurm "--gpus=1 --time=04:00:00"
    """
    from nabla_eval.runs.evaluate import check_tasks
    from nabla_eval.runs.sweep import Sweep
    from nabla_eval.runs.sweep_file import read_sweep

    read = read_sweep(file)
    check_tasks([cell.evaluation for cell in read.cells])
    folder = output or Path("results", read.name)
    console = Screen()
    words = ["nabla-eval", "sweep", str(file), *(["--output", str(output)] if output else [])]
    if dry_run:
        list_cells(console, read, folder)
        return
    if estimate:
        with stoppable(lambda: "An estimate keeps no answers."):
            estimate_cells(console, read, folder, jobs)
        return
    if slurm is not None:
        write_array(console, read, folder, slurm)
        return
    work = Sweep(read, folder, shlex.join(words), replace=replace, only=cells)
    progress = SweepProgress(console, work.cells, folder)
    work.ended = progress.tell
    with stoppable(lambda: f"{work.kept()}; the same command continues from there."):
        with progress.show():
            failed = work.run(jobs)
        sum_up(console, work, progress.results)
    ctx.exit(1 if failed else 0)


def sum_up(console: Screen, sweep: Sweep, results: Mapping[str, Sequence[Measured]]) -> None:
    """Print one line per configuration and task, what failed, and where everything is."""
    from nabla_eval.reporting.overview import combine, overview_table
    from nabla_eval.reporting.text import bullet

    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for state in sweep.cells:
        for part in results.get(state.cell.folder, ()):
            groups[state.cell.name, part.task].append(part)
    rows = [combine(name, parts) for (name, _), parts in groups.items()]
    console.tables([overview_table(rows, sweep.file.name)] if rows else [])
    if sweep.failed:
        console.print("\nFailed", style="bold red")
    for state in sweep.failed:
        console.print(bullet(f"{state.cell.folder}: {state.error}", console.width), soft_wrap=True)
    ended, seconds = len(sweep.cells) - len(sweep.failed), time.monotonic() - sweep.began
    done = f"{ended} of {len(sweep.cells)} cells are done; {seconds:.0f} s."
    study = {"study.json": "the file of the sweep, versions, the state of each cell"}
    files = {
        **({} if sweep.only else study),
        "CELL/": "run.json, lm-eval's results and samples, traces",
        "log*.txt": "what lm-eval and its libraries printed",
    }
    console.files(f"{done} Everything is in {sweep.folder}", files)

"""`nabla-eval sweep`: a grid of methods and options into one study folder."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from nabla_eval.stopping import stoppable


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
    from nabla_eval.cli.sweeping import Sweep, list_cells
    from nabla_eval.harness.study import read_study

    study = read_study(file)
    folder = output or Path("results", study.name)
    console = Screen()
    if dry_run:
        list_cells(console, study, folder)
        return
    words = ["nabla-eval", "sweep", str(file), *(["--output", str(output)] if output else [])]
    work = Sweep(console, study, folder, shlex.join(words), replace=replace)
    with stoppable(lambda: f"{work.kept()}; the same command continues from there."):
        failed = work.run(jobs)
    ctx.exit(1 if failed else 0)

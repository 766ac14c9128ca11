"""`nabla-eval sweep`: a grid of methods and options into one study folder, and its progress."""

from __future__ import annotations

import shlex
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from nabla_eval.cli.options import COUNT, FOLDER, option
from nabla_eval.cli.screen import Screen
from nabla_eval.errors import NablaError
from nabla_eval.signals import stoppable
from nabla_eval.terminal import printable

if TYPE_CHECKING:
    from nabla_eval.reporting.overview import Measured
    from nabla_eval.runs.sweep import CellState, Sweep
    from nabla_eval.runs.sweep_file import SweepFile


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@option("--output", "The study folder.  [default: below results/, named as the study]", type=FOLDER)
@option("--dry-run", "List the cells and what is done; run nothing.", is_flag=True)
@option("--jobs", "Cells at once, each in a process of one torch thread.", type=COUNT, default=1)
@option("--replace", "Run cells anew whose options have changed.", is_flag=True)
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
    progress = SweepProgress(console, work.cells, folder)
    work.ended = progress.tell
    with stoppable(lambda: f"{work.kept()}; the same command continues from there."):
        with progress.show():
            failed = work.run(jobs)
        sum_up(console, work, progress.results)
    ctx.exit(1 if failed else 0)


def list_cells(console: Screen, read: SweepFile, folder: Path) -> None:
    """Print every cell with what its folder holds; touches nothing."""
    from nabla_eval.runs.folder import inspect

    counts: dict[str, int] = defaultdict(int)
    for cell in read.cells:
        state, note = "other", ""
        try:
            state = str(inspect(folder / cell.folder, cell.evaluation.manifest("", "")).state)
        except NablaError as error:
            note = f"  {error}"
        counts[state] += 1
        console.print(f"{state:<11}{cell.folder}{note}", soft_wrap=True)
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(f"\n{len(read.cells)} cells: {parts}. Nothing was run.", style="bold")


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
    files = {
        "study.json": "the file of the sweep, versions, the state of each cell",
        "CELL/": "run.json, lm-eval's results and samples, traces",
        "log*.txt": "what lm-eval and its libraries printed",
    }
    console.files(f"{done} Everything is in {sweep.folder}", files)


class SweepProgress:
    """The cells of a sweep: a line for each that ends; bars of those that run, on a terminal."""

    def __init__(self, console: Screen, cells: Sequence[CellState], folder: Path) -> None:
        self.console, self.cells, self.folder = console, cells, folder
        self.began = time.monotonic()
        self.results: dict[str, list[Measured]] = {}  # of each folder that is done

    @contextmanager
    def show(self) -> Iterator[None]:
        """Draw the bars four times a second while the block runs, on a terminal."""
        if not self.console.is_terminal:
            yield
            return
        with Live(
            get_renderable=self.render,
            console=self.console,
            redirect_stdout=False,  # what libraries print goes to a log already
            redirect_stderr=False,
            transient=True,
        ):
            yield

    def tell(self, state: CellState) -> None:
        """Read what a cell came to, and print it."""
        from nabla_eval.reporting.overview import combine, measure, score_text
        from nabla_eval.reporting.text import number, percent

        cell = state.cell
        if state.manifest is not None:
            seconds = state.manifest["seconds"]
            self.results[cell.folder] = measure(self.folder / cell.folder, seconds)
        if state.state == "failed":
            text = f"failed: {printable(state.error)}"
        else:
            row = combine(cell.name, self.results[cell.folder][:1])
            text = (
                f"{score_text(row)}, {number(row['model_calls'])} calls, "
                f"rejected {percent(row['rejection_rate'])}, {number(row['seconds'])} s"
            )
            text = f"kept: {text}" if state.state == "kept" else text
        ended = sum(other.ended for other in self.cells)
        title = printable(f"{cell.name}  {cell.task}  seed {cell.seed}")
        self.console.print(f"[{ended}/{len(self.cells)}] {title}: {text}", soft_wrap=True)

    def render(self) -> RenderableType:
        """Return a bar of all cells, and one for each that is at work."""
        ended = sum(state.ended for state in self.cells)
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column()
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # what is left
        bar = ProgressBar(total=len(self.cells), completed=ended, width=24)
        grid.add_row(bar, f"{ended}/{len(self.cells)}", f"cells, {minutes}:{seconds:02d}")
        for state in self.cells:
            if state.state == "running":
                cell, total = state.cell, state.total or None
                bar = ProgressBar(total=total, completed=state.done, width=24)
                title = printable(f"{cell.name}  {cell.task}  seed {cell.seed}")
                grid.add_row(bar, f"{state.done}/{total}" if total else "loading", title)
        return grid

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
from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

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
    """The cells of a sweep while it runs: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Screen, cells: Sequence[CellState], folder: Path) -> None:
        self.console, self.cells, self.folder = console, cells, folder
        self.began = time.monotonic()
        self.results: dict[str, list[Measured]] = {}  # of each folder that is done

    @contextmanager
    def show(self) -> Iterator[None]:
        """Draw the table four times a second while the block runs, in a terminal."""
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
        """Read what a cell came to, and say it in a plain line where there is no live table."""
        from nabla_eval.reporting.overview import measure

        cell = state.cell
        if state.manifest is not None:
            seconds = state.manifest["seconds"]
            self.results[cell.folder] = measure(self.folder / cell.folder, seconds)
        if self.console.is_terminal:
            return
        ended = sum(other.ended for other in self.cells)
        title = printable(f"{cell.name}  {cell.task}  seed {cell.seed}")
        if state.state == "failed":
            text = f"failed: {printable(state.error)}"
        else:
            score, calls, rejected, spent = self._figures(state)
            text = f"{score}, {calls} calls, rejected {rejected}, {spent} s"
            text = f"kept: {text}" if state.state == "kept" else text
        self.console.print(f"[{ended}/{len(self.cells)}] {title}: {text}", soft_wrap=True)

    def _figures(self, state: CellState) -> list[str]:
        """Return accuracy, calls, rejected and seconds of a finished cell; blanks before that."""
        from nabla_eval.reporting.overview import combine, score_text
        from nabla_eval.reporting.text import number, percent

        results = self.results.get(state.cell.folder)
        if not results:
            return [""] * 4
        row = combine(state.cell.name, results[:1])
        calls, rejected = number(row["model_calls"]), percent(row["rejection_rate"])
        return [score_text(row), calls, rejected, number(row["seconds"])]

    def render(self) -> RenderableType:
        """The head line and as many cells as fit: those at work, then the last that ended."""
        states = [state.state for state in self.cells]
        ended = sum(state.ended for state in self.cells)
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(f"{ended} of {len(states)} cells", style="bold"),
            ProgressBar(total=len(states), completed=ended, width=24),
            Text(f"{minutes}:{seconds:02d}"),
            Text(f"{states.count('failed')} failed", style="red") if "failed" in states else "",
        )
        return Group(head, Text(), self._table())

    def _table(self) -> Table:
        """Numbers are always whole; what the terminal leaves goes to names, tasks where there is
        more than one and room for them."""
        words = ("Seed", "", "Accuracy ± se", "Calls", "Rejected", "Seconds")
        widths = (4, 10, 14, 7, 8, 7)
        room = self.console.width - sum(widths) - 2 * len(widths)
        task = max((len(state.cell.task) for state in self.cells), default=0)
        several = len({state.cell.task for state in self.cells}) > 1 and room - task - 2 >= 16
        room = max(8, room - (task + 2 if several else 0))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("Cell", no_wrap=True)
        if several:
            table.add_column("Task", no_wrap=True)
        for heading, width in zip(words, widths, strict=True):
            table.add_column(heading, justify="right", no_wrap=True, min_width=width)
        for state in self._fitting(max(4, self.console.height - 6)):
            cell = state.cell
            table.add_row(
                _shortened(printable(cell.name), room), *([cell.task] if several else []),
                str(cell.seed), _bar(state), *map(Text, self._figures(state)),
            )  # fmt: skip
        return table

    def _fitting(self, room: int) -> list[CellState]:
        """Return the cells to show, in the order of the file."""
        if len(self.cells) <= room:
            return list(self.cells)
        rank = {"running": 0, "failed": 1, "done": 1, "kept": 2, "waiting": 3}
        urgent = sorted(self.cells, key=lambda state: (rank[state.state], -state.changed))[:room]
        chosen = {id(state) for state in urgent}
        return [state for state in self.cells if id(state) in chosen]


def _shortened(name: str, room: int, tail: int = 6) -> Text:
    """A name with its middle left out where it is too long: names often differ at their ends."""
    if cell_len(name) <= room:
        return Text(name)
    return Text(f"{set_cell_size(name, room - tail - 1)}…{name[-tail:]}")


def _bar(state: CellState) -> RenderableType:
    if state.state == "running" and state.total:
        return ProgressBar(total=state.total, completed=state.done, width=10)
    styles = {"done": "green", "kept": "dim", "failed": "bold red", "waiting": "dim"}
    return Text(state.state, style=styles.get(state.state, ""))

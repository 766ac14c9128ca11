"""The progress of a sweep: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nabla_eval.reporting.overview import Measured, combine, measure, score_text
from nabla_eval.reporting.text import number, percent, printable
from nabla_eval.runs.sweep import CellState, Sweep


class SweepProgress:
    """The cells of a sweep while it runs; `show` displays them, `tell` says what changed."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.began = time.monotonic()
        self.cells: Sequence[CellState] = ()
        self.results: dict[str, list[Measured]] = {}  # of each folder that is done

    def watch(self, sweep: Sweep) -> None:
        """Show this sweep's cells."""
        self.cells, self.folder = sweep.cells, sweep.folder
        sweep.ended = self.tell

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
        cell = state.cell
        if state.manifest is not None:
            self.results[cell.folder] = measure(
                self.folder / cell.folder, state.manifest["seconds"]
            )
        if self.console.is_terminal:
            return
        ended = sum(other.ended for other in self.cells)
        title = printable(f"{cell.name}  {cell.task}  seed {cell.seed}")
        head = f"[{ended}/{len(self.cells)}] {title}"
        if state.state == "failed":
            text = f"{head}: failed: {printable(state.error)}"
        else:
            score, calls, rejected, seconds = self._figures(state)
            spent = f"{score}, {calls} calls, rejected {rejected}, {seconds} s"
            text = f"{head}: {'kept: ' if state.state == 'kept' else ''}{spent}"
        self.console.print(Text(text), soft_wrap=True)

    def _figures(self, state: CellState) -> list[str]:
        """Return accuracy, calls, rejected and seconds of a finished cell; blanks before that."""
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

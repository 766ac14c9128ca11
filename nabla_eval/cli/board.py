"""The progress of a sweep: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from nabla_eval.reporting.overview import Measured, combine, score_text
from nabla_eval.reporting.text import number, percent, printable


@dataclass
class Line:
    """One cell as the board shows it."""

    name: str
    task: str
    seed: int
    state: str = "waiting"  # waiting, running, done, kept, failed
    done: int = 0
    total: int = 0
    results: Sequence[Measured] = ()
    error: str = ""
    changed: float = field(default_factory=time.monotonic)

    def set(self, state: str) -> None:
        self.state, self.changed = state, time.monotonic()

    @property
    def title(self) -> str:
        return printable(f"{self.name}  {self.task}  seed {self.seed}")

    def cells(self) -> list[RenderableType]:
        """Accuracy, calls, rejected and seconds of a finished cell; blanks before that."""
        if not self.results:
            return [Text("")] * 4
        return [Text(word) for word in self.words()]

    def words(self) -> list[str]:
        row = combine(self.name, self.results[:1])
        seconds = number(row["seconds"])
        return [
            score_text(row), number(row["model_calls"]), percent(row["rejection_rate"]), seconds,
        ]  # fmt: skip


class Board:
    """All cells of a sweep; `show` displays them while its block runs, `tell` says what changed."""

    def __init__(self, console: Console, lines: Sequence[Line]) -> None:
        self.console, self.lines = console, list(lines)
        self.began = time.monotonic()

    @contextmanager
    def show(self) -> Iterator[None]:
        """Draw the board four times a second while the block runs, in a terminal."""
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

    def tell(self, line: Line) -> None:
        """Say in a plain line what became of a cell, where there is no live table."""
        if self.console.is_terminal:
            return
        ended = sum(line.state in ("done", "kept", "failed") for line in self.lines)
        head = f"[{ended}/{len(self.lines)}] {line.title}"
        if line.state == "failed":
            text = f"{head}: failed: {printable(line.error)}"
        else:
            score, calls, rejected, seconds = line.words()
            spent = f"{score}, {calls} calls, rejected {rejected}, {seconds} s"
            text = f"{head}: {'kept: ' if line.state == 'kept' else ''}{spent}"
        self.console.print(Text(text), soft_wrap=True)

    def render(self) -> RenderableType:
        """The head line and as many cells as fit: those at work, then the last that ended."""
        states = [line.state for line in self.lines]
        ended = sum(state in ("done", "kept", "failed") for state in states)
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
        task = max((len(line.task) for line in self.lines), default=0)
        several = len({line.task for line in self.lines}) > 1 and room - task - 2 >= 16
        room = max(8, room - (task + 2 if several else 0))
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("Cell", no_wrap=True)
        if several:
            table.add_column("Task", no_wrap=True)
        for heading, width in zip(words, widths, strict=True):
            table.add_column(heading, justify="right", no_wrap=True, min_width=width)
        for line in self._fitting(max(4, self.console.height - 6)):
            table.add_row(
                _shortened(printable(line.name), room), *([line.task] if several else []),
                str(line.seed), _state(line), *line.cells(),
            )  # fmt: skip
        return table

    def _fitting(self, room: int) -> list[Line]:
        """The cells to show, in the order of the file."""
        if len(self.lines) <= room:
            return self.lines
        rank = {"running": 0, "failed": 1, "done": 1, "kept": 2, "waiting": 3}
        urgent = sorted(self.lines, key=lambda line: (rank[line.state], -line.changed))[:room]
        chosen = {id(line) for line in urgent}
        return [line for line in self.lines if id(line) in chosen]


def _shortened(name: str, room: int, tail: int = 6) -> Text:
    """A name with its middle left out where it is too long: names often differ at their ends."""
    if cell_len(name) <= room:
        return Text(name)
    return Text(f"{set_cell_size(name, room - tail - 1)}…{name[-tail:]}")


def _state(line: Line) -> RenderableType:
    if line.state == "running" and line.total:
        return ProgressBar(total=line.total, completed=line.done, width=10)
    styles = {"done": "green", "kept": "dim", "failed": "bold red", "waiting": "dim"}
    return Text(line.state, style=styles.get(line.state, ""))

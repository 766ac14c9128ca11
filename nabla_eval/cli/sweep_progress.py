"""The cells of a sweep or of the demo as they run: a line for each, on a terminal alive."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from nabla_eval.cli.screen import Screen
from nabla_eval.terminal import printable

if TYPE_CHECKING:
    from nabla_eval.reporting.overview import Measured
    from nabla_eval.runs.sweep import CellState


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
        """Return a bar of all cells, and a line for each that is at work or waits, if they fit."""
        ended = sum(state.ended for state in self.cells)
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column()
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # what is left
        bar = ProgressBar(total=len(self.cells), completed=ended, width=24)
        began = clock(time.monotonic() - self.began)
        grid.add_row(bar, f"{ended}/{len(self.cells)}", began, "cells")
        open_ = [state for state in self.cells if not state.ended]
        open_.sort(key=lambda state: state.state != "running")
        room = max(1, self.console.height - 3, sum(s.state == "running" for s in open_))
        for state in open_[:room]:
            total = state.total or None
            bar = ProgressBar(total=total, completed=state.done, width=24)
            count = f"{state.done}/{total}" if total else "loading"
            if state.state == "waiting":
                bar, count = ProgressBar(total=1, completed=0, width=24), "waiting"
            cell = state.cell
            title = printable(f"{cell.name}  {cell.task}  seed {cell.seed}")
            grid.add_row(bar, count, remaining(state), title)
        if len(open_) > room:
            grid.add_row("", "", "", f"and {len(open_) - room} more that wait")
        return grid


def remaining(state: CellState) -> str:
    """Return how long a cell will take from here, at its pace so far; empty where none is known."""
    if state.state != "running" or not state.done:
        return ""
    pace = (time.monotonic() - state.began) / state.done
    return f"{clock(pace * (state.total - state.done))} left"


def clock(seconds: float) -> str:
    """Return a duration as on a clock: 4:05, or 1:04:05."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""The live table of a sweep, however narrow the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nabla_eval.cli.sweep_progress import SweepProgress
from nabla_eval.runs.sweep import CellState
from nabla_eval.runs.sweep_file import Cell


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("tasks", [("toy",), ("toy", "nabla_countdown")])
def test_states_and_numbers_are_whole_and_names_keep_their_ends(width, tasks):
    console = Console(file=io.StringIO(), width=width, height=30)
    name = "nabla with a rather long name that says what it does n="
    progress = SweepProgress(console)
    progress.cells = [
        CellState(Cell(f"{name}{n}", str(n), task, 1, evaluation=None))  # type: ignore[arg-type]
        for n in (4, 16)
        for task in tasks
    ]
    progress.cells[0].state, progress.cells[1].state = "running", "failed"
    console.print(progress.render())
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line for line in shown.splitlines() if line.startswith("nabla")]
    assert max(map(len, shown.splitlines())) <= width
    assert all(word in shown for word in ("Accuracy ± se", "Calls", "Rejected", "Seconds", "Seed"))
    assert "running" in rows[0] and "failed" in rows[1]
    assert all(f"n={n}" in row for n, row in zip((4,) * len(tasks), rows, strict=False))
    assert "n=16" in rows[-1]
    assert ("nabla_countdown" in shown) == (len(tasks) > 1 and width > 80)

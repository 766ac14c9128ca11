"""What a sweep would run: its cells, what they will take, and a Slurm array of them."""

from __future__ import annotations

import shlex
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from nabla_eval.cli.dry_run import REMARK, DryRun, Expected
from nabla_eval.cli.screen import Screen, table
from nabla_eval.errors import NablaError

if TYPE_CHECKING:
    from nabla_eval.runs.sweep_file import Cell, SweepFile


def states(read: SweepFile, folder: Path) -> Iterator[tuple[Cell, str, str]]:
    """Yield every cell with what its folder holds, and what is wrong with that."""
    from nabla_eval.runs.folder import inspect
    from nabla_eval.runs.sweep import ANEW

    for cell in read.cells:
        try:
            found = inspect(folder / cell.folder, cell.evaluation.manifest("", ""))
            yield cell, found.state, ""
        except NablaError as error:
            yield cell, "other", f"{error} {ANEW}"


def list_cells(console: Screen, read: SweepFile, folder: Path) -> None:
    """Print every cell with what its folder holds; touches nothing."""
    counts: dict[str, int] = defaultdict(int)
    for cell, state, note in states(read, folder):
        counts[state] += 1
        console.print(f"{state:<11}{cell.folder}{f'  {note}' * bool(note)}", soft_wrap=True)
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(f"\n{len(read.cells)} cells: {parts}. Nothing was run.", style="bold")


def estimate_cells(console: Screen, read: SweepFile, folder: Path, jobs: int) -> None:
    """Print what the cells that are not done will take, from one problem of each configuration.

    Seeds cost the same, so one of them is tried. Nothing is kept.
    """
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell, state, _ in states(read, folder):
        if state != "done":
            groups[cell.name, cell.task].append(cell)
    if not groups:
        console.print(f"All {len(read.cells)} cells are done in {folder}.")
        return
    rows, notes, total, known = [], [REMARK], 0.0, 0
    tried = _try([cells[0] for cells in groups.values()], folder, console)
    for ((name, task), cells), found in zip(groups.items(), tried, strict=True):
        if isinstance(found, Exception):
            rows.append((name, task, str(len(cells)), "", "", "failed"))
            notes.append(f"{name}  {task}: {found}")
            continue
        items, hours = sum(part.items for part in found), sum(part.hours for part in found)
        calls = sum(part.items * part.calls for part in found)
        rows.append((name, task, str(len(cells)), f"{items:,}", f"{calls:,.0f}", f"{hours:,.2g}"))
        notes += [note for part in found for note in part.notes()]
        total += hours * len(cells)
        known += len(cells)
    columns = ("name", "task", "cells", "items each", "calls each", "hours each")
    title = "What the cells would take, from one problem of each configuration"
    console.print(table(columns, rows, right=columns[2:], title=title))
    left = sum(map(len, groups.values()))
    of = f" of {left}" if known < left else ""
    words = f"{known}{of} cells: about {total:,.2g} hours of one process"
    if jobs > 1:
        words += f", {total / max(1, min(jobs, known)):,.2g} hours with --jobs {jobs}"
    console.print(f"{words}, without the loading of models.", style="bold", soft_wrap=True)
    console.print("\n".join(dict.fromkeys(notes)), soft_wrap=True)


def _try(cells: Sequence[Cell], folder: Path, console: Screen) -> list[list[Expected] | Exception]:
    """Return what each cell will take, or why it cannot be tried."""
    from nabla_eval.runs.evaluate import Evaluator
    from nabla_eval.runs.quiet import quiet

    evaluator, found = Evaluator(), list[list[Expected] | Exception]()
    # lm-eval's tables are of one document, and no results: they go where its logs go.
    with (
        TemporaryDirectory(prefix="nabla-eval-estimate-") as place,
        quiet(Path(place, "log.txt")),
        console.status("") as status,
    ):
        for number, cell in enumerate(cells):
            status.update(f"Trying {cell.name}  {cell.task} ({number + 1} of {len(cells)}) ...")
            dry, own = DryRun(cell.evaluation, folder), Path(place, str(number))
            try:
                dry.answer(cell.evaluation.manifest("", cell.name), own, evaluator)
                found.append(dry.expected(own))
            except Exception as error:  # the others are tried all the same
                found.append(error)
    return found


def write_array(console: Screen, read: SweepFile, folder: Path, options: str) -> None:
    """Write the Slurm array of the cells that are not done, and say how to submit it."""
    from nabla_eval.runs.slurm import FILE, array_script

    left = [cell.folder for cell, state, _ in states(read, folder) if state != "done"]
    if not left:
        console.print(f"All {len(read.cells)} cells are done in {folder}.")
        return
    place = folder.absolute()
    study = ["sweep", str(read.file.absolute()), "--output", str(place)]
    command = [sys.executable, "-m", "nabla_eval", *study]
    script = array_script(read.name, left, command, options, place)
    folder.mkdir(parents=True, exist_ok=True)
    # As paths spell bytes that are no UTF-8.
    (folder / FILE).write_text(script, encoding="utf-8", errors="surrogateescape")
    console.print(
        f"{len(left)} of {len(read.cells)} cells are left. Submit them, one array task each:\n"
        f"  {shlex.join(['sbatch', str(folder / FILE)])}\n"
        f"When all have ended, this prints their table and runs what is missing:\n"
        f"  {shlex.join(['nabla-eval', 'sweep', str(read.file), '--output', str(folder)])}",
        soft_wrap=True,
    )

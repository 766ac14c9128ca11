"""The work of `nabla-eval sweep`: claim the cells, run them, show them, sum them up."""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.text import Text

from nabla_eval.cli.board import Board, Line
from nabla_eval.cli.quiet import quiet
from nabla_eval.cli.screen import Screen
from nabla_eval.errors import DataError, NablaError
from nabla_eval.harness.evaluation import Bench
from nabla_eval.harness.folder import claim, clear, inspect
from nabla_eval.harness.study import Cell, Study
from nabla_eval.harness.workers import Event, Job, run_here, run_in_processes
from nabla_eval.reporting.overview import Measured, combine, measure, overview_table
from nabla_eval.reporting.tables import fitting, to_rich
from nabla_eval.reporting.text import bullet
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import Manifest
from nabla_eval.traces.write import versions

FILE = "study.json"
STUDY_SCHEMA = 1
LOG = "log.txt"


def list_cells(console: Screen, study: Study, folder: Path) -> None:
    """Print every cell with what its folder holds; touches nothing."""
    counts: dict[str, int] = defaultdict(int)
    for cell in study.cells:
        state, note = "other", ""
        try:
            state = str(inspect(folder / cell.folder, cell.manifest(study.settings, "")).state)
        except NablaError as error:
            note = f"  {error}"
        counts[state] += 1
        console.print(Text(f"{state:<11}{cell.folder}{note}"), soft_wrap=True)
    parts = ", ".join(f"{count} {state}" for state, count in counts.items())
    console.print(Text(f"\n{len(study.cells)} cells: {parts}. Nothing was run.", style="bold"))


@dataclass
class Sweep:
    """One sitting of a sweep."""

    console: Screen
    study: Study
    folder: Path
    command: str
    replace: bool = False

    def __post_init__(self) -> None:
        self.lines = [Line(cell.name, cell.task, cell.seed) for cell in self.study.cells]
        self.board = Board(self.console, self.lines)
        self.began = time.monotonic()
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def run(self, jobs: int) -> int:
        """Run what is not done; returns how many cells failed."""
        with sole_writer(self.folder, "study"):
            self._save()
            try:
                with self.board.show():
                    places, work = self._claim()
                    self._run(places, work, jobs)
            finally:
                self._save()
        self._sum_up()
        return sum(line.state == "failed" for line in self.lines)

    def kept(self) -> str:
        """How many cells are done, and where."""
        done = sum(line.state in ("done", "kept") for line in self.lines)
        return f"{done} of {len(self.lines)} cells are done in {self.folder}"

    def _claim(self) -> tuple[list[int], list[Job]]:
        """Take the cells' folders; what is done in them is read, what is wrong is noted."""
        places, work = [], []
        for place, cell in enumerate(self.study.cells):
            folder, manifest = self.folder / cell.folder, self._manifest(cell)
            try:
                with sole_writer(folder):
                    if self.replace and _changed(folder, manifest):
                        clear(folder)
                    claimed = claim(folder, manifest)
                if claimed.state == "done" and claimed.before is not None:
                    self._ended(place, "kept", claimed.before)
                    continue
            except NablaError as error:
                self._failed(place, f"{error}{'' if self.replace else _REPLACE}")
                continue
            places.append(place)
            work.append(Job(folder, manifest, dict(cell.options)))
        return places, work

    def _manifest(self, cell: Cell) -> Manifest:
        return cell.manifest(self.study.settings, self.command)

    def _run(self, places: Sequence[int], work: Sequence[Job], jobs: int) -> None:
        def report(event: Event) -> None:
            self._heard(places[event.job], event)

        settings, tasks, log = self.study.settings, self.study.tasks, self.folder / LOG
        if jobs > 1 and len(work) > 1:
            run_in_processes(work, settings, tasks, jobs, log, report)
        elif work:
            with quiet(log):
                run_here(work, Bench(settings, tasks), report)

    def _heard(self, place: int, event: Event) -> None:
        line = self.lines[place]
        if event.kind == "started":
            line.set("running")
        elif event.kind == "progress":
            line.done, line.total = event.done, event.total
        elif event.kind == "failed":
            self._failed(place, event.error)
        elif event.manifest is not None:
            self._ended(place, "done", event.manifest)

    def _ended(self, place: int, state: str, manifest: Manifest) -> None:
        line = self.lines[place]
        line.results = measure(self.folder / self.study.cells[place].folder, manifest["seconds"])
        line.set(state)
        self.board.tell(line)

    def _failed(self, place: int, error: str) -> None:
        self.lines[place].error = error
        self.lines[place].set("failed")
        self.board.tell(self.lines[place])

    def _save(self) -> None:
        """Write `study.json`: the file as it was read, the versions, and the state of each cell."""
        cells = [
            {
                "folder": cell.folder,
                "name": cell.name,
                "task": cell.task,
                "seed": cell.seed,
                "config_hash": cell.arguments.fingerprint,
                "state": "done" if line.state == "kept" else line.state,
                **({"error": line.error} if line.error else {}),
            }
            for cell, line in zip(self.study.cells, self.lines, strict=True)
        ]
        content: dict[str, Any] = {
            "schema": STUDY_SCHEMA,
            "name": self.study.name,
            "file": str(self.study.file),
            "command": self.command,
            "started": self.started,
            "seconds": time.monotonic() - self.began,
            "versions": dict(versions()),
            "source": self.study.source,
            "cells": cells,
        }
        path = self.folder / FILE
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".json.part")
            partial.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            raise DataError(f"Cannot write {path}: {error}. Choose another --output.") from error

    def _sum_up(self) -> None:
        """Print one line per configuration and task, what failed, and where everything is."""
        groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
        for line in self.lines:
            for part in line.results:
                groups[line.name, part.task].append(part)
        rows = [combine(name, parts) for (name, _), parts in groups.items()]
        if rows:
            for table in fitting(overview_table(rows, self.study.name), self.console.width):
                self.console.print()
                self.console.print(to_rich(table))
        failed = [
            (cell, line)
            for cell, line in zip(self.study.cells, self.lines, strict=True)
            if line.state == "failed"
        ]
        if failed:
            self.console.print(Text("\nFailed", style="bold red"))
        for cell, line in failed:
            told = bullet(f"{cell.folder}: {line.error}", self.console.width)
            self.console.print(Text(told), soft_wrap=True)
        ended = len(self.lines) - len(failed)
        seconds = time.monotonic() - self.began
        text = f"\n{ended} of {len(self.lines)} cells are done; {seconds:.0f} s. Everything is in "
        self.console.print(Text(f"{text}{self.folder}:", style="bold"), soft_wrap=True)
        self.console.print(
            Text(
                "  study.json       the file of the sweep, versions, the state of each cell\n"
                "  CELL/            run.json, lm-eval's results and samples, traces\n"
                "  log*.txt         what lm-eval and its libraries printed"
            )
        )


_REPLACE = " --replace runs such cells anew."


def _changed(folder: Path, manifest: Manifest) -> bool:
    """Return whether a folder holds another run, or results of no known run."""
    try:
        inspect(folder, manifest)
    except DataError:
        return True
    return False

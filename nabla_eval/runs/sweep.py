"""One sitting of a sweep: claim the cells' folders, run what is not done, keep `study.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal, TypeAlias

from nabla_eval.errors import ConfigError, DataError, NablaError, suggest
from nabla_eval.harness.arguments import check_devices
from nabla_eval.runs.devices import devices, shares
from nabla_eval.runs.folder import STUDY, claim, clear, inspect, refuse_others
from nabla_eval.runs.quiet import quiet
from nabla_eval.runs.sweep_file import Cell, SweepFile
from nabla_eval.runs.workers import Event, Job, run_here, run_in_processes
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import Manifest, write_json
from nabla_eval.traces.write import versions

STUDY_SCHEMA = 1
LOG = "log.txt"
ANEW = "--replace runs such cells anew."

State: TypeAlias = Literal["waiting", "running", "done", "kept", "failed"]


@dataclass
class CellState:
    """How far a cell is in this sitting."""

    cell: Cell
    state: State = "waiting"
    done: int = 0  # responses
    total: int = 0
    began: float = 0.0  # on the clock of time.monotonic
    manifest: Manifest | None = None  # of a cell that is done or kept
    error: str = ""  # of one that failed

    @property
    def ended(self) -> bool:
        return self.state in ("done", "kept", "failed")


class Sweep:
    """One sitting of a sweep; `ended` is called with each cell that is done, kept or failed.

    `replace`: cells whose folder holds another run are cleared and run anew. `only`: the folders of
    the cells that this sitting runs. Several such sittings may run at once: none writes
    `study.json`.
    """

    def __init__(
        self,
        file: SweepFile,
        folder: Path,
        command: str,
        *,
        replace: bool = False,
        only: Sequence[str] = (),
    ) -> None:
        self.file, self.folder, self.command, self.replace = file, folder, command, replace
        self.ended: Callable[[CellState], None] = lambda state: None
        known = [cell.folder for cell in file.cells]
        for name in only:
            if name not in known:
                raise ConfigError(f"{file.file} has no cell {name!r}. {suggest(name, known)}")
        for cell in file.cells:
            check_devices({**cell.evaluation.model_args, "device": file.source.get("device")})
        self.only = only
        self.cells = [CellState(cell) for cell in file.cells if not only or cell.folder in only]
        self.began = time.monotonic()
        self.started = datetime.now(timezone.utc).isoformat(timespec="seconds")

    def run(self, jobs: int = 1) -> int:
        """Run what is not done, in `jobs` processes; returns how many cells failed.

        Raises `DataError`, with nothing written, where a cell's folder holds something else.
        """
        if self.only:
            self._refuse()
            self._run(*self._claim(), jobs)
            return len(self.failed)
        with sole_writer(self.folder, "study"):
            self._refuse()
            self.save()
            try:
                self._run(*self._claim(), jobs)
            finally:
                self.save()
        return len(self.failed)

    @property
    def failed(self) -> list[CellState]:
        return [state for state in self.cells if state.state == "failed"]

    def kept(self) -> str:
        """Return how many cells are done, and where, in words."""
        done = sum(state.state in ("done", "kept") for state in self.cells)
        return f"{done} of {len(self.cells)} cells are done in {self.folder}"

    def _refuse(self) -> None:
        """Raise `DataError` where a run or a probe is in the study's folder.

        Or where cells hold something else, and are not to be replaced.
        """
        if not (self.folder / STUDY).exists():
            refuse_others(self.folder, STUDY)
        held = []
        for state in self.cells if not self.replace else ():
            try:
                inspect(self.folder / state.cell.folder, state.cell.evaluation.manifest(""))
            except NablaError as error:
                held.append(error)
        if held:
            raise DataError(
                f"{len(held)} of {len(self.cells)} cells cannot have their folders, so nothing was "
                f"run. {held[0]} {ANEW} --dry-run lists all."
            )

    def _claim(self) -> tuple[list[CellState], list[Job]]:
        """Take the cells' folders; what is done in them is read, what is wrong is noted."""
        states, jobs = [], []
        for state in self.cells:
            folder, evaluation = self.folder / state.cell.folder, state.cell.evaluation
            manifest = evaluation.manifest(self.command, state.cell.name)
            try:
                with sole_writer(folder):
                    if self.replace and _changed(folder, manifest):
                        clear(folder)
                    claimed = claim(folder, manifest)
                if claimed.state == "done":
                    self._end(state, "kept", claimed.before)
                    continue
            except NablaError as error:
                self._end(state, "failed", error=str(error))
                continue
            states.append(state)
            jobs.append(Job(folder, manifest, evaluation))
        return states, jobs

    def _run(self, states: list[CellState], work: list[Job], jobs: int) -> None:
        def report(event: Event) -> None:
            state = states[event.job]
            if event.kind == "progress":
                state.done, state.total = event.done, event.total
            elif event.kind == "started":
                state.state, state.began = "running", time.monotonic()
            else:
                self._end(state, event.kind, event.manifest, event.error)

        log = self.folder / (f"log-{self.only[0]}.txt" if self.only else LOG)
        count = min(jobs, len(work))
        if count > 1:
            own = shares(devices(self.file.source.get("device")), count)
            run_in_processes(work, count, log, report, devices=own)
        elif work:
            with quiet(log):
                run_here(work, report)

    def _end(
        self, state: CellState, how: State, manifest: Manifest | None = None, error: str = ""
    ) -> None:
        state.state, state.manifest, state.error = how, manifest, error
        self.ended(state)

    def save(self) -> None:
        """Write `study.json`: the file as it was read, the versions, and the state of each cell."""
        cells = [
            {
                "folder": state.cell.folder,
                "name": state.cell.name,
                "task": state.cell.task,
                "seed": state.cell.seed,
                "config_hash": state.cell.evaluation.arguments.fingerprint,
                "state": "done" if state.state == "kept" else state.state,
                **({"error": state.error} if state.error else {}),
            }
            for state in self.cells
        ]
        content: dict[str, Any] = {
            "schema": STUDY_SCHEMA,
            "name": self.file.name,
            "file": str(self.file.file),
            "command": self.command,
            "started": self.started,
            "seconds": time.monotonic() - self.began,
            "versions": dict(versions()),
            "source": self.file.source,
            "cells": cells,
        }
        write_json(self.folder / STUDY, content)


def _changed(folder: Path, manifest: Manifest) -> bool:
    """Return whether a folder holds another run, or results of no known run."""
    try:
        inspect(folder, manifest)
    except DataError:
        return True
    return False

"""Jobs of a sweep, here or in worker processes; one that fails, or dies, stops no other."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from nabla_eval.errors import DataError, NablaError
from nabla_eval.harness.evaluation import Bench, Settings
from nabla_eval.harness.folder import fail
from nabla_eval.stopping import end_with_parent, shielded
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import Manifest

PATIENCE = 10  # seconds that an idle process may take to end


@dataclass(frozen=True)
class Job:
    """One evaluation into a run folder that was claimed."""

    folder: Path
    manifest: Manifest
    options: dict[str, Any]


@dataclass(frozen=True)
class Event:
    """An event of a job, by its place in the list of jobs."""

    kind: Literal["started", "progress", "done", "failed"]
    job: int
    done: int = 0  # of progress: responses
    total: int = 0
    manifest: Manifest | None = None  # of done
    error: str = ""  # of failed


Report = Callable[[Event], None]


def run_here(jobs: Sequence[Job], bench: Bench, report: Report) -> None:
    """Run jobs one after another in this process."""
    for place, job in enumerate(jobs):
        _run(place, job, bench, report)


def _run(place: int, job: Job, bench: Bench, report: Report) -> None:
    report(Event("started", place))

    def progress(done: int, total: int) -> None:
        report(Event("progress", place, done, total))

    try:
        manifest = bench.evaluate(job.folder, job.manifest, job.options, progress)
    except Exception as error:
        if not isinstance(error, NablaError):
            traceback.print_exc()  # into the log
        known = isinstance(error, NablaError)
        report(Event("failed", place, error=str(error) if known else f"{error!r} (see the log)"))
    else:
        report(Event("done", place, manifest=manifest))


def run_in_processes(
    jobs: Sequence[Job], settings: Settings, tasks: Sequence[str], count: int, log: Path,
    report: Report, target: Callable[..., None] | None = None,
) -> None:  # fmt: skip
    """Run jobs in `count` processes of one torch thread each, that load models and tasks once.

    What they print goes to files named after `log`. A process that dies costs the job it was at.
    Leaving early, by an exception such as Ctrl-C, ends the processes. `target` is what a process
    runs, by default `work`.
    """
    crew = Crew(target or work, (settings, tuple(tasks)), log)
    waiting = deque(enumerate(jobs))
    try:
        for _ in range(min(count, len(jobs))):
            crew.hire()
        while waiting or crew.busy:
            for worker in crew.idle:
                if waiting:
                    worker.assign(*waiting.popleft())
            for worker in crew.ready():
                event = worker.receive()
                if event is None:
                    place = crew.bury(worker)
                    error = f"Its process ended with exit code {worker.process.exitcode}."
                    with suppress(DataError), sole_writer(jobs[place].folder):  # or who took it
                        fail(jobs[place].folder, jobs[place].manifest, RuntimeError(error))
                    event = Event("failed", place, error=error)
                    if waiting:
                        crew.hire()
                report(event)
    finally:
        crew.dismiss()


class Worker:
    """A process that runs one job at a time, and the line to it."""

    def __init__(self, process: Any, line: Connection) -> None:
        self.process, self.line = process, line
        self.place: int | None = None  # of the job that it is at

    def assign(self, place: int, job: Job) -> None:
        self.place = place
        with suppress(OSError):  # it is dead then, which the next `receive` finds out
            self.line.send((place, job))

    def receive(self) -> Event | None:
        """Return what it says next; None where it has died."""
        try:
            event: Event = self.line.recv()
        except (EOFError, OSError):
            return None
        if event.kind in ("done", "failed"):
            self.place = None
        return event


class Crew:
    """The processes at work."""

    def __init__(self, target: Callable[..., None], given: tuple[Any, ...], log: Path) -> None:
        self.context = multiprocessing.get_context("spawn")  # torch does not survive a fork
        self.target, self.given, self.log = target, given, log
        self.workers: list[Worker] = []
        self.hired = 0

    @property
    def idle(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.place is None]

    @property
    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.place is not None]

    def hire(self) -> None:
        self.hired += 1
        ours, theirs = self.context.Pipe()
        log = self.log.with_stem(f"{self.log.stem}-{self.hired}")
        process = self.context.Process(
            target=self.target, args=(theirs, *self.given, log), daemon=True
        )
        self.workers.append(Worker(process, ours))  # first: a stop in between must find it
        with shielded():
            process.start()
        theirs.close()  # or its end would not be noticed here

    def ready(self) -> list[Worker]:
        """Busy workers that have something to say, or have died."""
        lines = {worker.line: worker for worker in self.busy}
        return [lines[line] for line in wait(list(lines))]  # type: ignore[index]

    def bury(self, worker: Worker) -> int:
        """Remove a dead worker; returns the job that it was at."""
        worker.process.join()
        worker.line.close()
        self.workers.remove(worker)
        assert worker.place is not None
        return worker.place

    def dismiss(self) -> None:
        """End all processes: the idle ones by closing their line, those at work at once."""
        for worker in self.workers:
            worker.line.close()
            if worker.place is not None and worker.process.pid is not None:
                worker.process.kill()
        for worker in self.workers:
            if worker.process.pid is not None:
                worker.process.join(PATIENCE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def work(line: Connection, settings: Settings, tasks: Sequence[str], log: Path) -> None:
    """Return what a worker process does until its line is closed."""
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # torch is not loaded yet
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    bench = Bench(settings, tasks)

    def report(event: Event) -> None:
        try:
            line.send(event)
        except OSError:
            sys.exit()  # nobody is there to hear it: that is no failure of the job

    while True:
        try:
            place, job = line.recv()
        except (EOFError, OSError):
            return
        _run(place, job, bench, report)

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
from nabla_eval.runs.command import Evaluation
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.runs.folder import fail
from nabla_eval.signals import end_with_parent, shielded
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import Manifest

PATIENCE = 10  # seconds that an idle process may take to end


@dataclass(frozen=True)
class Job:
    """One evaluation into a run folder that was claimed."""

    folder: Path
    manifest: Manifest
    evaluation: Evaluation

    def run(self, evaluator: Evaluator, **hooks: Any) -> Manifest:
        """Evaluate; raises `DataError` where another process took the folder meanwhile."""
        with sole_writer(self.folder):
            return evaluator.evaluate(self.folder, self.evaluation, self.manifest, **hooks)


@dataclass(frozen=True)
class Event:
    """What happened to a job, by its place in the list of jobs."""

    kind: Literal["started", "progress", "done", "failed"]
    job: int
    done: int = 0  # of progress: responses
    total: int = 0
    manifest: Manifest | None = None  # of done
    error: str = ""  # of failed


Report = Callable[[Event], None]


def run_here(jobs: Sequence[Job], report: Report) -> None:
    """Run jobs one after another in this process."""
    evaluator = Evaluator()
    for place, job in enumerate(jobs):
        _run(place, job, evaluator, report)


def _run(place: int, job: Job, evaluator: Evaluator, report: Report) -> None:
    report(Event("started", place))

    def progress(done: int, total: int) -> None:
        report(Event("progress", place, done, total))

    try:
        manifest = job.run(evaluator, progress=progress)
    except NablaError as error:
        report(Event("failed", place, error=str(error)))
    except Exception as error:
        traceback.print_exc()  # into the log
        report(Event("failed", place, error=f"{error!r} (see the log)"))
    else:
        report(Event("done", place, manifest=manifest))


def run_in_processes(
    jobs: Sequence[Job],
    count: int,
    log: Path,
    report: Report,
    target: Callable[[Connection, Path], None] | None = None,
) -> None:
    """Run jobs in `count` processes of one torch thread each, which load models and tasks once.

    What they print goes to files named after `log`. A process that dies costs the job it was at.
    Leaving early, by an exception such as Ctrl-C, ends the processes. `target` is what a process
    runs, by default `work`.
    """
    pool = WorkerPool(target or work, log)
    waiting = deque(enumerate(jobs))
    try:
        for _ in range(min(count, len(jobs))):
            pool.start_one()
        while waiting or pool.busy:
            for worker in pool.idle:
                if waiting:
                    worker.assign(*waiting.popleft())
            for worker in pool.ready():
                event = worker.receive()
                if event is None:
                    place = pool.remove(worker)
                    error = f"Its process ended with exit code {worker.process.exitcode}."
                    with suppress(DataError), sole_writer(jobs[place].folder):  # or who took it
                        fail(jobs[place].folder, jobs[place].manifest, RuntimeError(error))
                    event = Event("failed", place, error=error)
                    if waiting:
                        pool.start_one()
                report(event)
    finally:
        pool.close()


class SweepWorker:
    """A process that runs one job at a time, and the connection to it."""

    def __init__(self, process: Any, line: Connection) -> None:
        self.process, self.line = process, line
        self.place: int | None = None  # of the job that it is at

    def assign(self, place: int, job: Job) -> None:
        self.place = place
        with suppress(OSError):  # it is dead then, which the next `receive` finds out
            self.line.send((place, job))

    def receive(self) -> Event | None:
        """Return its next message; None where it has died."""
        try:
            event: Event = self.line.recv()
        except (EOFError, OSError):
            return None
        if event.kind in ("done", "failed"):
            self.place = None
        return event


class WorkerPool:
    """The worker processes of a sweep."""

    def __init__(self, target: Callable[[Connection, Path], None], log: Path) -> None:
        self.context = multiprocessing.get_context("spawn")  # torch does not survive a fork
        self.target, self.log = target, log
        self.workers: list[SweepWorker] = []
        self.started = 0

    @property
    def idle(self) -> list[SweepWorker]:
        return [worker for worker in self.workers if worker.place is None]

    @property
    def busy(self) -> list[SweepWorker]:
        return [worker for worker in self.workers if worker.place is not None]

    def start_one(self) -> None:
        self.started += 1
        ours, theirs = self.context.Pipe()
        log = self.log.with_stem(f"{self.log.stem}-{self.started}")
        process = self.context.Process(target=self.target, args=(theirs, log), daemon=True)
        self.workers.append(SweepWorker(process, ours))  # first: a stop in between must find it
        with shielded():
            process.start()
        theirs.close()  # or its end would not be noticed here

    def ready(self) -> list[SweepWorker]:
        """Wait for busy workers that have sent a message or died."""
        lines = {worker.line: worker for worker in self.busy}
        return [lines[line] for line in wait(list(lines))]  # type: ignore[index]

    def remove(self, worker: SweepWorker) -> int:
        """Remove a dead worker; returns the job that it was at."""
        worker.process.join()
        worker.line.close()
        self.workers.remove(worker)
        assert worker.place is not None
        return worker.place

    def close(self) -> None:
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


def work(line: Connection, log: Path) -> None:
    """Run jobs in a worker process until its line is closed."""
    end_with_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # torch is not loaded yet
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)
    evaluator = Evaluator()

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
        _run(place, job, evaluator, report)

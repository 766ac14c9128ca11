"""Jobs of a sweep, here or in worker processes; one that fails, or dies, stops no other."""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from nabla_eval.errors import DataError, NablaError
from nabla_eval.runs.command import Evaluation
from nabla_eval.runs.devices import VISIBLE
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.runs.folder import fail, inspect
from nabla_eval.signals import end_with_parent, shielded
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import Manifest, write_manifest

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
            inspect(self.folder, self.manifest)
            write_manifest(self.folder, self.manifest)  # over that of a run without an answer
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
Target = Callable[[Connection, Path], None]


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


class SweepWorker:
    """A process that runs one job at a time, the GPUs that it sees, and the connection to it."""

    def __init__(self, target: Target, log: Path, devices: str | None = None) -> None:
        self.devices = devices
        context = multiprocessing.get_context("spawn")  # torch does not survive a fork
        self.line, self._theirs = context.Pipe()
        self.process = context.Process(target=target, args=(self._theirs, log), daemon=True)
        self.place: int | None = None  # of the job that it is at

    def start(self) -> None:
        with shielded(), _environment({} if self.devices is None else {VISIBLE: self.devices}):
            self.process.start()
        self._theirs.close()  # or its end would not be noticed here

    def assign(self, place: int, job: Job) -> None:
        self.place = place
        with suppress(OSError):  # it is dead then, which the next `receive` finds out
            self.line.send((place, job))

    def receive(self, jobs: Sequence[Job]) -> tuple[Event, bool]:
        """Return what happened to its job, and whether the process is alive.

        Of a process that has died the job has failed, which `run.json` then says.
        """
        assert self.place is not None
        try:
            event: Event = self.line.recv()
        except (EOFError, OSError):
            self.process.join()
            self.line.close()
            error = f"Its process ended with exit code {self.process.exitcode}."
            job = jobs[self.place]
            with suppress(DataError), sole_writer(job.folder):  # or who took it
                fail(job.folder, job.manifest, RuntimeError(error))
            return Event("failed", self.place, error=error), False
        if event.kind in ("done", "failed"):
            self.place = None
        return event, True


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def run_in_processes(
    jobs: Sequence[Job],
    count: int,
    log: Path,
    report: Report,
    target: Target = work,
    devices: Sequence[str] = (),
) -> None:
    """Run jobs in `count` processes of one torch thread each, which load models and tasks once.

    With `devices`, the GPUs that each process sees, a process that dies leaves its own to the next.
    What they print goes to files named after `log`. A process that dies costs the job it was at.
    Leaving early, by an exception such as Ctrl-C, ends the processes. `target` is what they run.
    """
    waiting, workers = deque(enumerate(jobs)), list[SweepWorker]()
    free = list(devices)
    logs = (log.with_stem(f"{log.stem}-{number + 1}") for number in range(count + len(jobs)))
    try:
        while waiting or any(worker.place is not None for worker in workers):
            idle = [worker for worker in workers if worker.place is None]
            while waiting and (idle or len(workers) < count):
                if not idle:
                    own = free.pop(0) if free else None
                    idle.append(SweepWorker(target, next(logs), own))
                    workers.append(idle[0])  # before it starts: a stop in between must find it
                    idle[0].start()
                idle.pop().assign(*waiting.popleft())
            busy = {worker.line: worker for worker in workers if worker.place is not None}
            for line in wait(list(busy)):
                event, alive = busy[line].receive(jobs)  # type: ignore[index]
                if not alive:
                    workers.remove(busy[line])  # type: ignore[index]
                    free += filter(None, [busy[line].devices])  # type: ignore[index]
                report(event)
    finally:
        _end(workers)


def _end(workers: Sequence[SweepWorker]) -> None:
    """End all processes: the idle ones by closing their line, those at work at once."""
    for worker in workers:
        worker.line.close()
        if worker.place is not None and worker.process.pid is not None:
            worker.process.kill()
    for worker in workers:
        if worker.process.pid is not None:
            worker.process.join(PATIENCE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()

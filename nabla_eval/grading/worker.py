"""Processes that run computer algebra on untrusted answers, and the pool that keeps them.

A worker is a fresh interpreter rather than a fork, so that the caller may hold threads, locks and
accelerators. It is started when first needed, reused, and killed at a deadline. Importing this
module starts nothing.

Messages are JSON. The worker says {"ready": true} once, then answers every {"gold", "answer",
"seconds", "grader"} with {"equal", "error"}, and with the "answer" that math-verify found where it
grades. The deadline is processor time, so that a verdict does not depend on what else the machine
does: the kernel ends the process by SIGPROF, even inside long integer arithmetic, and whether or
not the parent still lives.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from nabla_eval.errors import DependencyError, NablaError
from nabla_eval.signals import end_with, shielded

START_SECONDS = 600.0
"""Time a worker may take to import SymPy and math-verify (slow network disks, busy machines)."""

PATIENCE = 12.0
"""Elapsed time per second of the deadline after which a worker is killed from here.

The worker ends itself after its deadline of processor time; this is for one that gets no processor.
"""

MEGABYTES = 1024
"""Address space of one worker."""

MAX_REQUESTS = 2000
"""A worker is replaced after this many requests, so that SymPy's caches cannot grow for ever."""

_BOOTSTRAP = (
    "import sys; sys.path[:] = sys.argv[2:]; "
    "from nabla_eval.grading.worker import main; main(*map(int, sys.argv[1].split(',')))"
)


class GradingError(NablaError, RuntimeError):
    """The process that compares answers cannot be started."""


@dataclass(frozen=True)
class Verdict:
    """A worker's reply; ``error`` names the exception, or "timeout" or "died"."""

    equal: bool
    error: str | None = None
    answer: str | None = None  # that math-verify found in a response

    @property
    def timed_out(self) -> bool:
        return self.error == "timeout"


class GradingWorker:
    """One process; not to be shared between threads."""

    def __init__(self) -> None:
        # The worker sees exactly the modules that the caller sees, wherever it was started.
        path = [os.path.abspath(entry) for entry in sys.path]
        self.pipe, theirs = Pipe()
        # Nothing is written to the lifeline: the worker ends when nobody holds this end of it.
        lifeline, self.lifeline = os.pipe()
        held = (theirs.fileno(), lifeline)
        arguments = ",".join(map(str, (MEGABYTES, *held)))
        null = subprocess.DEVNULL
        command = [sys.executable, "-I", "-c", _BOOTSTRAP, arguments, *path]
        try:
            with shielded():
                self.process = subprocess.Popen(
                    command, stdin=null, stdout=null, stderr=null, pass_fds=held
                )
        finally:
            theirs.close()
            os.close(lifeline)
        self.requests = 0
        self.ready = False

    def ask(self, gold: str, answer: str, seconds: float, grader: str = "nabla_eval") -> Verdict:
        """Compare two answers; the process is dead afterwards when it needed more ``seconds``."""
        if not self.ready:
            self._await_ready()
        self.requests += 1
        request = {"gold": gold, "answer": answer, "seconds": seconds, "grader": grader}
        try:
            self.pipe.send_bytes(json.dumps(request).encode())
            reply = self._receive(PATIENCE * seconds)
        except (EOFError, OSError) as error:
            self.kill()
            timed_out = (
                isinstance(error, TimeoutError) or self.process.returncode == -signal.SIGPROF
            )
            return Verdict(False, "timeout" if timed_out else "died")
        if self.requests >= MAX_REQUESTS or reply["error"] == "MemoryError":
            self.kill()
        return Verdict(reply["equal"] is True, reply["error"], reply.get("answer"))

    def _await_ready(self) -> None:
        try:
            reply = self._receive(START_SECONDS)
        except (EOFError, OSError) as error:
            self.kill()
            raise GradingError(
                f"The process that compares answers did not start ({type(error).__name__}). "
                f'Try: {sys.executable} -c "import nabla_eval.grading.algebra"'
            ) from error
        if not reply["ready"]:
            self.kill()
            raise DependencyError(
                f"Comparing answers needs math-verify, and importing it failed: {reply['error']}. "
                "Try: pip install 'math-verify[antlr4_13_2]'"
            )
        self.ready = True

    def _receive(self, seconds: float) -> dict[str, Any]:
        if not self.pipe.poll(seconds):
            raise TimeoutError
        reply: dict[str, Any] = json.loads(self.pipe.recv_bytes())
        return reply

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process now and collect it."""
        self.process.kill()
        self.process.wait()
        self.close_pipes()

    def close_pipes(self) -> None:
        """Close this process's ends; the worker ends by itself when nobody holds the lifeline."""
        if not self.pipe.closed:
            self.pipe.close()
            os.close(self.lifeline)


class GradingPool:
    """At most ``size`` workers, each handed to one thread at a time."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[GradingWorker] = []
        atexit.register(self.close)
        os.register_at_fork(after_in_child=self.forget)

    def ask(self, gold: str, answer: str, seconds: float, grader: str = "nabla_eval") -> Verdict:
        """Compare two normalised answers in a worker within ``seconds`` of its processor time.

        For grader math_verify, a gold answer and a whole response. Neither the start of a worker
        nor waiting for a free one counts.
        """
        with self._free:
            worker = self._take() or GradingWorker()
            try:
                verdict = worker.ask(gold, answer, seconds, grader)
            except BaseException:
                # KeyboardInterrupt included: a reply to come must not answer the next request.
                worker.kill()
                raise
            if worker.alive:
                self._idle.append(worker)
            return verdict

    def _take(self) -> GradingWorker | None:
        """Return an idle worker that lives; `list.pop` is atomic, so that no lock is needed."""
        with contextlib.suppress(IndexError):
            worker = self._idle.pop()
            if worker.alive:
                return worker
            worker.kill()
        return None

    def close(self) -> None:
        """End all idle workers; the next request starts a new one."""
        workers, self._idle = self._idle, []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """In a forked child: the workers belong to the parent, so only let go of the pipes."""
        self._free = threading.BoundedSemaphore(self.size)
        workers, self._idle = self._idle, []
        for worker in workers:
            worker.close_pipes()
            # Popen would warn about, and wait for, a process that is not ours.
            worker.process.returncode = 0


# --- in the worker process -----------------------------------------------------------------------


def _reply(gold: str, answer: str, grader: str) -> dict[str, Any]:
    from nabla_eval.grading.algebra import published_verdict, same_expression
    from nabla_eval.grading.compare import same

    try:
        if grader == "math_verify":
            equal, found = published_verdict(gold, answer)
            return {"equal": equal, "error": None, "answer": found}
        return {"equal": same(gold, answer, same_expression), "error": None}
    except Exception as error:
        # Computer algebra fails in as many ways as there are expressions; none of them is a match.
        return {"equal": False, "error": type(error).__name__}


def _warm_up() -> None:
    """Compare once what builds the parser's tables and imports SymPy's lazy parts.

    The first comparison takes many times as long as the next one, and its deadline is not meant
    for that.
    """
    from nabla_eval.grading.algebra import same_expression

    same_expression(r"\frac{x^{2}-1}{\sqrt{2}}+\sin(x)", r"\frac{(x-1)(x+1)}{\sqrt{2}}+\cos(x)")
    same_expression(r"\sqrt{8}", r"2\sqrt{2}")
    same_expression("2x+4y-3=0", "y=1-x")
    same_expression(r"[0,1)\cup (2,\infty)", r"(2,3)\cup [0,1)")


def main(megabytes: int, pipe: int, lifeline: int) -> None:
    """Serve requests until the pipe closes, or at once end with who holds the lifeline."""
    end_with(lifeline)
    caller = Connection(pipe)

    def send(reply: dict[str, Any]) -> None:
        caller.send_bytes(json.dumps(reply).encode())

    try:
        _warm_up()
    except ImportError as error:
        send({"ready": False, "error": str(error)})
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Refused where the hard limit is lower already, and by systems that do not limit memory.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (megabytes * 2**20,) * 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    send({"ready": True})
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            request = json.loads(caller.recv_bytes())
            signal.setitimer(signal.ITIMER_PROF, request.pop("seconds"))
            reply = _reply(**request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            send(reply)
            if reply["error"] == "MemoryError":
                return

"""Processes that run computer algebra on untrusted answers, and the pool that keeps them.

A worker is a fresh interpreter rather than a fork, so that the caller may hold threads, locks and
accelerators. It is started when first needed, reused, and killed at a deadline. Importing this
module starts nothing.

Protocol on its stdin and stdout: a message is its length in bytes (4 bytes, big-endian) and that
many bytes of JSON. The worker says {"ready": true} once, then answers every {"gold", "answer",
"seconds", "grader"} with {"equal", "error"}, and with the "answer" that math-verify found where it
grades. It ends when stdin closes. The deadline is processor time, so that a verdict does not depend
on what else the machine does: the kernel ends the process by SIGPROF, even inside long integer
arithmetic, and whether or not the parent still lives.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from typing import IO, Any

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
        theirs, ours = os.pipe()
        self.lifeline = os.fdopen(ours, "wb", 0)
        with shielded(), os.fdopen(theirs, "rb", 0):
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _BOOTSTRAP, f"{MEGABYTES},{theirs}", *path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs,),
            )
        self.requests = 0
        self.ready = False

    def ask(self, gold: str, answer: str, seconds: float, grader: str = "nabla_eval") -> Verdict:
        """Compare two answers; the process is dead afterwards when it needed more ``seconds``."""
        if not self.ready:
            self._await_ready()
        self.requests += 1
        request = {"gold": gold, "answer": answer, "seconds": seconds, "grader": grader}
        try:
            self._send(request)
            reply = self._receive(time.monotonic() + PATIENCE * seconds)
        except TimeoutError:
            self.kill()
            return Verdict(False, "timeout")
        except (EOFError, OSError):
            self.kill()
            timed_out = self.process.returncode == -signal.SIGPROF
            return Verdict(False, "timeout" if timed_out else "died")
        if self.requests >= MAX_REQUESTS or reply["error"] == "MemoryError":
            self.kill()
        return Verdict(reply["equal"] is True, reply["error"], reply.get("answer"))

    def _await_ready(self) -> None:
        try:
            reply = self._receive(time.monotonic() + START_SECONDS)
        except (TimeoutError, EOFError, OSError) as error:
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

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        write_message(self.process.stdin, message)

    def _receive(self, deadline: float) -> dict[str, Any]:
        (length,) = struct.unpack(">I", self._read(4, deadline))
        reply: dict[str, Any] = json.loads(self._read(length, deadline))
        return reply

    def _read(self, count: int, deadline: float) -> bytes:
        assert self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        received = b""
        while len(received) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            chunk = os.read(descriptor, count - len(received))
            if not chunk:
                raise EOFError
            received += chunk
        return received

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
        for stream in (self.process.stdin, self.process.stdout, self.lifeline):
            if stream is not None:
                try:
                    stream.close()
                except OSError:
                    # Unsent bytes of a request to a dead worker; there is nobody to read them.
                    continue


class GradingPool:
    """At most ``size`` workers, each handed to one thread at a time."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[GradingWorker] = []
        _pools.add(self)

    def ask(self, gold: str, answer: str, seconds: float, grader: str = "nabla_eval") -> Verdict:
        """Compare two normalised answers in a worker within ``seconds`` of its processor time.

        For grader math_verify, a gold answer and a whole response. Neither the start of a worker
        nor waiting for a free one counts.
        """
        with self._free:
            return self._ask(gold, answer, seconds, grader)

    def _ask(self, gold: str, answer: str, seconds: float, grader: str) -> Verdict:
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is not None and not worker.alive:
            worker.kill()
            worker = None
        worker = worker or GradingWorker()
        try:
            verdict = worker.ask(gold, answer, seconds, grader)
        except BaseException:
            # KeyboardInterrupt included: a reply still to come must not answer the next request.
            worker.kill()
            raise
        if worker.alive:
            with self._lock:
                self._idle.append(worker)
        return verdict

    def close(self) -> None:
        """End all idle workers; the next request starts a new one."""
        with self._lock:
            workers, self._idle = self._idle, []
        for worker in workers:
            worker.kill()

    def forget(self) -> None:
        """In a forked child: the workers belong to the parent, so only let go of the pipes."""
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(self.size)
        workers, self._idle = self._idle, []
        for worker in workers:
            worker.close_pipes()
            # Popen would warn about, and wait for, a process that is not ours.
            worker.process.returncode = 0


_pools: weakref.WeakSet[GradingPool] = weakref.WeakSet()


def _each(method: str) -> None:
    for pool in list(_pools):
        getattr(pool, method)()


atexit.register(_each, "close")
os.register_at_fork(after_in_child=lambda: _each("forget"))


# In the worker process:


def read_message(stream: IO[bytes]) -> Any | None:
    """The next message; None at the end of the stream."""
    header = stream.read(4)
    if len(header) < 4:
        return None
    return json.loads(stream.read(struct.unpack(">I", header)[0]))


def write_message(stream: IO[bytes], message: Any) -> None:
    """Send ``message`` (anything that JSON can say) at once."""
    body = json.dumps(message).encode()
    stream.write(struct.pack(">I", len(body)) + body)
    stream.flush()


def _limit_memory(megabytes: int) -> None:
    limit = megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Refused where the hard limit is lower already, and by systems that do not limit memory.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _verdict(request: dict[str, Any]) -> dict[str, Any]:
    from nabla_eval.grading.algebra import published_verdict, same_expression
    from nabla_eval.grading.compare import same

    gold, answer = request["gold"], request["answer"]
    try:
        if request["grader"] == "math_verify":
            equal, found = published_verdict(gold, answer)
            return {"equal": equal, "error": None, "answer": found}
        return {"equal": same(gold, answer, same_expression), "error": None}
    except (MemoryError, RecursionError) as error:
        return {"equal": False, "error": type(error).__name__}
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


def main(megabytes: int, lifeline: int | None = None) -> None:
    """Serve requests until stdin closes, or at once end with who holds the pipe `lifeline`."""
    if lifeline is not None:
        end_with(lifeline)
    # Keep the protocol's stream to ourselves: a library that prints must not corrupt it.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        _warm_up()
    except ImportError as error:
        write_message(replies, {"ready": False, "error": str(error)})
        return
    _limit_memory(megabytes)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    write_message(replies, {"ready": True})
    while (request := read_message(sys.stdin.buffer)) is not None:
        signal.setitimer(signal.ITIMER_PROF, request["seconds"])
        reply = _verdict(request)
        signal.setitimer(signal.ITIMER_PROF, 0)
        write_message(replies, reply)
        if reply["error"] == "MemoryError":
            return

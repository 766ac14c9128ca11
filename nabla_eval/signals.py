"""Signals and the lives of processes: what is told to stop ends soon, and its children with it.

A command is `stoppable`: Ctrl-C, SIGTERM and SIGHUP end it with a word on what is kept, within
`PATIENCE` seconds, whatever the clean-up does. Children are started `shielded`, so that a signal to
the whole group reaches only who started them, and call `end_with`, so that none outlives it.
"""

from __future__ import annotations

import _thread
import fcntl
import multiprocessing
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from nabla_eval.terminal import say

PATIENCE = 5.0  # seconds that a clean-up may take
SPEAKING = 1.0  # seconds that the last words may take: nobody may be reading
TWICE = 1.0  # within so many seconds a second signal is the same one: `timeout` sends two
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Words = Callable[[], str]


class Terminated(SystemExit):
    """SIGTERM or SIGHUP arrived; ends the process with the shell's status for it."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(128 + number)


@contextmanager
def stoppable(words: Words, *, interrupts: bool = False) -> Iterator[None]:
    """Run a block that Ctrl-C, SIGTERM and SIGHUP end; `words()` then go to stderr.

    What a stop interrupts is lost, what was written before is not: records reach their file in one
    system call. Of nested blocks the innermost speaks, and an outer one where stderr was redirected
    meanwhile. A signal that the program handles, or ignores as under nohup, is left alone, and so
    are threads. `interrupts`: Ctrl-C is bounded in time too, which suits a process of its own.
    """
    with _listening(STOPS if interrupts else STOPS[1:]), _Speaker(words) as speaker:
        try:
            yield
            if _stop is not None:  # it was raised where Python drops errors: in a finaliser
                raise _stop.error
        except (KeyboardInterrupt, Terminated) as stop:
            speaker.tell(stop)
            raise
        except BaseException as error:
            if _stop is None:
                raise
            speaker.tell(_stop.error)  # what fails while a stop is under way is the stop's doing
            raise _stop.error from error


def status(stop: BaseException) -> int:
    """Exit status of a command that was stopped: 128 and the number of the signal."""
    return int(stop.code or 0) if isinstance(stop, Terminated) else 128 + signal.SIGINT


def told(error: BaseException) -> bool:
    """Return whether the user has been told of this stop already."""
    return getattr(error, "told", None) is sys.stderr


@contextmanager
def shielded() -> Iterator[None]:
    """Start processes that hear no stop.

    Schedulers and terminals signal all processes of a group; what becomes of a child is decided by
    whoever started it, who ends it with SIGKILL.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Let this `multiprocessing` child end when its parent does, however that happens."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        end_with(parent.sentinel)


def end_with(pipe: int) -> None:
    """Let this process end as soon as nobody holds the writing end of a pipe any more.

    Nothing may ever be written to it. The kernel then sends SIGIO, which ends the process in the
    middle of any computation. (PR_SET_PDEATHSIG acts when the parent's thread ends, and on Linux.)
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    with suppress(OSError):  # a system without it: the process ends when it next reads or writes
        fcntl.fcntl(pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(pipe, fcntl.F_SETFL, fcntl.fcntl(pipe, fcntl.F_GETFL) | os.O_ASYNC)
    poll = select.poll()
    poll.register(pipe, 0)
    if poll.poll(0):  # it was closed before the kernel was asked
        os._exit(128 + signal.SIGIO)


class _Stop:
    """A signal that arrived, and the clean-up that it began."""

    def __init__(self, number: int) -> None:
        self.number, self.began, self.over = number, time.monotonic(), False
        self.error = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        # Not through `threading`, whose locks the interrupted code may hold.
        _thread.start_new_thread(self._bound, ())

    def again(self) -> None:
        """Hear another signal: somebody is impatient."""
        if time.monotonic() - self.began > TWICE:
            self._leave()

    def _bound(self) -> None:
        time.sleep(PATIENCE)
        if not self.over:
            self._leave()

    def _leave(self) -> None:
        """End the process as it stands, which costs no more than SIGKILL does."""
        _thread.start_new_thread(self._exit, (SPEAKING,))
        try:
            for speaker in reversed(_speakers):
                speaker.tell(self.error)
        finally:
            self._exit()

    def _exit(self, wait: float = 0.0) -> None:
        time.sleep(wait)
        os._exit(128 + self.number)


class _Speaker:
    """The words of a block, and the stderr that it began with.

    A signal may fall into the very lines that give a redirected stderr back.
    """

    def __init__(self, words: Words) -> None:
        self.words, self.stderr = words, sys.stderr
        self.kept: int | None = None
        with suppress(OSError):  # there is no stderr
            self.kept = fcntl.fcntl(2, fcntl.F_DUPFD_CLOEXEC, 3)

    def __enter__(self) -> _Speaker:
        _speakers.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _speakers.remove(self)
        if self.kept is not None:
            os.close(self.kept)

    def tell(self, stop: BaseException) -> None:
        """Tell the user of a stop, unless a block within has on the same stderr."""
        sys.stderr = self.stderr
        if self.kept is not None:
            os.dup2(self.kept, 2)
        if told(stop):
            return
        stop.told = sys.stderr  # type: ignore[attr-defined]  # first: a reader that waits may block us
        with suppress(OSError, ValueError):  # SIGHUP also says that the terminal is gone
            said = self.words()
            say(f"\nStopped: {said}" if said else "\nStopped.", err=True)


_speakers: list[_Speaker] = []  # of the blocks that are running
_stop: _Stop | None = None


@contextmanager
def _listening(numbers: Sequence[signal.Signals]) -> Iterator[None]:
    """Raise `KeyboardInterrupt` or `Terminated` for the signals that nobody else handles."""
    global _stop
    usual = (signal.SIG_DFL, signal.default_int_handler)
    ours = threading.current_thread() is threading.main_thread()
    before = {n: signal.getsignal(n) for n in numbers if ours and signal.getsignal(n) in usual}

    def hear(number: int, frame: FrameType | None) -> None:
        global _stop
        if _stop is not None:
            _stop.again()
            return
        _stop = _Stop(number)
        raise _stop.error

    try:
        for number in before:
            signal.signal(number, hear)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before and _stop is not None:
            _stop.over, _stop = True, None

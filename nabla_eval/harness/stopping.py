"""Stopping a run cleanly: SIGTERM, as schedulers send it, ends it as Ctrl-C does, with a word."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from nabla_eval.terminal import say


class Terminated(SystemExit):
    """SIGTERM arrived; ends the process with the shell's status for it."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def stoppable(words: Callable[[], str]) -> Iterator[None]:
    """Run a block that SIGINT and SIGTERM end at once; `words()` then go to stderr.

    What a stop interrupts is lost, what was written before is not: records reach their file in one
    system call. SIGTERM is left alone where the program has its own plans for it, and in threads.
    """
    with _terminable():
        try:
            yield
        except (KeyboardInterrupt, Terminated) as stop:
            say(f"\nStopped: {words()}", err=True)
            stop.told = True  # type: ignore[union-attr]
            raise


def told(error: BaseException) -> bool:
    """Whether the user has been told of this stop already."""
    return getattr(error, "told", False)


@contextmanager
def _terminable() -> Iterator[None]:
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def terminate(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

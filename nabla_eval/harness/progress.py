"""Progress where nobody watches: a line a minute for log files, in place of a bar."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TextIO

import psutil
from tqdm import tqdm

from nabla_eval.terminal import say, visible

SECONDS = 60.0
SCARCE = 0.05  # share of the machine's memory that is left when it is worth a warning


class Progress:
    """Counts answers: a bar on a terminal, a `Heartbeat` elsewhere, or a caller's own display.

    `shown(done, total)` is called after each answer in place of both. `quiet`: nothing is shown.
    """

    def __init__(
        self, total: int, title: str, shown: Callable[[int, int], None] | None, *, quiet: bool
    ) -> None:
        self.total, self.title, self.shown = total, title, shown
        self.quiet = quiet or shown is not None
        self.done = 0
        self._bar: tqdm[Any] | None = None
        self._heart: Heartbeat | None = None
        self._open = ExitStack()

    def __enter__(self) -> Progress:
        if self.quiet:
            return self
        if sys.stderr.isatty():
            title = visible(f"Running generate_until requests ({self.title})")
            self._bar = self._open.enter_context(tqdm(total=self.total, desc=title))
        else:
            self._heart = self._open.enter_context(Heartbeat(self.total, self.title))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def advance(self) -> None:
        """One more answer is there."""
        self.done += 1
        if self._bar is not None:
            self._bar.update()
        if self._heart is not None:
            self._heart.done = self.done
        if self.shown is not None:
            self.shown(self.done, self.total)

    def resumed(self) -> None:
        """Return what was counted so far took no time: an earlier sitting left it."""
        if self._heart is not None:
            self._heart.kept = self.done


class Heartbeat:
    """Writes how far a run is, what is left and what memory it holds; a context manager.

    From a thread of its own: an item that takes an hour does not look like a run that hangs.
    """

    def __init__(
        self, total: int, title: str, *, every: float = SECONDS, stream: TextIO | None = None
    ) -> None:
        self.total, self.title, self.every = total, title, every
        self.stream = sys.stderr if stream is None else stream
        self.done = 0
        self.kept = 0  # of them, what an earlier sitting left
        self._warned = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        if error is None:
            self._write(self.line())

    def line(self) -> str:
        """`nabla: 37 of 200 in 12 min, about 53 min left, 3.2 GiB of memory`."""
        spent = time.monotonic() - self._began
        words = [f"{self.title}: {self.done} of {self.total} in {_duration(spent)}"]
        fresh = self.done - self.kept
        if fresh > 0 and self.done < self.total:
            left = spent / fresh * (self.total - self.done)
            words.append(f"about {_duration(left)} left")
        words.append(f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB of memory")
        return ", ".join(words)

    def _beat(self) -> None:
        while not self._ended.wait(self.every):
            self._write(self.line())
            memory = psutil.virtual_memory()
            if not self._warned and memory.available < SCARCE * memory.total:
                self._warned = True
                self._write(
                    f"Only {memory.available / 2**30:.1f} GiB of this machine's memory are left. "
                    "A smaller batch_size or max_batch_tokens needs less."
                )

    def _write(self, text: str) -> None:
        say(text, file=self.stream)


def _duration(seconds: float) -> str:
    """`42 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

"""Progress of a run: a bar on a terminal, and a line a minute in log files."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil
from tqdm import tqdm

from nabla_eval.terminal import say, visible

SECONDS = 60.0


class Progress:
    """Counts answers; a context manager.

    Shows a bar on a terminal. Elsewhere a thread writes how far the run is, what is left and what
    memory it holds: an item that takes an hour does not look like a run that hangs. Instead of
    both, `shown(done, total)` is called after each answer. `quiet`: nothing is shown.
    """

    def __init__(
        self,
        total: int,
        title: str,
        shown: Callable[[int, int], None] | None = None,
        *,
        quiet: bool = False,
        doing: str = "Running generate_until requests",
        every: float = SECONDS,
    ) -> None:
        self.total, self.title, self.shown, self.every = total, title, shown, every
        self.doing = doing
        self.done = 0
        self.kept = 0  # of them, what an earlier sitting left
        self._quiet = quiet or shown is not None
        self._stream = sys.stderr
        self._bar: tqdm[Any] | None = None
        self._lines: threading.Thread | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self._quiet:
            return self
        if self._stream.isatty():
            title = visible(f"{self.doing} ({self.title})")
            self._bar = tqdm(total=self.total, desc=title)
        else:
            self._lines = threading.Thread(target=self._write_lines, name="heartbeat", daemon=True)
            self._lines.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._lines is not None:
            self._ended.set()
            self._lines.join()
            if kind is None:
                say(self.line(), file=self._stream)

    def advance(self, stored: bool = False) -> None:
        """Count one more answer; one that an earlier sitting stored took no time."""
        self.done += 1
        self.kept += stored
        if self._bar is not None:
            self._bar.update()
        if self.shown is not None:
            self.shown(self.done, self.total)

    def line(self) -> str:
        """Return `nabla: 37 of 200 in 12 min, about 53 min left, 3.2 GiB of memory`."""
        spent = time.monotonic() - self._began
        words = [f"{self.title}: {self.done} of {self.total} in {_duration(spent)}"]
        fresh = self.done - self.kept
        if fresh > 0 and self.done < self.total:
            left = spent / fresh * (self.total - self.done)
            words.append(f"about {_duration(left)} left")
        words.append(f"{psutil.Process().memory_info().rss / 2**30:.1f} GiB of memory")
        return ", ".join(words)

    def _write_lines(self) -> None:
        while not self._ended.wait(self.every):
            say(self.line(), file=self._stream)


def _duration(seconds: float) -> str:
    """Return `42 s`, `12 min` or `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"

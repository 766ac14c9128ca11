"""`nabla-eval` in a process of its own that tests signal, and all processes that it starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil

MARK = "NABLA_TEST_SITTING"  # in the environment of all processes of one sitting


class Sitting:
    """One `nabla-eval COMMAND`, in a session of its own, with all processes that it starts."""

    def __init__(self, log: Path, *command: str) -> None:
        self.mark, self.log = uuid.uuid4().hex, log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nabla_eval.cli.main", *command],
                stdout=errors, stderr=errors, env={**os.environ, MARK: self.mark},
                start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float = 600) -> int:
        return self.process.wait(seconds)

    def alive(self) -> list[psutil.Process]:
        """Its processes, whatever group they are in and whoever their parent is by now."""
        found = []
        for process in psutil.process_iter():
            try:
                marked = process.environ().get(MARK) == self.mark
            except psutil.Error:
                continue
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def until(self, reached: Callable[[], bool], every: float = 0.005) -> None:
        """Wait for something, or for the end."""
        while self.process.poll() is None and not reached():
            time.sleep(every)

    def leaves_nobody(self) -> bool:
        """Whether all its processes are gone 5 seconds after the first one."""
        self.wait()
        end = time.monotonic() + 5
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

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
from lm_eval_process import Launcher, ended

MARK = "NABLA_TEST_SITTING"  # in the environment of all processes of one sitting


class Forked:
    """A process that a launcher has forked, as if `subprocess` had started it."""

    def __init__(self, launcher: Launcher, *command: str, log: Path) -> None:
        self.launcher = launcher
        (self.pid,) = launcher.start("nabla-eval", *command, log=log)
        self.status: int | None = None

    def poll(self) -> int | None:
        if self.status is None and ended(self.pid):
            (self.status,) = self.launcher.reap([self.pid])
        return self.status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        end = time.monotonic() + seconds
        while (status := self.poll()) is None:
            assert time.monotonic() < end, f"{self.pid} still runs after {seconds} s"
            time.sleep(0.01)
        return status


class Sitting:
    """One `nabla-eval COMMAND`, in a session of its own, with all processes that it starts.

    With a launcher it is forked from a process that has imported everything.
    """

    def __init__(self, log: Path, *command: str, launcher: Launcher | None = None) -> None:
        self.mark, self.log = uuid.uuid4().hex, log
        self.process: subprocess.Popen[bytes] | Forked
        if launcher is not None:
            self.process = Forked(launcher, *command, log=log)
            return
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nabla_eval.cli.main", *command],
                stdout=errors, stderr=errors, env={**os.environ, MARK: self.mark},
                start_new_session=True,
            )  # fmt: skip

    def wait(self, seconds: float = 600) -> int:
        return self.process.wait(seconds)

    def alive(self) -> list[psutil.Process]:
        """Its processes: those of its session, and those that inherited its mark."""
        return [process for process in psutil.process_iter() if self._own(process)]

    def _own(self, process: psutil.Process) -> bool:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            own = os.getsid(process.pid) == self.process.pid
            return own or process.environ().get(MARK) == self.mark
        except (psutil.Error, OSError):
            return False

    def until(self, reached: Callable[[], bool], every: float = 0.005) -> None:
        """Wait for something, or for the end."""
        while self.process.poll() is None and not reached():
            time.sleep(every)

    def leaves_nobody(self) -> bool:
        """Return whether all its processes are gone 5 seconds after the first one."""
        self.wait()
        end = time.monotonic() + 5
        while self.alive():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

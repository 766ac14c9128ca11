"""A real `lm_eval --model nabla` in a process of its own, to be killed; started without delay.

lm-eval and torch take seconds to import. So one process imports them and, for each command line,
forks a child that runs lm-eval's own main function.

Each line on its stdin, a JSON list [limit of file sizes, arguments], is answered by the child's pid
and then by its exit status.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Launcher:
    """Talks to the process that forks."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        assert self._line() == "ready", log.read_text()

    def start(self, *arguments: str, largest_file: int = -1) -> int:
        """Begin `lm_eval ARGUMENTS`; returns the pid. No file may grow beyond `largest_file`."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([largest_file, arguments]) + "\n")
        self.process.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """Exit status of what was started; negative for the signal that ended it."""
        assert self.process.stdin is not None
        self.process.stdin.write("reap\n")
        self.process.stdin.flush()
        return int(self._line())

    def run(self, *arguments: str, **options: Any) -> int:
        """`start` and `wait`."""
        self.start(*arguments, **options)
        return self.wait()

    def interrupted(
        self, number: int, after: float, reached: Callable[[], bool], *arguments: str
    ) -> int:
        """Start, send a signal when something is reached or after some seconds, and wait."""
        pid = self.start(*arguments)
        end = time.monotonic() + after
        while time.monotonic() < end and not reached():
            time.sleep(0.001)
        os.kill(pid, number)  # of a child that has ended nothing is reaped yet: the pid is its own
        return self.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextmanager
def launcher(log: Path) -> Iterator[Launcher]:
    """A launcher that ends with the block."""
    made = Launcher(log)
    with made.process:
        try:
            yield made
        finally:
            assert made.process.stdin is not None
            made.process.stdin.close()  # it then ends


def _child(largest_file: int, arguments: Sequence[str]) -> None:
    os.dup2(2, 1)
    if largest_file >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = ["lm_eval", *arguments]
    from lm_eval.__main__ import cli_evaluate

    from nabla_eval.harness.lmeval import indexing_only
    from nabla_eval.harness.tasks import tasks_path

    with indexing_only(("nabla_countdown",), [str(tasks_path())]):
        cli_evaluate()


def _serve() -> None:
    import torch

    import nabla_eval.harness.lm  # noqa: F401 - imported here for the children
    from nabla_eval.harness import countdown

    countdown.dataset()  # draws the problems, which are kept
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    print("ready", flush=True)
    while line := sys.stdin.readline():
        largest_file, arguments = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _child(largest_file, arguments)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
                code = 130 if isinstance(error, KeyboardInterrupt) else 1
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _serve()

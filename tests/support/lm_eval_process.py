"""A real `lm_eval --model nabla` in a process of its own, to be killed; started without delay.

lm-eval and torch take seconds to import. So one process imports them and, for each command line,
forks a child that runs lm-eval's own main function.

A line on its stdin, a JSON list [limit of file sizes, number of ranks, log, arguments], is answered
by the pids of the ranks; a list of pids is answered by their exit statuses, once they have ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil

GRACE = 5.0


class Launcher:
    """Talks to the process that forks."""

    def __init__(self, log: Path, *modules: str) -> None:
        self.log = log
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, *modules],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
        assert self._line() == "ready", log.read_text()

    def start(
        self, *arguments: str, ranks: int = 1, largest_file: int = -1, log: Path | None = None
    ) -> list[int]:
        """Begin `lm_eval ARGUMENTS` in one process a rank, as torchrun would; returns the pids.

        Arguments that begin with `nabla-eval` are a command of ours instead. No file may grow
        beyond `largest_file`. With a `log` the processes are a session and write there.
        """
        self.pids = self._ask(json.dumps([largest_file, ranks, log and str(log), arguments]))
        return self.pids

    def wait(self) -> int:
        """Exit status of what was started last: of the first rank that did not end well.

        Negative for the signal that ended it.
        """
        return next((status for status in self.reap(self.pids) if status), 0)

    def reap(self, pids: Sequence[int]) -> list[int]:
        """Exit statuses of processes, in their order, when all have ended."""
        return self._ask(json.dumps(pids))

    def _ask(self, line: str) -> list[int]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return [int(word) for word in self._line().split()]

    def run(self, *arguments: str, **options: Any) -> int:
        """`start` and `wait`."""
        self.start(*arguments, **options)
        return self.wait()

    def interrupted(
        self, number: int, after: float, reached: Callable[[], bool], *arguments: str,
        ranks: int = 1,
    ) -> int:  # fmt: skip
        """Start, send a signal when something is reached or after some seconds, and wait.

        Several ranks that do not end by it within `GRACE` seconds are killed, as schedulers do it:
        a rank that waits for another one in a library hears no signal.
        """
        pids = self.start(*arguments, ranks=ranks)
        end = time.monotonic() + after
        while time.monotonic() < end and not reached():
            time.sleep(0.001)
        # Of a child that has ended nothing is reaped yet: the pid is its own.
        _send(pids, number)
        if ranks > 1 and number != signal.SIGKILL:
            end = time.monotonic() + GRACE
            while time.monotonic() < end and not all(map(ended, pids)):
                time.sleep(0.01)
            _send(pids, signal.SIGKILL)
        return self.wait()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


def _send(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def ended(pid: int) -> bool:
    """Return whether a process of a launcher has ended, and waits to be reaped."""
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@contextmanager
def launcher(log: Path, *modules: str) -> Iterator[Launcher]:
    """A launcher that ends with the block, and has imported these modules too."""
    made = Launcher(log, *modules)
    with made.process:
        try:
            yield made
        finally:
            assert made.process.stdin is not None
            made.process.stdin.close()  # it then ends


def run_lm_eval(*arguments: str) -> None:
    """lm-eval's own main function, which reads no tasks but those that are asked for.

    Nor does it list every installed package, which takes a second.
    """
    if arguments[0] == "nabla-eval":
        from nabla_eval.cli.main import main

        main(list(arguments[1:]))
        return
    import lm_eval.tasks
    import torch.utils.collect_env
    from lm_eval.__main__ import cli_evaluate

    torch.utils.collect_env.get_pretty_env_info = lambda: ""
    lm_eval.tasks.TaskManager = partial(  # type: ignore[misc]
        lm_eval.tasks.TaskManager, include_defaults=False
    )
    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()


def _serve(modules: Sequence[str]) -> None:
    import torch

    for name in ("lm_eval._cli.run", "nabla_eval.harness.lm", "pytablewriter", *modules):
        import_module(name)  # for the children
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    print("ready", flush=True)
    while line := sys.stdin.readline():
        asked = json.loads(line)
        if isinstance(asked[-1], int):
            statuses = [os.waitpid(pid, 0)[1] for pid in asked]
            print(*map(os.waitstatus_to_exitcode, statuses), flush=True)
            continue
        largest_file, ranks, log, arguments = asked
        port = _free_port()
        pids = []
        for rank in range(ranks):
            pid = os.fork()
            if pid:
                pids.append(pid)
                continue
            if ranks > 1:
                os.environ.update(_environment(rank, ranks, port))
            code = 1
            try:
                if log is not None:
                    os.setsid()
                    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                os.dup2(2, 1)
                if largest_file >= 0:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
                run_lm_eval(*arguments)
                code = 0
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except BaseException as error:
                sys.excepthook(type(error), error, error.__traceback__)
                code = 130 if isinstance(error, KeyboardInterrupt) else 1
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(*pids, flush=True)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _environment(rank: int, ranks: int, port: int) -> dict[str, str]:
    """What torchrun tells a process on one machine without GPUs."""
    return {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    _serve(sys.argv[1:])

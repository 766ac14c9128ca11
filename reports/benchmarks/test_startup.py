"""What a user waits for before anything runs (f)."""

from __future__ import annotations

import subprocess
import sys
from statistics import median

import pytest
from clock import Clock

pytestmark = pytest.mark.benchmark(group="start-up")


def test_help(clock: Clock) -> None:
    """`nabla-eval --help` beside an empty run of the interpreter."""

    def python(*arguments: str) -> None:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)

    spent = clock.turns(
        lambda: python("-m", "nabla_eval.cli.main", "--help"),
        rounds=11,
        interpreter=lambda: python("-c", ""),
    )
    if spent:
        clock.note(
            "f",
            what="nabla-eval --help",
            seconds=median(spent["subject"]),
            interpreter=median(spent["interpreter"]),
            rounds=len(spent["subject"]),
        )


def test_hook(clock: Clock) -> None:
    """The start-up file: microseconds that Python itself counts for it (`-X importtime`)."""
    counted: list[int] = []

    def run() -> None:
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", ""],
            check=True,
            capture_output=True,
            text=True,
        )
        lines = [line for line in done.stderr.splitlines() if "_nabla_eval_hook" in line]
        assert lines, "The start-up file of this environment does not run: install the package."
        counted.append(int(lines[0].removeprefix("import time:").split("|")[1]))

    spent = clock.turns(run, rounds=11)
    if spent:
        clock.note(
            "f", what=".pth hook", seconds=median(counted) / 1e6, rounds=len(spent["subject"])
        )

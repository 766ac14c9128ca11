"""Memory and file handles do not grow with the number of problems."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import psutil
import pytest

from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import configure, start
from nabla_eval.protocol import Method
from nabla_eval.testing import tiny_pair, tiny_problems


@pytest.mark.slow
def test_two_thousand_problems_take_no_more_memory_than_two_hundred() -> None:
    pair = tiny_pair(seed=3)
    config = configure("nabla", {"n": 2, "temperature": 1.0, "steps": 1})
    problems = tiny_problems(pair, 2000)
    process = psutil.Process()
    seen: dict[int, tuple[int, int]] = {}

    def methods() -> Iterator[Method]:
        for problem in problems:
            yield start(problem, config)

    # As a run does: one executor, whatever it keeps; outcomes are written down and dropped.
    for finished, _ in enumerate(drive(methods(), Executor(pair), 16), 1):
        if finished in (200, 2000):
            gc.collect()
            seen[finished] = (process.memory_info().rss, process.num_fds())
    (early, files), (late, files_late) = seen[200], seen[2000]
    assert late <= 1.05 * early
    assert files_late <= files

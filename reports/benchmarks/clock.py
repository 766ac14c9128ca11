"""Ratios measured within one run: reference and subject take turns, so both see the same machine.

`make test` runs each once, on little, without a clock; `make bench` times them.
`reports/benchmarks/benchmark_page.py` then makes a page of what pytest-benchmark kept.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from nabla_eval.dto import relaxation
from nabla_eval.embedded.countdown import test_problems as countdown
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.pair import Pair
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Problem
from nabla_eval.randomness import Key

Value = TypeVar("Value")


def seconds(run: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    awaited(run)
    return time.perf_counter() - began


def awaited(run: Callable[[], Any]) -> None:
    """Call, and wait for what it left running on a GPU."""
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


class Clock:
    """Takes the times of a subject and, before each of its rounds, of other runs."""

    def __init__(self, benchmark: BenchmarkFixture) -> None:
        self.benchmark = benchmark
        self.timed = benchmark.enabled
        if self.timed:
            assert not hasattr(relaxation.hard_tokens, "__wrapped__"), (
                "shape checks are on: use `make bench`"
            )
            # What the session holds is the collector's no more: its walks over models and earlier
            # tests would fall on whichever run happens to fill its youngest generation.
            gc.collect()
            gc.freeze()

    def of(self, full: Value, untimed: Value) -> Value:
        """A size: large where the clock runs, small where only the code does."""
        return full if self.timed else untimed

    def turns(
        self,
        subject: Callable[[], Any],
        rounds: int = 5,
        warm: int = 1,
        **others: Callable[[], Any],
    ) -> dict[str, list[float]]:
        """Seconds of each by round, `subject` among them; empty where no clock runs.

        Rounds that only warm up are not among them: allocators, caches and lazy imports.
        """
        spent: dict[str, list[float]] = {name: [] for name in others}

        def before() -> None:
            for name, run in others.items():
                spent[name].append(seconds(run))

        self.benchmark.pedantic(
            lambda: awaited(subject),
            setup=before,
            rounds=rounds if self.timed else 1,
            warmup_rounds=warm if self.timed else 0,
        )
        if not self.timed:
            return {}
        spent = {name: values[-rounds:] for name, values in spent.items()}
        return {**spent, "subject": list(self.benchmark.stats.stats.data)}

    def note(self, figure: str, **values: Any) -> None:
        """What the page shows under the letter of a figure."""
        self.benchmark.extra_info.update({"figure": figure, **values})


def embedded_problems(pair: Pair, count: int) -> list[Problem]:
    """Problems of the embedded task's test split."""
    return [
        pair.problem(
            pair.policy.encode(problem["prompt"]),
            Key.root(0) / "bench" / i,
            max_new_tokens=32,
            id=f"bench/{i}/0",
        )
        for i, problem in enumerate(countdown(count))
    ]


def solve(
    pair: Pair, problems: list[Problem], method: str, width: int = 32, **options: Any
) -> list[Outcome]:
    """Outcomes of a method with some options, `width` problems in flight."""
    config = configure(method, options)
    return drive_all([start(problem, config) for problem in problems], Executor(pair), width)

"""`make soak`: drawn engine programs and small lm_eval runs in one process, for SOAK_MINUTES.

Ends with what was held at each tenth of the time, and with status 1 where something grew between
the second fifth and the last one: resident memory by more than 5 %, open files, threads, or the
engine's rows and caches.
"""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("LMEVAL_LOG_LEVEL", "ERROR")

import psutil
import torch
from engine_programs import KINDS, pair, together
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from nabla_eval.engine.batch_cache import PaddedCache
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.prefix_cache import CachedPrefix
from nabla_eval.engine.response import Response
from nabla_eval.methods.registry import start
from nabla_eval.models.prefix import RowCache

GROWTH = 1.05
BATCH, RUN_EVERY = 20, 10  # programs side by side; batches of them from one lm_eval run to the next
KEPT = (CachedPrefix, PaddedCache, RowCache, Response)


@dataclass(frozen=True)
class Held:
    """What the process holds at one moment, between two pieces of work."""

    minutes: float
    programs: int
    runs: int
    bytes: int
    files: int
    threads: int
    rows: int  # KV caches and rows of the engine

    @classmethod
    def now(cls, began: float, programs: int, runs: int) -> Held:
        gc.collect()
        process = psutil.Process()
        rows = sum(isinstance(thing, KEPT) for thing in gc.get_objects())
        return cls(
            (time.monotonic() - began) / 60, programs, runs, process.memory_info().rss,
            process.num_fds(), process.num_threads(), rows,
        )  # fmt: skip


@cache
def strategies(kind: str) -> dict[str, Any]:
    """Made once: Hypothesis remembers every strategy, so that new ones in each round add up."""
    return {
        "programs": together(kind, BATCH),
        "budget": st.sampled_from([1, 60, 10**9]),
        "past": st.sampled_from([0, 30, 10**9]),
        "width": st.sampled_from([2, BATCH]),
    }


def drawn(seed: int) -> None:
    """One batch of drawn programs on the engine, with drawn limits; other ones for each seed."""
    kind = KINDS[seed % len(KINDS)]

    @settings(max_examples=1, phases=[Phase.generate], database=None, deadline=None)
    @given(**strategies(kind))
    def run(programs: Any, budget: int, past: int, width: int) -> None:
        executor = Executor(pair(kind), max_batch_tokens=budget, max_cached_tokens=past)
        drive_all((start(p.problem, p.config) for p in programs), executor, width)

    from hypothesis import seed as seeded

    seeded(seed)(run)()


def evaluated(number: int) -> None:
    """A small lm_eval run into a folder of its own, by one method after another."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from nabla_eval.harness.task_files import tasks_path

    method = ("nabla", "best_of_n", "greedy", "self_consistency")[number % 4]
    quiet = contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO())
    with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
        manager = TaskManager(include_path=str(tasks_path()), include_defaults=False)
        simple_evaluate(
            model="nabla",
            model_args={"method": method, "seed": number, "trace_dir": folder},
            tasks=["nabla_countdown"],
            task_manager=manager,
            limit=4,
            batch_size=4,
            device="cpu",
        )


def soak(minutes: float) -> Iterator[Held]:
    """Work, and say what is held, about ten times."""
    began, due = time.monotonic(), 0.0
    programs = runs = 0
    for round in range(sys.maxsize):
        if round % RUN_EVERY == 0:
            evaluated(runs)
            runs += 1
        drawn(round)
        programs += BATCH
        spent = (time.monotonic() - began) / 60
        if spent >= min(due, minutes):
            yield Held.now(began, programs, runs)
            due = spent + minutes / 10
        if spent >= minutes:
            return


def grown(seen: list[Held]) -> list[str]:
    """What the last fifth holds more of than the second one: caches have filled by then."""
    fifth = max(1, len(seen) // 5)
    early, late = seen[fifth : 2 * fifth] or seen[:1], seen[-fifth:]
    found = []
    for name, factor in [("bytes", GROWTH), ("files", 1.0), ("threads", 1.0), ("rows", 1.0)]:
        before = max(getattr(held, name) for held in early)
        after = min(getattr(held, name) for held in late)
        if after > factor * before:
            found.append(f"{name}: {before:,} before, {after:,} after")
    return found


def main() -> int:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    console, seen = Console(), list[Held]()
    names = [field.name for field in fields(Held)]
    console.print("  ".join(names))
    for held in soak(float(os.environ.get("SOAK_MINUTES", "30"))):
        seen.append(held)
        console.print("  ".join(f"{getattr(held, name):>{len(name)},.0f}" for name in names))
    faults = grown(seen)
    console.print("Grown: " + "; ".join(faults) if faults else "Nothing grew.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())

"""Gains as ratios within one run (`make bench`); disabled in `make test`, where they run once."""

from __future__ import annotations

import time

import pytest

from nabla_eval.engine import naive
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import configure, start
from nabla_eval.testing import tiny_pair, tiny_problems


def seconds(run) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@pytest.fixture(scope="module")
def tiny():
    pair = tiny_pair(seed=3)
    return pair, tiny_problems(pair, 32)


def test_fast_engine_against_the_specification(tiny, benchmark):
    """32 problems as one batch against 32 loops; the ratio is what one run measured."""
    pair, problems = tiny
    config = configure("nabla", {"n": 8, "passes": 2, "temperature": 1.0, "lr": 0.1})

    def fast():
        return drive([start(problem, config) for problem in problems], Executor(pair))

    benchmark(fast)
    ratio = (
        seconds(lambda: [naive.nabla(pair, p, config) for p in problems[:8]]) * 4 / seconds(fast)
    )
    benchmark.extra_info["times faster than naive"] = round(ratio, 1)
    assert ratio > 1


def test_nabla_against_best_of_n(tiny, benchmark):
    """Wall-clock of ∇-Reasoner and of best-of-N at the same N on the same problems."""
    pair, problems = tiny
    configs = {
        name: configure(name, {"n": 8, "temperature": 1.0}) for name in ("nabla", "best_of_n")
    }

    def run(name):
        return drive([start(problem, configs[name]) for problem in problems], Executor(pair))

    benchmark(run, "nabla")
    ratio = seconds(lambda: run("nabla")) / seconds(lambda: run("best_of_n"))
    benchmark.extra_info["seconds of nabla per second of best-of-n"] = round(ratio, 2)
    assert ratio > 0

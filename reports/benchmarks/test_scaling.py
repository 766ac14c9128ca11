"""How seconds grow with the length, N, problems, problems in flight and the vocabulary (e)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from clock import Clock, seconds, solve
from random_pairs import random_pair, random_problems

from nabla_eval.models.prefix import padded

pytestmark = pytest.mark.benchmark(group="scaling")

ROUNDS = 2


def slope(sizes: Sequence[int], spent: Sequence[float]) -> float:
    """Of the least-squares line through log seconds against log size: 1 where it is linear."""
    return float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])


def measure(
    clock: Clock, what: str, sizes: list[int], run: Callable[[int], Any], **notes: Any
) -> None:
    """Times of `run` at each size, the smallest of some rounds in turn."""
    sizes = sizes if clock.timed else sizes[:1]
    run(sizes[0])
    spent: dict[int, list[float]] = {size: [] for size in sizes}

    def rounds() -> None:
        for _ in range(clock.of(ROUNDS, 1)):
            for size in sizes:
                spent[size].append(seconds(lambda size=size: run(size)))

    clock.turns(rounds, rounds=1, warm=0)
    if clock.timed:
        best = [min(values) for values in spent.values()]
        clock.note("e", what=what, sizes=sizes, seconds=best, slope=slope(sizes, best), **notes)


@pytest.mark.parametrize("method", ["nabla", "best_of_n", "generate"])
def test_length(clock: Clock, method: str) -> None:
    """Response tokens; `generate` is transformers' own, whose attention is the yardstick."""
    pair, model = random_pair()

    def run(length: int) -> None:
        problems = random_problems(pair, [length] * clock.of(8, 1))
        if method == "generate":
            ids, mask = padded([problem.prompt for problem in problems], pair.policy.device)
            model.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                min_new_tokens=length,
                max_new_tokens=length,
                pad_token_id=0,
            )
        else:
            solve(pair, problems, method, n=4)

    measure(clock, "length L", [32, 64, 128, 256], run, method=method)


@pytest.mark.parametrize("method", ["nabla", "best_of_n"])
def test_candidates(clock: Clock, method: str) -> None:
    """N: the rollouts that a problem may have."""
    pair, _ = random_pair()
    problems = random_problems(pair, [clock.of(32, 8)] * clock.of(16, 2))
    measure(
        clock, "N", [2, 4, 8, 16, 32], lambda n: solve(pair, problems, method, n=n), method=method
    )


@pytest.mark.parametrize("method", ["nabla", "best_of_n"])
def test_problems(clock: Clock, method: str) -> None:
    """Problems, 16 of them in flight."""
    pair, _ = random_pair()
    problems = random_problems(pair, [clock.of(32, 4)] * 256)

    def run(count: int) -> None:
        solve(pair, problems[:count], method, width=16, n=4)

    measure(clock, "problems", [16, 32, 64, 128, 256], run, method=method)


@pytest.mark.parametrize("method", ["nabla", "best_of_n"])
def test_problems_in_flight(clock: Clock, method: str) -> None:
    """The same 64 problems with more of them in flight: seconds fall."""
    pair, _ = random_pair()
    problems = random_problems(pair, [clock.of(32, 4)] * clock.of(64, 2))

    def run(width: int) -> None:
        solve(pair, problems, method, width=width, n=4)

    measure(clock, "batch (problems in flight)", [1, 4, 16, 64], run, method=method)


@pytest.mark.parametrize("method", ["nabla", "best_of_n"])
def test_vocabulary(clock: Clock, method: str) -> None:
    """V: rows of logits, gradients and draws."""
    pairs = {size: random_pair(size)[0] for size in clock.of([512, 2048, 8192, 32768], [512])}

    def run(size: int) -> None:
        solve(pairs[size], random_problems(pairs[size], [clock.of(32, 4)] * 8), method, n=4)

    measure(clock, "vocabulary V", list(pairs), run, method=method)

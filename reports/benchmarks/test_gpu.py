"""The engine on one GPU: random weights in the shapes of Qwen2.5-7B and a Qwen3-4B reward, bf16.

Without a GPU the same code runs on the CPU with small shapes, and notes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from statistics import median
from typing import Any

import pytest
import torch
from clock import Clock, solve
from random_pairs import QWEN2_5_7B, QWEN3_4B, random_pair, random_problems
from references import Refining, written, written_by_transformers

from nabla_eval.models.pair import Pair

CUDA = torch.cuda.is_available()

pytestmark = [pytest.mark.benchmark(group="gpu"), pytest.mark.gpu]


@pytest.fixture(scope="module")
def big() -> Iterator[tuple[Pair, Any]]:
    if CUDA:
        yield random_pair(152_064, QWEN2_5_7B, QWEN3_4B, 8192, torch.bfloat16, "cuda")
        torch.cuda.empty_cache()
    else:
        yield random_pair(64, dtype=torch.bfloat16)


def size(full: int, small: int) -> int:
    return full if CUDA else small


def note(clock: Clock, **values: Any) -> None:
    if CUDA and clock.timed:
        clock.note("gpu", card=torch.cuda.get_device_name(), **values)


def test_decode_loop_against_generate(clock: Clock, big: tuple[Pair, Any]) -> None:
    pair, model = big
    draw = random.Random(0)
    lengths = [draw.randint(size(32, 2), size(512, 8)) for _ in range(size(32, 2))]
    problems = random_problems(pair, lengths, prompt=size(128, 4))
    spent = clock.turns(
        lambda: written(pair, problems),
        rounds=2,
        generate=lambda: written_by_transformers(pair, model, problems, lengths),
    )
    if spent:
        note(
            clock,
            what="decode loop by transformers' generate, tokens/s, rows of unequal length",
            ratios=[b / a for a, b in zip(spent["subject"], spent["generate"], strict=True)],
            detail=f"{len(lengths)} rows, {sum(lengths)} tokens, "
            f"{sum(lengths) / median(spent['subject']):.0f} tokens/s",
        )


@pytest.mark.parametrize("lookahead", [1, "auto"])
@pytest.mark.parametrize("width", [8, 64], ids=["problems", "rows"])
def test_nabla_against_best_of_n(
    clock: Clock, big: tuple[Pair, Any], width: int, lookahead: int | str
) -> None:
    """8 problems of best-of-8, that is 64 responses, in flight; of ∇-Reasoner 8 or 64 problems."""
    pair, _ = big
    count, other = (width, 8) if CUDA else (2, 2)
    problems = random_problems(pair, [size(192, 4)] * count, prompt=size(128, 4))
    spent = clock.turns(
        lambda: solve(pair, problems, "nabla", width, n=8, lookahead=lookahead),
        rounds=1,
        best_of_n=lambda: solve(pair, problems, "best_of_n", other, n=8),
    )
    if spent:
        note(
            clock,
            what=f"nabla by best-of-8, seconds, {width} and {other} problems in flight",
            ratios=[a / b for a, b in zip(spent["subject"], spent["best_of_n"], strict=True)],
            detail=f"lookahead={lookahead}, {count} problems of {size(192, 4)} tokens",
        )


@pytest.mark.parametrize("length", [512, 3072])
def test_dto_against_a_bare_pass(clock: Clock, big: tuple[Pair, Any], length: int) -> None:
    """One response; reports/memory.md says that the peak fits beside the models on 80 GB."""
    pair, _ = big
    refine = Refining(pair, random_problems(pair, [size(length, 6)], prompt=size(128, 4)))
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    refine()
    peak = torch.cuda.max_memory_allocated() / 2**30 if CUDA else 0.0
    spent = clock.turns(refine, rounds=3, bare=refine.bare)
    if spent:
        note(
            clock,
            what="DTO by one bare pass of both models, seconds",
            ratios=[a / b for a, b in zip(spent["subject"], spent["bare"], strict=True)],
            detail=f"1 response of {length} tokens, peak {peak:.1f} GiB with the weights",
        )

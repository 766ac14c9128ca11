"""DTO on many rows: steps some of them at a time, with the same result and less memory."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from live_bytes import peak

from nabla_eval.dto import loop, objective
from nabla_eval.engine import refine
from nabla_eval.engine.gradient import gradients
from nabla_eval.engine.refine import Solution, optimise_rows
from nabla_eval.engine.replay import forced
from nabla_eval.methods.select import hard_sequence
from nabla_eval.models.pair import Pair
from nabla_eval.options import DTO, Sampling
from nabla_eval.requests import Differentiate, Refine
from nabla_eval.testing import tiny_pair, tiny_problems


def asks(pair: Pair, dto: DTO, tokens: int, count: int = 3) -> list[Refine]:
    problems = tiny_problems(pair, count, max_new_tokens=tokens)
    rows = [tuple(2 + (i + 3 * j) % 9 for j in range(tokens)) for i in range(count)]
    known = forced(pair.policy, list(zip(problems, rows, strict=True)))
    found = []
    for i, (problem, own) in enumerate(zip(problems, known, strict=True)):
        hard = hard_sequence(own, i, dto)
        (gradient,) = gradients(pair, [Differentiate(problem, own, hard, dto.objective)])
        found.append(Refine(problem, own, i, (problem.key,), Sampling(), dto, gradient))
    return found


def in_parts(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    for module in (loop, objective, refine):
        monkeypatch.setattr(module, "_ELEMENTS", elements)


@pytest.mark.parametrize(
    ("anchor", "parameterisation", "grad_cache"),
    [*itertools.product(["argmax", "sampled"], ["logits", "latents"], [True, False])],
)
def test_parts_change_nothing(
    anchor: Any, parameterisation: Any, grad_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tiny_pair(seed=3)
    dto = DTO(
        steps=6, lr=0.5, update="all", anchor=anchor, parameterisation=parameterisation,
        grad_cache=grad_cache,
    )  # fmt: skip
    requests = asks(pair, dto, 7)
    whole = optimise_rows(pair, requests)
    in_parts(monkeypatch, 2 * pair.policy.vocabulary)
    parts = optimise_rows(pair, requests)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-10)
    assert torch.equal(parts.start, whole.start)
    assert (parts.passes, parts.flips) == (whole.passes, whole.flips)
    assert sum(whole.passes) > 0


def taken(pair: Pair, request: Refine) -> float:
    """Peak bytes over those of one float32 number per free row and token."""
    found: list[Solution] = []
    most = peak(lambda: found.append(optimise_rows(pair, [request])))
    return most / (4 * found[0].logits.numel())


def test_memory_is_a_few_numbers_per_row_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start, z, two moments, dL/dy, the result and the anchor: 7, where all at once took 17.

    An eighth is the first dL/dy, which the shape checker of the tests holds on to.
    """
    pair = tiny_pair(vocabulary=2048, dtype=torch.float32)
    request = asks(pair, DTO(steps=4, lr=0.1, update="all", anchor="sampled"), 48, count=1)[0]
    whole = taken(pair, request)
    in_parts(monkeypatch, 2 * pair.policy.vocabulary)
    assert 7 <= taken(pair, request) < 9 < 14 < whole


@pytest.mark.parametrize("norm", ["logits", "onehot"])
@pytest.mark.parametrize("update", ["first", "all"])
def test_a_refinement_knows_the_norm_that_a_gate_would_have_asked_for(
    norm: Any, update: Any
) -> None:
    pair = tiny_pair(seed=3)
    dto = DTO(steps=2, anchor="sampled", update=update)
    requests = [replace(ask, norm=norm, relaxation=0.7) for ask in asks(pair, dto, 7)]
    gates = [
        Differentiate(
            ask.problem, ask.trajectory, ask.trajectory.tokens, dto.objective,
            rows=(ask.position,), norm=norm, temperature=0.7,
        )
        for ask in requests
    ]  # fmt: skip
    known = zip(requests, gradients(pair, gates), strict=True)
    expected = [gradient.norms[ask.position] for ask, gradient in known]
    drawn = refine.refine(pair, requests)
    assert min(expected) > 0 and len(set(expected)) == len(expected)
    assert [draw.norm for draw in drawn] == pytest.approx(expected, rel=1e-9)
    twins = refine.refine(pair, [replace(ask, dto=DTO(steps=0), gradient=None) for ask in requests])
    assert [twin.norm for twin in twins] == [None] * len(requests)
    (silent,) = gradients(pair, [replace(gates[0], norm=None)])
    assert silent.norms == {}

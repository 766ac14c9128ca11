"""Descents of several requests at once, against Alg. 4 for one request at a time.

Temperatures, offsets of the anchors and heads of latents go with their rows, whether rows wait,
leave the batch, or are stepped some at a time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nabla_eval.dto import loop
from nabla_eval.dto.loop import Stepper, descend
from nabla_eval.dto.relaxation import Relaxation, hard_tokens, soft_backward
from nabla_eval.options import DTO

WORDS, LATENTS, TAU = 6, 4, 0.6
SIZES = (2, 1, 3, 1)
ROWS = sum(SIZES)
SPANS = [range(sum(SIZES[:i]), sum(SIZES[: i + 1])) for i in range(len(SIZES))]
DESCENT = DTO(steps=9, lr=0.15)
MATRIX = torch.randn(LATENTS, WORDS, generator=torch.Generator().manual_seed(9)).double()


def drawn(seed: int, rows: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64)


def head(latents: Tensor) -> Tensor:
    return latents @ MATRIX


def gradient_at(request: int, tokens: tuple[int, ...]) -> Tensor:
    """A made-up dL/dy that depends on the request and all of its hard tokens."""
    seed = 7919 * request + sum((WORDS + 1) ** i * token for i, token in enumerate(tokens))
    return drawn(seed, len(tokens), WORDS)


def alone(start: Tensor, offset: Tensor, request: int, latent: bool) -> tuple[Tensor, int]:
    """Parameters and flips of one request that asks for its gradient at every step."""
    step = Stepper(DESCENT, start)
    state = step.init(start)
    logits = head(start) if latent else start
    tokens, flips = tuple(hard_tokens(logits, offset, TAU).tolist()), 0
    for count in range(DESCENT.steps):
        downhill = soft_backward(logits, gradient_at(request, tokens), TAU)
        state = step(state, downhill @ MATRIX.T if latent else downhill)
        logits = head(state.parameters) if latent else state.parameters
        now = tuple(hard_tokens(logits, offset, TAU).tolist())
        flips += now != tokens and count + 1 < DESCENT.steps
        tokens = now
    return state.parameters, flips


def together(
    seed: int, latent: bool, dto: DTO = DESCENT
) -> tuple[Tensor, Tensor, Tensor, Any, list[list[int]]]:
    """Start, offsets, result, counts, and the requests of each call for gradients."""
    start = drawn(seed, ROWS, LATENTS if latent else WORDS)
    offset = drawn(seed + 100, ROWS, WORDS)
    relaxation = Relaxation(TAU, offset, head if latent else None)
    hard = hard_tokens(relaxation.logits(start), offset, TAU)
    first = [gradient_at(i, tuple(hard[span].tolist())) for i, span in enumerate(SPANS)]
    calls: list[list[int]] = []

    def recompute(requests: list[int], tokens: list[tuple[int, ...]]) -> Tensor:
        calls.append(list(requests))
        return torch.cat([gradient_at(*pair) for pair in zip(requests, tokens, strict=True)])

    kept = start.clone()
    result, info = descend(start, torch.cat(first), hard, SIZES, relaxation, dto, recompute)
    assert torch.equal(start, kept) and not torch.equal(result, start)  # it is left alone
    return start, offset, result, info, calls


@pytest.mark.parametrize("latent", [False, True])
@pytest.mark.parametrize("elements", [2**25, 2 * WORDS, 1])
def test_every_row_has_its_own_temperature_offset_and_head(
    latent: bool, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_ELEMENTS", elements)
    flipped = []
    for seed in range(4):
        start, offset, result, info, calls = together(seed, latent)
        for request, span in enumerate(SPANS):
            expected, flips = alone(start[span], offset[span], request, latent)
            torch.testing.assert_close(result[span], expected, rtol=0, atol=1e-12)
            assert info.passes[request] == info.flips[request] == flips
        assert len(calls) == max(info.passes)  # those who wait are served together
        assert sum(map(len, calls)) == sum(info.passes)
        flipped += info.flips
    assert max(flipped) >= 2 and len(set(flipped)) > 1  # some wait for others that flip again


@pytest.mark.parametrize("elements", [2**25, 1])
def test_without_the_cache_every_step_costs_a_pass_and_nothing_changes(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_ELEMENTS", elements)
    *_, cached, info, _ = together(3, latent=False)
    *_, result, plain, calls = together(3, latent=False, dto=replace(DESCENT, grad_cache=False))
    assert torch.equal(cached, result) and plain.flips == info.flips
    assert plain.passes == [DESCENT.steps - 1] * len(SIZES) and len(calls) == DESCENT.steps - 1

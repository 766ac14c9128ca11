"""The optimisers against torch's, and the cache against its absence."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nabla_eval.dto.loop import Stepper, descend, learning_rate
from nabla_eval.dto.relaxation import Relaxation, hard_tokens, soft_backward
from nabla_eval.options import DTO


def schedule_of(solver: torch.optim.Optimizer, dto: DTO) -> Any:
    """torch's own annealing, or the released code's factors of the rate."""
    if dto.schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(solver, dto.steps, dto.min_lr)
    floor = dto.min_lr / dto.lr
    return torch.optim.lr_scheduler.LambdaLR(
        solver, lambda t: max(floor, 0.5 * (1 + math.cos(math.pi * t / dto.steps)))
    )


@pytest.mark.parametrize(
    ("optimizer", "dtype"),
    [
        ("adamw", torch.float64),
        ("adamw", torch.float32),
        ("adamw", torch.bfloat16),
        ("sgd", torch.float64),
        ("sgd", torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("schedule", ["cosine", "clipped_cosine"])
@pytest.mark.parametrize("own", [{}, {"steps": 7, "lr": 0.3, "min_lr": 0.0}], ids=str)
def test_matches_torch(dtype, optimizer, schedule, own):
    """To rounding, and in bfloat16, where rounding decides which entries move, to the last bit."""
    dto = DTO(optimizer=optimizer, schedule=schedule, **own)
    generator = torch.Generator().manual_seed(0)
    start = (4 * torch.randn(30, 50, generator=generator, dtype=torch.float64)).to(dtype)
    theirs = torch.nn.Parameter(start.clone())
    kind = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[optimizer]
    solver = kind([theirs], lr=dto.lr, weight_decay=0.0)
    annealing = schedule_of(solver, dto)
    step = Stepper(dto, start)
    state = step.init(start)
    rtol, atol = {torch.float64: (1e-12, 1e-14), torch.float32: (1e-6, 1e-6)}.get(dtype, (0, 0))
    for count in range(dto.steps):
        gradient = torch.randn(30, 50, generator=generator, dtype=torch.float64).to(dtype)
        assert learning_rate(count, dto) == pytest.approx(solver.param_groups[0]["lr"])
        theirs.grad = gradient
        solver.step()
        annealing.step()
        state = step(state, gradient)
        torch.testing.assert_close(state.parameters, theirs.detach(), rtol=rtol, atol=atol)
    assert state.parameters.dtype == dtype and not (state.parameters == start).all()


@pytest.mark.parametrize("schedule", ["cosine", "clipped_cosine"])
def test_in_bfloat16_large_logits_stand_still(schedule):
    """Neighbours of z in [4, 8) are 2^-5 apart, so a step below 2^-6 = .0156 rounds to none, and
    none of the released rate .01 is as long (1.16 times the rate at most); in float32 all move."""
    z = torch.tensor([[4.1, -5.0, 8.0, -8.3, 19.6, 30.2, 0.5, -2.2]])
    gradients = torch.randn(20, 1, 8, generator=torch.Generator().manual_seed(1)).abs() + 0.1
    moved = {}
    for dtype in (torch.float32, torch.bfloat16):
        dto = DTO(schedule=schedule)
        step = Stepper(dto, z.to(dtype))
        state = step.init(z.to(dtype))
        for gradient in gradients:
            state = step(state, gradient.to(dtype))
        moved[dtype] = (state.parameters - z.to(dtype))[0] != 0
    assert moved[torch.float32].all()
    assert moved[torch.bfloat16].tolist() == [False] * 6 + [True] * 2


def test_rows_are_optimised_independently():
    gradient = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    step = Stepper(DTO(), gradient)
    together, alone = (
        step.init(torch.zeros_like(gradient)),
        step.init(torch.zeros_like(gradient[1:])),
    )
    for _ in range(3):
        together = step(together, gradient)
        alone = step(alone, gradient[1:])
    assert (together.parameters[1] == alone.parameters[0]).all()


def test_the_learning_rate_bounds_the_movement():
    """For a constant gradient Adam's corrected m / sqrt(v) is at most 1, so a step at most lr."""
    dto, start = DTO(), torch.zeros(1, 4, dtype=torch.float64)
    step = Stepper(dto, start)
    state = step.init(start)
    for _ in range(dto.steps):
        state = step(state, torch.tensor([[1e3, -1.0, 1e-3, 0.0]]).double())
    total = sum(learning_rate(t, dto) for t in range(dto.steps))
    assert state.parameters.abs().max() <= total + 1e-9
    assert state.parameters[0, 3] == 0


def test_a_row_that_waited_takes_the_same_path():
    """Rows count their own steps: one that stood still for a while ends where its twin ends."""
    dto, generator = DTO(steps=6, lr=0.1), torch.Generator().manual_seed(3)
    gradients = torch.randn(6, 1, 4, generator=generator, dtype=torch.float64)
    start = torch.zeros(2, 4, dtype=torch.float64)
    step = Stepper(dto, start)
    state = step.init(start)
    for time in range(9):
        moving = torch.tensor([time < 6, time >= 3])
        gradient = torch.cat([gradients[min(time, 5)], gradients[max(time - 3, 0)]])
        state = step(state, gradient, moving)
    assert state.count.tolist() == [6, 6]
    assert (state.parameters[0] == state.parameters[1]).all()


def descent(sizes, dto, calls, seed=0, words=7):
    """A made-up dL/dy that depends on the hard tokens of the request alone."""
    generator = torch.Generator().manual_seed(seed)
    start = 0.3 * torch.randn(sum(sizes), words, generator=generator, dtype=torch.float64)
    spans = [range(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(len(sizes))]

    def gradient_at(request, tokens):
        own = torch.Generator().manual_seed(1000 * request + hash(tokens) % 1000)
        return torch.randn(len(tokens), words, generator=own, dtype=torch.float64)

    def recompute(requests, tokens):
        calls.append(list(zip(requests, tokens, strict=True)))
        return torch.cat([gradient_at(*pair) for pair in calls[-1]])

    hard = hard_tokens(start, None, 1.0)
    first = torch.cat([gradient_at(i, tuple(hard[s].tolist())) for i, s in enumerate(spans)])
    result, info = descend(start, first, hard, sizes, Relaxation(1.0), dto, recompute)
    return start, spans, gradient_at, result, info


def one_by_one(start, span, request, gradient_at, dto):
    """Alg. 4 for one request, step by step, asking for the gradient every time."""
    z = start[span.start : span.stop]
    step = Stepper(dto, z)
    state = step.init(z)
    tokens, flips = tuple(hard_tokens(z, None, 1.0).tolist()), 0
    for count in range(dto.steps):
        downhill = soft_backward(state.parameters, gradient_at(request, tokens), 1.0)
        state = step(state, downhill)
        now = tuple(hard_tokens(state.parameters, None, 1.0).tolist())
        flips += now != tokens and count + 1 < dto.steps
        tokens = now
    return state.parameters, flips


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 1, 3)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_descending_side_by_side_is_descending_alone(sizes, seed):
    dto, calls = DTO(steps=12, lr=0.1), []
    start, spans, gradient_at, result, info = descent(sizes, dto, calls, seed)
    for request, span in enumerate(spans):
        expected, flips = one_by_one(start, span, request, gradient_at, dto)
        assert (result[span.start : span.stop] == expected).all()
        assert info.flips[request] == info.passes[request] == flips
    assert len(calls) == max(info.passes)  # those who wait are served together
    assert sum(map(len, calls)) == sum(info.passes)


def test_the_made_up_gradients_do_flip_tokens():
    totals = []
    for seed in range(4):
        *_, info = descent((1, 1, 1, 1), DTO(steps=12, lr=0.1), [], seed)
        totals += info.flips
    assert max(totals) >= 2 and min(totals) == 0


def test_without_the_cache_every_step_costs_a_pass_and_nothing_changes():
    calls = []
    *_, with_cache, info = descent((2, 1), DTO(steps=6, lr=0.1), [])
    *_, without, plain = descent((2, 1), DTO(steps=6, lr=0.1, grad_cache=False), calls)
    assert (with_cache == without).all()
    assert plain.passes == [5, 5] and plain.flips == info.flips and len(calls) == 5

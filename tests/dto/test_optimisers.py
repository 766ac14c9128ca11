"""The optimisers against torch's: the same steps, row by row."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from nabla_eval.dto.loop import Stepper, learning_rate
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
        *(("adamw", dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)),
        *(("sgd", dtype) for dtype in (torch.float64, torch.float32)),
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

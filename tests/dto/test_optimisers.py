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

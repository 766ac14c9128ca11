"""The AdamW kernel against torch's, and the cache against its absence."""

from __future__ import annotations

import pytest
import torch

from nabla_eval.config import DTO
from nabla_eval.dto import optimise
from nabla_eval.dto.cache import GradientCache


@pytest.mark.parametrize(
    "dto", [DTO(), DTO(steps=7, lr=0.3, min_lr=0.0, weight_decay=0.1)], ids=str
)
def test_matches_torch_adamw_with_cosine_annealing(dto):
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    theirs = torch.nn.Parameter(start.clone())
    adam = torch.optim.AdamW([theirs], lr=dto.lr, weight_decay=dto.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, dto.steps, dto.min_lr)
    state = optimise.init(start)
    for _ in range(dto.steps):
        gradient = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        assert optimise.learning_rate(state.count, dto) == pytest.approx(adam.param_groups[0]["lr"])
        theirs.grad = gradient
        adam.step()
        schedule.step()
        state, info = optimise.step(state, gradient, dto)
        torch.testing.assert_close(state.parameters, theirs.detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(info.gradient_norm, gradient.norm(dim=-1))


def test_rows_are_optimised_independently():
    gradient = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    together = optimise.init(torch.zeros(2, 2, dtype=torch.float64))
    alone = optimise.init(torch.zeros(1, 2, dtype=torch.float64))
    for _ in range(3):
        together, _ = optimise.step(together, gradient, DTO())
        alone, _ = optimise.step(alone, gradient[1:], DTO())
    assert (together.parameters[1] == alone.parameters[0]).all()


def test_the_learning_rate_bounds_the_movement():
    """For a constant gradient Adam's corrected m / sqrt(v) is at most 1, so a step at most lr."""
    dto, state = DTO(), optimise.init(torch.zeros(1, 4, dtype=torch.float64))
    for _ in range(dto.steps):
        state, _ = optimise.step(state, torch.tensor([[1e3, -1.0, 1e-3, 0.0]]).double(), dto)
    total = sum(optimise.learning_rate(t, dto) for t in range(dto.steps))
    assert state.parameters.abs().max() <= total + 1e-9
    assert state.parameters[0, 3] == 0


def cache_of(calls, sizes=(1, 2)):
    def recompute(groups, hard):
        calls.append((groups, hard))
        return torch.cat(
            [torch.full((sizes[g], 4), float(sum(h))) for g, h in zip(groups, hard, strict=True)]
        )

    rows = sum(sizes)
    return GradientCache(
        torch.zeros(rows, 4), torch.zeros(rows, dtype=torch.long), list(sizes), recompute
    )


def test_only_groups_with_a_flip_are_recomputed():
    calls = []
    cache = cache_of(calls)
    cache.at(torch.tensor([0, 0, 0]), DTO())
    assert calls == []
    gradient = cache.at(torch.tensor([0, 3, 0]), DTO())
    assert calls == [([1], [(3, 0)])]
    assert gradient.tolist() == [[0] * 4, [3] * 4, [3] * 4]
    cache.at(torch.tensor([0, 3, 0]), DTO())
    assert cache.passes == [0, 1] and cache.flips == [0, 1]


def test_without_the_cache_every_step_costs_a_pass():
    calls = []
    cache = cache_of(calls)
    for _ in range(3):
        cache.at(torch.tensor([0, 0, 0]), DTO(grad_cache=False))
    assert cache.passes == [3, 3] and cache.flips == [0, 0]

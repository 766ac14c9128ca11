"""Draws that no gradient can change: the bound holds, is tight, and decides nothing wrongly."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval.dto.certify import UNDECIDED, certain
from nabla_eval.dto.certify import logit_reach as reach
from nabla_eval.dto.loop import Stepper, learning_rate
from nabla_eval.dto.optimisers import adamw
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.naive import nabla
from nabla_eval.engine.sampler import draws
from nabla_eval.methods.registry import configure, start
from nabla_eval.options import DTO
from nabla_eval.testing import tiny_pair, tiny_problems
from nabla_theory.reach import cosine_rates, logit_reach


def descended(start: torch.Tensor, gradients: list[torch.Tensor], dto: DTO) -> torch.Tensor:
    """Logits after T steps down whatever gradients."""
    step = Stepper(dto, start)
    state = step.init(start)
    for gradient in gradients:
        state = step(state, gradient)
    return state.parameters


def test_a_constant_gradient_moves_a_logit_by_the_sum_of_the_rates() -> None:
    """Adam's first step is lr long, and each is when the gradient stays: the reach is near that."""
    dto = DTO()
    rates = sum(learning_rate(count, dto) for count in range(dto.steps))
    moved = descended(torch.zeros(1, 2).double(), [torch.tensor([[1.0, -3.0]]).double()] * 20, dto)
    assert moved.abs() == pytest.approx(torch.full((1, 2), rates), rel=1e-5)
    assert rates < reach(dto) < 1.05 * rates
    assert reach(DTO(steps=1, lr=0.3)) == pytest.approx(0.3)
    theirs = logit_reach(cosine_rates(dto.lr, dto.min_lr, dto.steps))
    assert reach(dto) == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(
    "unbounded",
    [
        {"logits_dtype": "bfloat16"},
        {"optimizer": "sgd"},
        {"parameterisation": "latents"},
    ],
    ids=str,
)
def test_without_a_bound_nothing_is_certified(unbounded: dict[str, Any]) -> None:
    dto = DTO(**unbounded)
    assert reach(dto) == math.inf
    uniform = torch.linspace(0, 0.999, 50, dtype=torch.float64)[None]
    logits = torch.tensor([[0.0, 9.0, -torch.inf]])
    assert (certain(logits, torch.ones(1, 1), uniform, dto) == UNDECIDED).all()


LEAP = """
import torch
reach = None

def init(parameters):
    return ()

def step(parameters, gradient, state, rate):
    return parameters - gradient.sign(), ()
"""


def test_an_optimiser_that_names_no_bound_switches_certification_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of length one, from a module elsewhere: every gradient is taken, as naive does."""
    (tmp_path / "leaps").mkdir()
    (tmp_path / "leaps" / "plain.py").write_text(LEAP)
    bounded = LEAP.replace("reach = None", "from nabla_eval.dto.optimisers.adamw import reach")
    (tmp_path / "leaps" / "bounded.py").write_text(bounded)
    monkeypatch.syspath_prepend(tmp_path)
    pair = tiny_pair(seed=3)
    problems = tiny_problems(pair, 6)

    def answers(**options: Any) -> tuple[list[tuple[int, ...]], int]:
        config = configure(
            "nabla", {"n": 6, "passes": 3, "steps": 4, "temperature": 1.0, **options}
        )
        found = drive_all([start(problem, config) for problem in problems], Executor(pair))
        return [outcome.tokens for outcome in found], sum(o.certified for o in found)

    assert answers()[1] > 0
    every = answers(optimizer="leaps.plain", certify=False)[0]
    assert answers(optimizer="leaps.plain") == (every, 0)
    assert answers(optimizer="leaps.bounded")[0] != every  # a wrong bound is not harmless
    options = {"n": 3, "passes": 2, "steps": 5, "temperature": 1.0, "optimizer": "leaps.plain"}
    config = configure("nabla", options)
    for problem in problems[:3]:
        (fast,) = drive_all([start(problem, config)], Executor(pair))
        assert fast.tokens == nabla(pair, problem, config).tokens


@given(
    schedule=st.sampled_from(["cosine", "clipped_cosine"]),
    steps=st.integers(1, 30),
    lr=st.sampled_from([1e-3, 0.01, 0.3]),
    seed=st.integers(0, 10**6),
    growth=st.sampled_from([0.1, 1.0, 3.0, 30.0]),
)
def test_no_gradients_move_a_logit_out_of_reach(
    schedule: Any, steps: int, lr: float, seed: int, growth: float
) -> None:
    """Growing and shrinking gradients of any sign, of which Adam's worst case is one."""
    dto = DTO(steps=steps, lr=lr, min_lr=lr / 10, schedule=schedule)
    draw = torch.Generator().manual_seed(seed)
    gradients = [
        growth**t * torch.randn(4, 50, generator=draw, dtype=torch.float64) for t in range(steps)
    ]
    moved = descended(torch.zeros(4, 50, dtype=torch.float64), gradients, dto)
    assert float(moved.abs().max()) <= reach(dto)


def test_the_bound_is_attained_at_the_last_step() -> None:
    """Gradients in the ratio a_k / b_k, for which Cauchy-Schwarz is an equality.

    The last summand of the reach, by the formula in the optimiser's docstring, written out.
    """
    steps, beta_1, beta_2 = 20, adamw.BETA_1, adamw.BETA_2
    dto = DTO(steps=steps)
    ones = torch.ones(1, 1, dtype=torch.float64)
    gradients = [ones * 1e-3 * (beta_1 / beta_2) ** (steps - 1 - t) for t in range(steps)]
    before = descended(ones * 0, gradients[:-1], dto)
    last = float((descended(ones * 0, gradients, dto) - before).abs())
    a = [(1 - beta_1) * beta_1 ** (steps - k) for k in range(1, steps + 1)]
    b = [(1 - beta_2) * beta_2 ** (steps - k) for k in range(1, steps + 1)]
    spread = math.sqrt(sum(x * x / y for x, y in zip(a, b, strict=True)))
    bias = math.sqrt(1 - beta_2**steps) / (1 - beta_1**steps)
    assert last == pytest.approx(learning_rate(steps - 1, dto) * bias * spread, rel=1e-3)


@given(
    seed=st.integers(0, 10**6),
    temperature=st.sampled_from([0.3, 1.0, 1.5]),
    lr=st.sampled_from([0.01, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    peaked=st.booleans(),
)
def test_a_certified_draw_is_the_draw_of_every_corner_of_the_box(
    seed: int, temperature: float, lr: float, dtype: Any, peaked: bool
) -> None:
    """Against the distributions that change each cumulative probability most, and random ones."""
    draw = torch.Generator().manual_seed(seed)
    dto, rows, words = DTO(lr=lr), 3, 9
    logits = (6 if peaked else 1) * torch.randn(rows, words, generator=draw, dtype=dtype)
    logits[0, 4] = -torch.inf
    uniform = torch.rand(rows, 40, generator=draw, dtype=torch.float64)
    found = certain(logits, torch.full((rows, 1), temperature, dtype=dtype), uniform, dto)
    signs = [torch.where(torch.arange(words) < cut, 1.0, -1.0) for cut in range(words + 1)]
    signs += [-own for own in signs]
    signs += [torch.rand(words, generator=draw) * 2 - 1 for _ in range(10)]
    for sign in signs:
        moved = logits + reach(dto) * sign.to(dtype)
        drawn = draws((moved / temperature).softmax(-1), uniform)
        assert bool(((found == UNDECIDED) | (found == drawn)).all())


def test_most_draws_of_the_default_are_certified_and_those_at_an_edge_are_not() -> None:
    logits = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    half = 1 / (1 + math.exp(-2 * reach(DTO())))  # what the first token can come to have
    uniform = torch.tensor([[0.0, 1 - half - 0.01, 1 - half + 0.01, half - 0.01, half + 0.01]])
    found = certain(logits, one, uniform, DTO())
    assert found.tolist() == [[UNDECIDED, 0, UNDECIDED, UNDECIDED, 1]]
    grid = (torch.arange(1000, dtype=torch.float64)[None] + 0.5) / 1000
    share = (certain(logits, one, grid, DTO()) != UNDECIDED).double().mean()
    assert float(share) == pytest.approx(1 - (2 * half - 1), abs=2e-3)

"""How far DTO can move a token: C.3's bound on the gradient, and Adam's bound on the step.

C.3 bounds the gradient at the logits, but Adam divides by the gradient's size, so what limits DTO
is the learning rate: |Δz_j| <= B = Σ_t lr_t R_t, whatever the model, the reward or λ.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nabla_theory.gradients import Pair

BETAS = (0.9, 0.999)


def softmax_backward(p: Tensor, g: Tensor, temperature: float) -> Tensor:
    """∂L/∂z = (diag(p) - ppᵀ) g / τ for p = softmax(z/τ) and g = ∂L/∂p; [..., V]."""
    return p * (g - (p * g).sum(-1, keepdim=True)) / temperature


def gradient_bound(p: Tensor, g: Tensor, temperature: float) -> Tensor:
    """C.3: |∂L/∂z_j| <= p_j · range(g) / τ; [..., V]."""
    return p * gradient_range(g) / temperature


def sharp_gradient_bound(p: Tensor, g: Tensor, temperature: float) -> Tensor:
    """|∂L/∂z_j| <= p_j (1 - p_j) · range(g) / τ, which also holds a confident token; [..., V].

    g_j - Σ_k p_k g_k = Σ_{k≠j} p_k (g_j - g_k), and the weights p_k there sum to 1 - p_j.
    """
    return p * (1 - p) * gradient_range(g) / temperature


def gradient_range(g: Tensor) -> Tensor:
    """max_k g_k - min_k g_k; [..., 1]."""
    return g.amax(-1, keepdim=True) - g.amin(-1, keepdim=True)


def cosine_rates(lr: float, min_lr: float, steps: int) -> list[float]:
    """The cosine schedule lr_t = min + ½(lr - min)(1 + cos(πt/T)), t = 0..T-1."""
    half = 0.5 * (lr - min_lr)
    return [min_lr + half * (1 + math.cos(math.pi * t / steps)) for t in range(steps)]


def adam_ratio(t: int, betas: tuple[float, float] = BETAS) -> float:
    """R_t = max |m̂_t| / √v̂_t over all gradient sequences of length t (1 for t = 1).

    m̂ = Σ a_s g_s and v̂ = Σ b_s g_s² with a_s = (1-β₁)β₁^{t-s}/(1-β₁^t), b_s likewise with β₂. By
    Cauchy-Schwarz |m̂| <= √v̂ · √(Σ a_s²/b_s), with equality for g_s ∝ a_s/b_s. Needs β₁² < β₂.
    """
    b1, b2 = betas
    if not b1**2 < b2:
        raise ValueError(f"β₁² must be below β₂, got β₁={b1}, β₂={b2}.")
    first = ((1 - b1) / (1 - b1**t)) ** 2
    second = (1 - b2**t) / (1 - b2)
    ratio = b1**2 / b2
    return math.sqrt(first * second * (1 - ratio**t) / (1 - ratio))


def logit_reach(rates: list[float], betas: tuple[float, float] = BETAS) -> float:
    """B = Σ_t lr_t R_t: no logit moves further in these Adam steps (no weight decay)."""
    return sum(lr * adam_ratio(t, betas) for t, lr in enumerate(rates, start=1))


def total_variation_bound(reach: float, temperature: float) -> float:
    """tanh(B/(2τ)): the largest total variation that logits moved by <= B can cause.

    An event of probability q has log-odds that move by at most 2B/τ, and σ(s + 2c) - σ(s) is
    largest at s = -c, where it is tanh(c/2), c = B/τ. Reached for q near a half.
    """
    return math.tanh(reach / (2 * temperature))


def probability_range(p: Tensor, reach: float, temperature: float) -> tuple[Tensor, Tensor]:
    """The interval that a token's probability cannot leave: log-odds ± 2B/τ; [..., V] each."""
    odds = torch.logit(p)
    shift = 2 * reach / temperature
    return torch.sigmoid(odds - shift), torch.sigmoid(odds + shift)


def adam_path(gradients: np.ndarray, rates: list[float]) -> np.ndarray:
    """Adam's displacement after each step for given scalar gradients [..., T]; [..., T]."""
    b1, b2 = BETAS
    m = v = np.zeros(gradients.shape[:-1])
    moved, path = np.zeros(gradients.shape[:-1]), []
    for t, lr in enumerate(rates, start=1):
        g = gradients[..., t - 1]
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        scale = np.sqrt(v / (1 - b2**t))
        step = np.divide(m / (1 - b1**t), scale, out=np.zeros_like(scale), where=scale > 0)
        moved = moved - lr * step
        path.append(moved)
    return np.stack(path, axis=-1)


@dataclass(frozen=True)
class Refinement:
    """Effect of a DTO-like run on the logits."""

    before: Tensor  # [L, V]
    after: Tensor  # [L, V]
    largest: list[float]  # max |z_t - z_0| after each step
    gradient: Tensor  # [L, V], ∂L/∂y before the first step
    flips: int  # positions whose argmax changed


def refine(
    pair: Pair,
    logits: Tensor,
    *,
    steps: int = 20,
    lr: float = 0.01,
    min_lr: float = 0.001,
    temperature: float = 0.5,
    gradient_scale: float = 1.0,
) -> Refinement:
    """DTO on every position: straight-through softmax, AdamW without decay, cosine rates.

    `gradient_scale` multiplies L; Adam all but ignores it, which is the point of the bound.
    """
    z = logits.clone().requires_grad_()
    solver = torch.optim.AdamW([z], lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps, eta_min=min_lr)
    largest, first = [], torch.empty(0)
    for step in range(steps):
        solver.zero_grad()
        soft = torch.softmax(z / temperature, dim=-1)
        hard = torch.nn.functional.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)
        y = hard + soft - soft.detach()
        y.retain_grad()
        (gradient_scale * pair.loss(y)).backward()
        if step == 0:
            assert y.grad is not None
            first = y.grad.clone() / gradient_scale
        solver.step()
        schedule.step()
        largest.append((z.detach() - logits).abs().max().item())
    after = z.detach()
    flips = int((after.argmax(-1) != logits.argmax(-1)).sum())
    return Refinement(logits, after, largest, first, flips)

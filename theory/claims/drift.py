"""What becomes of Theorem 4.1 with the printed sign, and without the noise, as in DTO."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import stats

from theory import free_energy, langevin, targets, transition
from theory.checks import (
    FAILURE_PROBABILITY,
    Check,
    Context,
    close,
    within_error,
    z_limit,
)
from theory.claims.dynamics import PARTICLES, ou_setting
from theory.densities import Gaussian


def no_noise(context: Context) -> list[Check]:
    """Without the noise, as in DTO, the flow ends in modes and not in ρ*."""
    target, mu, K, start = ou_setting()
    x0 = start.sample(context.seed, "flow/start", 2000)
    run = langevin.simulate(target, x0, 0.1, [10, 100], kernel="flow", seed=context.seed)
    shrink = np.linalg.matrix_power(np.eye(2) - 0.1 * K, 10)
    bimodal = targets.SETTINGS["well-linear"].target
    y0 = bimodal.density.sample(context.seed, "flow/well", 2000)
    y = langevin.simulate(bimodal, y0, 0.02, [200], kernel="flow", seed=context.seed).last
    at_mode = float(target.reward.value(torch.from_numpy(mu)[None]))
    return [
        close(
            "no_noise/gaussian",
            "noise-free gradient flow contracts to the mode: x_n = μ + (I - hK)^n (x_0 - μ), n = 10",
            0.0,
            float(np.abs(run.positions[10].numpy() - mu - (x0.numpy() - mu) @ shrink).max()),
            1e-12,
            "rounding",
        ),
        close(
            "no_noise/double_well",
            "in a double well every particle ends in a stationary point: E|∇L|²",
            0.0,
            float(transition.downhill(bimodal, y).square().mean()),
            1e-12,
            "contraction (1 - hL'')^200 at the minima",
        ),
        close(
            "no_noise/free_energy",
            "its reward is that of the mode, r(μ), and exceeds E_ρ*[r] = r(μ) - tr(A K⁻¹)/2 = "
            f"{free_energy.optimum(target, targets.SETTINGS['gaussian2d-quadratic'].box).reward:.4f}:"
            " the flow maximises λr + log π and ignores the entropy",
            at_mode,
            float(target.reward.value(run.last).mean()),
            1e-4,
            "(1 - hλ_min)^100 of the farthest start",
        ),
    ]


def sign_error(context: Context) -> list[Check]:
    """The drift with the signs of Eq. 16 and 20-23 as printed runs away."""
    target = targets.SETTINGS["gaussian-linear"].target
    solution = targets.closed_form(target)
    assert solution is not None and isinstance(solution[1], Gaussian)
    assert isinstance(target.density, Gaussian)
    mu, k = solution[1].mean.item(), solution[1].precision.item()
    h, steps = 0.05, [20, 40, 60, 80, 400]
    x0 = target.density.sample(context.seed, "sign/start", PARTICLES // 4)
    runs = {
        printed: langevin.simulate(
            target, x0, h, steps, seed=context.seed, stream="sign", printed_signs=printed
        )
        for printed in (False, True)
    }
    growth, scores = 1 + h * k, []
    for n in steps[:-1]:  # E[X_n] = μ + (1 + hk)^n (E[X_0] - μ)
        x = runs[True].positions[n][:, 0]
        expected = mu + growth**n * (target.density.mean.item() - mu)
        scores.append(abs(x.mean().item() - expected) / (x.std().item() / math.sqrt(len(x))))
    gone = _printed_runaway(growth, h, steps[-1], mu, target.density)
    count = len(x0)
    return [
        close(
            "sign_error/correct",
            "under +λ∇r + ∇log π no particle leaves |x| ≤ 1000 (t = 20)",
            0.0,
            runs[False].infos[steps[-1]].runaway,
            0.0,
            "ρ* puts less than e^-100000 there",
        ),
        close(
            "sign_error/printed",
            "under the printed -λ∇r - ∇log π (Eq. 16, 20-23) nearly all have left it",
            gone,
            runs[True].infos[max(runs[True].infos)].runaway,
            z_limit(1) * math.sqrt(gone * (1 - gone) / count) + 10 / count,
            "binomial error of the closed-form share, and the Poisson tail of so few that stay",
            FAILURE_PROBABILITY,
        ),
        within_error(
            "sign_error/growth",
            "the printed drift's mean moves away from that of ρ* as (1 + hk)^n",
            scores,
        ),
    ]


def _printed_runaway(growth: float, h: float, n: int, mu: float, pi: Gaussian) -> float:
    """P(|X_n| > RUNAWAY_RADIUS) for X_{n+1} - μ = growth (X_n - μ) + √(2h) ξ, X_0 ~ π."""
    mean = mu + growth**n * (pi.mean.item() - mu)
    variance = growth ** (2 * n) * pi.cov.item()
    variance += 2 * h * (growth ** (2 * n) - 1) / (growth**2 - 1)
    law = stats.norm(mean, math.sqrt(variance))
    return float(law.sf(langevin.RUNAWAY_RADIUS) + law.cdf(-langevin.RUNAWAY_RADIUS))

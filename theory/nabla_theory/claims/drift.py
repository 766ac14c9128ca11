"""What becomes of Theorem 4.1 as printed, and without the noise, as in DTO."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import linalg, stats

from nabla_theory import fokker_planck, free_energy, gaussian, langevin, targets, transition
from nabla_theory.checks import (
    FAILURE_PROBABILITY,
    Check,
    Context,
    at_least,
    close,
    fitted_slope,
    within_error,
    z_limit,
)
from nabla_theory.claims.dynamics import PARTICLES, ou_setting
from nabla_theory.densities import Gaussian
from nabla_theory.fokker_planck import Grid


def no_noise(context: Context) -> list[Check]:
    """Without the noise, as in DTO, the flow ends in modes and not in ρ*."""
    target, mu, K, start = ou_setting()
    x0 = start.sample(context.seed, "flow/start", 2000)
    run = langevin.simulate(target, x0, 0.1, [10, 100], kernel="flow", seed=context.seed)
    shrink = np.linalg.matrix_power(np.eye(2) - 0.1 * K, 10)
    bimodal = targets.SETTINGS["well-linear"].target
    y0 = bimodal.density.sample(context.seed, "flow/well", 2000)
    y = langevin.simulate(bimodal, y0, 0.02, [200], kernel="flow", seed=context.seed).last
    spread = free_energy.optimum(target, targets.SETTINGS["gaussian2d-quadratic"].box).reward
    at_mode = float(target.reward.value(torch.from_numpy(mu)[None]))
    return [
        close(
            "no_noise/gaussian",
            "noise-free flow contracts to the mode: x_n = μ + (I - hK)^n (x_0 - μ) at n = 10",
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
            f"its reward is that of the mode, r(μ), and exceeds E_ρ*[r] = {spread:.4f}, which is "
            "r(μ) - tr(A K⁻¹)/2: the flow maximises λr + log π and ignores the entropy",
            at_mode,
            float(target.reward.value(run.last).mean()),
            1e-4,
            "(1 - hλ_min)^100 of the farthest start",
        ),
    ]


def reversed_flow(context: Context) -> list[Check]:
    """Eq. 16, 20 and 22 as printed: ρ* repels, free energy rises, and nothing bounds how fast."""
    target = targets.SETTINGS["gaussian-linear"].target
    grid = Grid(((-4.0, 6.0),), (16,))
    star = grid.optimum(target)
    pi = grid.normalise(target.density.log_prob(grid.points))
    forward = fokker_planck.generator(target, grid).toarray()
    dt, steps = 0.02, 20
    there, back = linalg.expm(steps * dt * forward), linalg.expm(-dt * forward)
    path = [there @ pi]  # the flow's own future, from which the printed one goes back
    for _ in range(steps):
        path.append(back @ path[-1])
    energies = [free_energy.on_grid(np.abs(rho), target, grid) for rho in path]
    modes = {
        cells: np.sort(-np.linalg.eigvals(_generator(target, cells)).real)
        for cells in (50, 100, 200, 400)
    }
    fastest = [rates[-1] for rates in modes.values()]
    values, vectors = np.linalg.eig(forward)
    slowest = np.argsort(-values.real)[1]
    bump = star + 1e-3 * vectors[:, slowest].real
    grown = np.linalg.matrix_power(back, steps) @ bump
    divergences = [free_energy.kl(rho, star, grid.volume) for rho in (bump, grown)]
    k, c0 = np.array([[0.8]]), 0.5
    end = -math.log(1 - 0.8 * c0) / (2 * 0.8)
    return [
        close(
            "reversed_flow/back_to_the_start",
            "it takes the flow's own future back to π, on 16 cells: largest difference",
            0.0,
            float(np.abs(path[-1] - pi).max()),
            1e-15 * math.exp(-float(values.real.min()) * steps * dt),
            "rounding, which grows at the fastest rate of the grid",
        ),
        at_least(
            "reversed_flow/free_energy",
            "on that way L_PPO rises in every step: smallest rise",
            0.0,
            float(np.diff(energies).min()),
            "a theorem: the flow itself lowers it (dL_PPO/dt = ∓∫ρ|∇(L + log ρ)|²)",
        ),
        close(
            "reversed_flow/repelling",
            "ρ* with a bump of 10⁻³ along the slowest mode: KL(ρ‖ρ*) grows at twice the gap",
            -2 * float(values.real[slowest]),
            math.log(divergences[1] / divergences[0]) / (steps * dt),
            0.02,
            "KL is quadratic in the bump up to a relative 10⁻³, over a time of 0.4",
        ),
        close(
            "reversed_flow/ill_posed",
            "the fastest growth rate on 50, 100, 200, 400 cells: power of the number of cells",
            2.0,
            fitted_slope(list(modes), fastest),
            0.05,
            "rates of -Δ up to 4/Δ²; L adds terms of relative size (LΔ)²",
        ),
        close(
            "reversed_flow/collapse",
            "N(μ, ½) under it, ρ* = N(μ, 1.25): a point at t* = -log(1 - kC₀)/2k; the flow from a "
            "point has that variance after t*",
            c0,
            float(gaussian.ou_covariance(k, np.zeros((1, 1)), end)[0, 0]),
            1e-12,
            "closed forms; rounding",
        ),
    ]


def _generator(target: targets.Target, cells: int) -> np.ndarray:
    return np.asarray(fokker_planck.generator(target, Grid(((-4.0, 6.0),), (cells,))).toarray())


def sign_error(context: Context) -> list[Check]:
    """The drift of Eq. 23's middle member runs away."""
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
    stayed, variance = runs[False].last[:, 0], 1 / (k * (1 - h * k / 2))  # Euler's, at any n here
    near = [
        abs(stayed.mean().item() - mu) / math.sqrt(variance / count),
        abs(stayed.var().item() / variance - 1) / math.sqrt(2 / (count - 1)),
    ]
    return [
        within_error(
            "sign_error/correct",
            f"under +λ∇r + ∇log π the particles are at ρ* (t = 20): mean {mu:.3f}, and Euler's "
            f"variance {variance:.3f}; none has left |x| ≤ 1000",
            [*near, math.inf if runs[False].infos[steps[-1]].runaway else 0.0],
        ),
        close(
            "sign_error/printed",
            "under -λ∇r - ∇log π, Eq. 23's middle member, nearly all have left it",
            gone,
            runs[True].infos[max(runs[True].infos)].runaway,
            z_limit(1) * math.sqrt(gone * (1 - gone) / count) + 10 / count,
            "binomial error of the closed-form share, and the Poisson tail of so few that stay",
            FAILURE_PROBABILITY,
        ),
        within_error(
            "sign_error/growth",
            "that drift's mean moves away from that of ρ* as (1 + hk)^n",
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

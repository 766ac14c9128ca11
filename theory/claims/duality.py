"""The other sides: densities and policies reach the same E[r], KL and -log Z (Theorem 4.1)."""

from __future__ import annotations

from itertools import islice

import numpy as np

from theory import fokker_planck, free_energy, gaussian, policy, targets
from theory.checks import (
    Check,
    Context,
    at_most,
    close,
)
from theory.densities import Gaussian
from theory.fokker_planck import Grid
from theory.targets import SETTINGS, Setting

# Components and spread of the mixture policy; ρ* is in the family where the last entry says so.
FAMILIES = {
    "gaussian-linear": (1, 1.0, True),
    "gaussian-ripple": (6, 1.5, False),
    "mixture-quadratic": (2, 1.0, True),
    "well-linear": (4, 1.2, False),
    "student-bounded": (4, 1.0, False),
    "gaussian2d-quadratic": (1, 1.0, True),
    "mixture2d-bounded": (4, 1.0, False),
    "banana-ripple": (6, 1.0, False),
}


def worst_gap(rho: np.ndarray, setting: Setting, grid: Grid) -> float:
    """The largest difference of E[r], KL and L_PPO from the quadrature's optimum."""
    target = setting.target
    best = free_energy.optimum(target, setting.box)
    reward = float(rho @ target.reward.value(grid.points).numpy()) * grid.volume
    energy = free_energy.on_grid(rho, target, grid)
    kl = energy + target.lam * reward
    return max(abs(reward - best.reward), abs(kl - best.kl), abs(energy + best.log_z))


def _grid(setting: Setting) -> Grid:
    cells = setting.cells if setting.target.dim == 1 else min(setting.cells, 90)
    return Grid(setting.box, (cells,) * setting.target.dim)


def fokker_planck_agrees(context: Context) -> list[Check]:
    """The density flow from π reaches E[r], KL and -log Z of ρ*."""
    rows = []
    for name, setting in SETTINGS.items():
        grid = _grid(setting)
        gap = float(fokker_planck.slowest_rates(setting.target, grid)[1])
        rho = grid.normalise(setting.target.density.log_prob(grid.points))
        A = fokker_planck.generator(setting.target, grid)
        final = next(islice(fokker_planck.evolve(A, rho, 1 / gap), 39, None))
        rows.append(
            close(
                f"fokker_planck_agrees/{name}",
                "largest gap of E[r], KL and L_PPO to quadrature after 40 relaxation times of "
                f"{1 / gap:.2f}",
                0.0,
                worst_gap(final, setting, grid),
                1e-7,
                "2^-40 of the start; cell sums of smooth densities; mass outside the box",
            )
        )
    return rows


def softmax_policy_agrees(context: Context) -> list[Check]:
    """KL-regularised policy gradient on a softmax policy reaches the same three numbers."""
    rows = []
    for name, setting in SETTINGS.items():
        target, grid = setting.target, _grid(setting)
        final = next(islice(policy.natural_gradient(target, grid, 0.5), 39, None))
        coarse = Grid(setting.box, ((80,) if target.dim == 1 else (26, 26)))
        reached, iterations = policy.plain_gradient(target, coarse)
        start = coarse.normalise(target.density.log_prob(coarse.points))
        star = coarse.optimum(target)
        left = free_energy.kl(reached, star, coarse.volume)
        rows += [
            close(
                f"softmax_policy_agrees/natural[{name}]",
                "largest gap of E[r], KL and L_PPO to quadrature, 40 natural-gradient steps of ½",
                0.0,
                worst_gap(final, setting, grid),
                1e-7,
                "log ρ/ρ* shrinks by ½ a step: 2^-40; cell sums; mass outside the box",
            ),
            at_most(
                f"softmax_policy_agrees/plain[{name}]",
                f"L_PPO + log Z after {iterations} L-BFGS steps on the plain gradient, over that "
                "of π (both on the same cells)",
                1e-3,
                left / free_energy.kl(start, star, coarse.volume),
                "99.9 % of the way; the gradient of a cell is ∝ its mass, so tails come last",
            ),
        ]
    return [*rows, _geometric_path()]


def _geometric_path() -> Check:
    """The natural gradient follows log ρ_n = (1-η)^n log π + (1 - (1-η)^n) log ρ* + const."""
    setting = SETTINGS["well-linear"]
    grid = Grid(setting.box, (200,))
    rate, steps = 0.1, 25
    found = next(islice(policy.natural_gradient(setting.target, grid, rate), steps - 1, None))
    left = (1 - rate) ** steps
    partial = targets.Target(
        setting.target.density, setting.target.reward, (1 - left) * setting.target.lam
    )
    return close(
        "softmax_policy_agrees/path",
        "natural gradient passes through π e^{s λ r}/Z_s, s = 1 - (1-η)^n: no barrier slows it",
        0.0,
        float(np.abs(np.log(found / grid.optimum(partial))).max()),
        1e-10,
        "rounding; an identity",
    )


def mixture_policy_agrees(context: Context) -> list[Check]:
    """Gaussian and mixture policies reach -log Z when they can, and stay above it when not."""
    rows = []
    for name, (components, spread, holds) in FAMILIES.items():
        setting = SETTINGS[name]
        cells = (600,) if name == "student-bounded" else (200,)
        grid = Grid(setting.box, cells if setting.target.dim == 1 else (64, 64))
        found = policy.mixture_gradient(setting.target, grid, components, spread)
        rho = found.log_prob(grid.points).exp().detach().numpy()
        gap = free_energy.on_grid(rho, setting.target, grid)
        gap += free_energy.optimum(setting.target, setting.box).log_z
        if holds:
            rows.append(
                close(
                    f"mixture_policy_agrees/{name}",
                    f"largest gap of E[r], KL, L_PPO; {components} component(s), ρ* in the family",
                    0.0,
                    worst_gap(rho, setting, grid),
                    1e-6,
                    "√(line search's relative change of 1e-15) in E[r], of size 1",
                )
            )
            continue
        divergence = free_energy.kl(rho, grid.optimum(setting.target), grid.volume)
        rows.append(
            close(
                f"mixture_policy_agrees/{name}",
                f"{components} components cannot be ρ*: L_PPO + log Z = KL(ρ_θ‖ρ*) = {gap:.1e} > 0",
                divergence,
                gap,
                1e-6,
                "cell sums of two smooth densities; mass of ρ_θ outside the box",
            )
        )
    return rows


def ppo_agrees(context: Context) -> list[Check]:
    """PPO, which sees only samples, reaches ρ* too."""
    options = policy.PPO()
    rows = []
    for name in ("gaussian-linear", "gaussian2d-quadratic"):
        target = SETTINGS[name].target
        solution = targets.closed_form(target)
        assert solution is not None and isinstance(solution[1], Gaussian)
        found = policy.ppo(target, policy.start_policy(target, 1, 1.0), options, context.seed)
        mean, factor = found.means[0].detach().numpy(), found.factors[0].detach().numpy()
        star = solution[1]
        left = gaussian.kl(mean, factor @ factor.T, star.mean.numpy(), star.cov.numpy())
        parameters = target.dim + target.dim * (target.dim + 1) // 2
        rows.append(
            at_most(
                f"ppo_agrees/{name}",
                f"KL(ρ_θ‖ρ*) after {options.iterations} iterations of {options.batch} samples",
                parameters * (options.epochs * options.min_lr) ** 2,
                left,
                "p (epochs·lr)²: what one iteration at the last rate can move, Fisher metric ≤ 2",
            )
        )
    rows.append(_no_noise_at_optimum(context))
    return rows


def _no_noise_at_optimum(context: Context) -> Check:
    """At ρ* the advantage is log Z for every sample: PPO's gradient has no noise there."""
    target = SETTINGS["mixture2d-bounded"].target
    x = target.density.sample(context.seed, "advantage", 1000)
    log_z = free_energy.optimum(target, SETTINGS["mixture2d-bounded"].box).log_z
    log_star = -target.potential(x) - log_z
    gain = policy.advantage(
        target.reward.value(x).numpy(),
        target.density.log_prob(x).numpy(),
        log_star.numpy(),
        target.lam,
    )
    return close(
        "ppo_agrees/advantage",
        "at ρ* the advantage λr - log ρ*/π is log Z for every sample: largest difference",
        0.0,
        float(np.abs(gain - log_z).max()),
        1e-10,
        "rounding of logarithms",
    )

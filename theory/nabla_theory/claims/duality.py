"""The other sides: densities and policies reach the same E[r], KL and -log Z (Theorem 4.1)."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from nabla_theory import free_energy, policy, routes, targets
from nabla_theory.checks import Check, Context, at_most, close
from nabla_theory.densities import Gaussian
from nabla_theory.fokker_planck import Grid
from nabla_theory.targets import SETTINGS

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
# Of the sampled policy; two modes trade weight, which is slower than to move one.
PPO_ITERATIONS = {"gaussian-linear": 120, "gaussian2d-quadratic": 120, "mixture-quadratic": 240}


def fokker_planck_agrees(context: Context) -> list[Check]:
    """The density flow from π reaches E[r], KL and -log Z of ρ*."""
    rows = []
    for name, setting in SETTINGS.items():
        found = routes.by_density(setting)
        rows.append(
            close(
                f"fokker_planck_agrees/{name}",
                "largest gap of E[r], KL and L_PPO to quadrature after 40 relaxation times of "
                f"{routes.relaxation_time(setting):.2f}",
                0.0,
                found.gap(routes.by_quadrature(setting)),
                1e-7,
                "2^-40 of the start; cell sums of smooth densities; mass outside the box",
            )
        )
    return rows


def softmax_policy_agrees(context: Context) -> list[Check]:
    """KL-regularised policy gradient on a softmax policy reaches the same three numbers."""
    rows = []
    for name, setting in SETTINGS.items():
        target, found = setting.target, routes.by_policy(setting)
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
                found.gap(routes.by_quadrature(setting)),
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
        energy = free_energy.on_grid(rho, setting.target, grid)
        gap = energy - routes.by_quadrature(setting).energy
        if holds:
            rows.append(
                close(
                    f"mixture_policy_agrees/{name}",
                    f"largest gap of E[r], KL, L_PPO; {components} component(s), ρ* in the family",
                    0.0,
                    routes.of_density(rho, setting.target, grid).gap(routes.by_quadrature(setting)),
                    1e-6,
                    "√(line search's relative change of 1e-15) in E[r], of size 1",
                )
            )
            continue
        star = grid.optimum(setting.target)
        divergence = free_energy.kl(rho, star, grid.volume)
        matched = free_energy.kl(_moment_matched(star, grid), star, grid.volume)
        rows += [
            close(
                f"mixture_policy_agrees/{name}",
                f"{components} components cannot be ρ*: L_PPO + log Z = KL(ρ_θ‖ρ*) = {gap:.1e} > 0",
                divergence,
                gap,
                1e-6,
                "cell sums of two smooth densities; mass of ρ_θ outside the box",
            ),
            at_most(
                f"mixture_policy_agrees/fit[{name}]",
                "... and it is the better for its components: against the Gaussian with ρ*'s "
                "mean and covariance",
                matched,
                gap,
                "that Gaussian is in the family, so the optimum lies below it",
            ),
        ]
    return rows


def _moment_matched(star: np.ndarray, grid: Grid) -> np.ndarray:
    """The Gaussian with the mean and covariance of ρ*, on the cells; [M]."""
    x, mass = grid.points, torch.from_numpy(star * grid.volume)
    mean = mass @ x
    cov = ((x - mean) * mass[:, None]).T @ (x - mean)
    return grid.normalise(Gaussian(mean, cov).log_prob(x))


def ppo_agrees(context: Context) -> list[Check]:
    """PPO, which sees only samples, reaches ρ* too, one mode or two."""
    rows = []
    for name, iterations in PPO_ITERATIONS.items():
        setting, components = SETTINGS[name], FAMILIES[name][0]
        options = policy.PPO(iterations=iterations)
        target, grid = setting.target, routes.grid_of(setting)
        start = policy.start_policy(target, components, FAMILIES[name][1])
        found = policy.ppo(target, start, options, context.seed)
        rho = grid.normalise(found.log_prob(grid.points).detach())
        rows.append(
            at_most(
                f"ppo_agrees/{name}",
                f"KL(ρ_θ‖ρ*) after {options.iterations} iterations of {options.batch} samples",
                _last_stride(found, grid, options),
                free_energy.kl(rho, grid.optimum(target), grid.volume),
                "½ tr(F)(epochs·lr)²: Adam's last iteration moves each parameter by about "
                "epochs·lr; F is the Fisher matrix of the policy reached",
            )
        )
    rows.append(_no_noise_at_optimum(context))
    return rows


def _last_stride(found: policy.MixturePolicy, grid: Grid, options: policy.PPO) -> float:
    """KL between policies whose parameters differ by PPO's last iteration, to second order."""
    information = policy.fisher(found, grid)
    return float(0.5 * information.trace() * (options.epochs * options.min_lr) ** 2)


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

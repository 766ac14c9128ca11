"""The density side of Theorem 4.1: a gradient flow of the free energy, and how fast it goes."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy import stats

from nabla_theory import entropy_decay, fokker_planck, free_energy, gaussian, targets
from nabla_theory.checks import Check, Context, at_least, at_most, close, fitted_slope
from nabla_theory.claims.dynamics import ou_setting
from nabla_theory.densities import Gaussian
from nabla_theory.fokker_planck import Grid


def conservation(context: Context) -> list[Check]:
    """Mass, positivity and a falling free energy, at every step."""
    rows = []
    cases = (("gaussian-ripple", 240), ("well-linear", 160), ("mixture2d-bounded", 64))
    for name, cells in cases:
        setting = targets.SETTINGS[name]
        target, grid = setting.target, Grid(setting.box, (cells,) * setting.target.dim)
        rho = np.zeros(len(grid.points))
        rho[len(rho) // 3] = 1 / grid.volume  # all mass in one cell
        A = fokker_planck.generator(target, grid)
        steps = itertools.islice(fokker_planck.evolve(A, rho, 0.02), 120)
        masses, lowest, energies = [], math.inf, [free_energy.on_grid(rho, target, grid)]
        for now in steps:
            masses.append(now.sum() * grid.volume)
            lowest = min(lowest, now.min())
            energies.append(free_energy.on_grid(now, target, grid))
        rise = float(np.diff(energies).max())
        rows += [
            close(
                f"conservation/mass[{name}]",
                "Σρ stays 1 over 120 steps",
                0.0,
                float(np.abs(np.array(masses) - 1).max()),
                1e-12,
                "rounding: 120 solves with a matrix of entries up to Δt/Δ²",
            ),
            at_least(
                f"conservation/positive[{name}]",
                "ρ ≥ 0 in every cell, from a point mass",
                0.0,
                float(lowest),
                "M-matrix: its inverse has no negative entry",
            ),
            at_most(
                f"conservation/free_energy[{name}]",
                "L_PPO(ρ) does not rise in any step: largest increase",
                0.0,
                rise,
                "rounding of a sum of size |L_PPO|; in exact arithmetic a Markov step lowers KL",
                tolerance=1e-13 * max(1.0, abs(energies[0])),
            ),
        ]
    return rows


def stationary_order(context: Context) -> list[Check]:
    """The discrete stationary state is ρ*, exactly or to second order."""
    setting = targets.SETTINGS["well-linear"]
    target = setting.target
    counts, errors = [40, 80, 160, 320], []
    for cells in counts:
        grid = Grid(((-2.7, 2.7),), (cells,))
        found = fokker_planck.stationary(fokker_planck.generator(target, grid, "drift"), grid)
        errors.append(float(np.abs(found - grid.optimum(target)).sum() * grid.volume))
    plane_counts, plane_errors = [24, 48, 96], []
    mixture = targets.SETTINGS["mixture2d-bounded"]
    for cells in plane_counts:
        grid = Grid(mixture.box, (cells, cells))
        A = fokker_planck.generator(mixture.target, grid, "drift")
        gap = fokker_planck.stationary(A, grid) - grid.optimum(mixture.target)
        plane_errors.append(float(np.abs(gap).sum() * grid.volume))
    plane = targets.SETTINGS["banana-ripple"]
    grid = Grid(plane.box, (48, 72))
    found = fokker_planck.stationary(fokker_planck.generator(plane.target, grid), grid)
    return [
        close(
            "stationary_order/drift",
            "L¹ distance to ρ* with Chang and Cooper's weights: order in the cell width",
            2.0,
            fitted_slope([1 / n for n in counts], errors),
            0.1,
            "asymptotic order 2; 0.1 covers the next term at 40 cells",
        ),
        close(
            "stationary_order/drift_2d",
            "... and in the plane (mixture, tanh reward)",
            2.0,
            fitted_slope([1 / n for n in plane_counts], plane_errors),
            0.1,
            "asymptotic order 2; 0.1 covers the next term at 24 cells",
        ),
        close(
            "stationary_order/potential",
            "with potential differences the stationary state is ρ* (banana, plane): L¹ distance",
            0.0,
            float(np.abs(found - grid.optimum(plane.target)).sum() * grid.volume),
            1e-9,
            "rounding × condition number (relaxation time / smallest time scale, about 1e4)",
        ),
    ]


def transient_order(context: Context) -> list[Check]:
    """The evolving density converges to the closed form with the grid."""
    target = targets.SETTINGS["gaussian-linear"].target
    solution = targets.closed_form(target)
    assert solution is not None and isinstance(solution[1], Gaussian)
    star = solution[1]
    mu, K = star.mean.numpy(), star.precision.numpy()
    m0, c0, t = np.array([-1.0]), np.array([[0.36]]), 0.5
    exact_mean = gaussian.ou_mean(mu, K, m0, t).item()
    exact_var = gaussian.ou_covariance(K, c0, t).item()
    counts, errors = [40, 80, 160], []
    for cells in counts:
        grid = Grid(((-6.0, 7.5),), (cells,))
        steps = cells**2 // 160  # Δt falls as Δ²: the orders 1 in time and 2 in space balance
        rho = _cell_means(grid, m0.item(), c0.item())
        A = fokker_planck.generator(target, grid)
        now = next(itertools.islice(fokker_planck.evolve(A, rho, t / steps), steps - 1, None))
        exact = _cell_means(grid, exact_mean, exact_var)
        errors.append(float(np.abs(now - exact).sum() * grid.volume))
    return [
        close(
            "transient_order/ou",
            "L¹ distance to the Ornstein-Uhlenbeck density at t=½ with Δt ~ Δ²: order in Δ",
            2.0,
            fitted_slope([1 / n for n in counts], errors),
            0.15,
            "asymptotic order 2; 0.15 covers the next term at 40 cells",
        )
    ]


def _cell_means(grid: Grid, mean: float, variance: float) -> np.ndarray:
    edges = np.linspace(*grid.box[0], grid.cells[0] + 1)
    return np.diff(stats.norm.cdf(edges, mean, math.sqrt(variance))) / grid.volume


def kl_decay_gaussian(context: Context) -> list[Check]:
    """KL(ρ_t‖ρ*) of Gaussians falls as e^{-2 λ_min t}."""
    rows = []
    for name, cells, dt in (("gaussian-linear", 300, 0.005), ("gaussian2d-quadratic", 90, 0.008)):
        setting = targets.SETTINGS[name]
        curve = entropy_decay.kl_curve(setting, cells, dt, stop=3.2)
        times, values = curve.times, curve.kl
        late = times >= 1.6
        slope = -np.polyfit(times[late], np.log(values[late]), 1)[0]
        solution = targets.closed_form(setting.target)
        assert solution is not None and isinstance(solution[1], Gaussian)
        K = solution[1].precision.numpy()
        expected = 2 * float(np.linalg.eigvalsh(K).min())
        rows.append(
            close(
                f"kl_decay_gaussian/slope[{name}]",
                "late slope of -log KL(ρ_t‖ρ*), Fokker-Planck, against 2 λ_min",
                expected,
                float(slope),
                0.02 * expected,
                "2 %: implicit Euler gives log(1 + λΔt)/Δt, cells λ(1 - O(Δ²)), late only",
            )
        )
    rows.append(_closed_form_decay())
    return rows


def _closed_form_decay() -> Check:
    _, mu, K, start = ou_setting()
    stationary = np.linalg.inv(K)
    rates, modes = np.linalg.eigh(K)
    m0, c0 = mu + 2 * modes[:, 0], start.cov.numpy()

    def divergence(t: float) -> float:
        mean, cov = gaussian.ou_mean(mu, K, m0, t), gaussian.ou_covariance(K, c0, t)
        return gaussian.kl(mean, cov, mu, stationary)

    expected = 2 * float(rates[0])
    slope = -(math.log(divergence(3.0)) - math.log(divergence(2.5))) / 0.5
    return close(
        "kl_decay_gaussian/closed_form",
        "the same slope from the closed forms of mean, covariance and KL, 2.5 ≤ t ≤ 3",
        expected,
        slope,
        0.02 * expected,
        f"2 %: what the covariance adds falls twice as fast, e^(-{4 * rates[0]:.2f} t)",
    )


def log_sobolev(context: Context) -> list[Check]:
    """Elsewhere KL stays below KL(0) e^{-2αt}, α the constant of a log-Sobolev inequality."""
    rows = []
    cases = (("gaussian-ripple", 300), ("gaussian-bounded", 300), ("well-linear", 240))
    for name, cells in cases:
        setting = entropy_decay.SETTINGS[name]
        alpha = entropy_decay.log_sobolev_constant(setting.target)
        curve = entropy_decay.kl_curve(setting, cells, 0.02, stop=4.0)
        bound = curve.kl[0] * np.exp(-2 * alpha * curve.times)
        kept = curve.kl > 1e-10  # below lies rounding
        grid = Grid(setting.box, (cells,))
        gap = float(fokker_planck.slowest_rates(setting.target, grid)[1])
        rows += [
            at_most(
                f"log_sobolev/decay[{name}]",
                f"KL(ρ_t‖ρ*) ≤ KL(ρ_0‖ρ*) e^(-2αt), α={alpha:.3g} (Holley-Stroock): ratio",
                1.0,
                float((curve.kl[kept] / bound[kept]).max()),
                "a theorem; implicit Euler (α replaced by log(1 + αΔt)/Δt) costs under α²Δt·t",
                tolerance=alpha**2 * 0.02 * 4.0,
            ),
            at_least(
                f"log_sobolev/gap[{name}]",
                "the spectral gap is at least α",
                alpha,
                gap,
                "a theorem (log-Sobolev implies Poincaré)",
            ),
        ]
    return rows

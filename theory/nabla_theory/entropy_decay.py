"""How fast KL(ρ_t‖ρ*) falls: curves by Fokker-Planck, and log-Sobolev constants in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from nabla_theory import fokker_planck, free_energy, targets
from nabla_theory.densities import DoubleWell, Gaussian
from nabla_theory.fokker_planck import Grid
from nabla_theory.rewards import Linear
from nabla_theory.targets import Setting, Target

Array = NDArray[np.floating]

SETTINGS: dict[str, Setting] = {
    "gaussian-ripple": targets.SETTINGS["gaussian-ripple"],
    "gaussian-bounded": Setting(
        targets.target("gaussian-1d", "bounded-1d", 1.0), ((-7.0, 8.0),), 0.2
    ),
    "well-linear": Setting(targets.SETTINGS["well-linear"].target, ((-2.9, 2.9),), 0.1),
}


@dataclass(frozen=True)
class Curve:
    """KL(ρ_t‖ρ*) and L_PPO(ρ_t) over time."""

    times: Array
    kl: Array  # nats
    free_energy: Array  # nats
    final: Array  # ρ at the last time, on the cells


def shifted_start(setting: Setting, grid: Grid) -> Array:
    """A Gaussian of half the size of ρ*, two of its standard deviations to the left; [M]."""
    star = torch.from_numpy(grid.optimum(setting.target)) * grid.volume
    mean = star @ grid.points
    size = (star @ (grid.points - mean).square()).sqrt()
    standard = (grid.points - (mean - 2 * size)) / (size / 2)
    return grid.normalise(-0.5 * standard.square().sum(-1))


def kl_curve(
    setting: Setting, cells: int, dt: float, stop: float, start: Array | None = None
) -> Curve:
    """Solve Fokker-Planck to time `stop` and record KL and free energy at every step."""
    target = setting.target
    grid = Grid(setting.box, (cells,) * target.dim)
    star = grid.optimum(target)
    rho = shifted_start(setting, grid) if start is None else start
    steps = round(stop / dt)
    states = islice(fokker_planck.evolve(fokker_planck.generator(target, grid), rho, dt), steps)
    kl, energy = [], []
    for now in (first for group in ((rho,), states) for first in group):
        rho = now
        kl.append(free_energy.kl(rho, star, grid.volume))
        energy.append(free_energy.on_grid(rho, target, grid))
    return Curve(np.arange(steps + 1) * dt, np.array(kl), np.array(energy), rho)


def holley_stroock(convexity: float, oscillation: float) -> float:
    """α >= convexity · e^{-osc}: e^{-(V+U)} with V'' >= convexity and osc(U) = oscillation.

    Bakry-Émery gives α >= convexity for U = 0; a bounded U costs at most the factor e^{-osc U}
    (Holley and Stroock 1987).
    """
    return convexity * math.exp(-oscillation)


def double_well_constant(well: DoubleWell) -> float:
    """α of exp(-b(x² - a²)²) tilted linearly: max over s > a of 4b(s² - a²) e^{-b s⁴}.

    Inside |x| < s replace the well by the parabola that meets it with equal slope at ±s: the
    result has curvature >= 4b(s² - a²), and the difference is b(x² - s²)², of oscillation b s⁴.
    The best s² is (a² + √(a⁴ + 2/b))/2; a linear reward has no curvature and changes nothing.
    """
    s2 = (well.a**2 + math.sqrt(well.a**4 + 2 / well.b)) / 2
    return holley_stroock(4 * well.b * (s2 - well.a**2), well.b * s2**2)


def log_sobolev_constant(target: Target) -> float:
    """A lower bound α with KL(ρ_t‖ρ*) <= KL(ρ_0‖ρ*) e^{-2αt}; ValueError where none is known."""
    pi, reward = target.density, target.reward
    if isinstance(pi, Gaussian) and math.isfinite(reward.oscillation):
        convexity = float(torch.linalg.eigvalsh(pi.precision).min())
        return holley_stroock(convexity, abs(target.lam) * reward.oscillation)
    if isinstance(pi, DoubleWell) and isinstance(reward, Linear):
        return double_well_constant(pi)
    raise ValueError(
        f"No log-Sobolev constant is known here for {type(pi).__name__} with "
        f"{type(reward).__name__}; heavy tails have none at all."
    )

"""The routes to ρ* that Theorem 4.1 joins, each reduced to E[r], KL(ρ‖π) and L_PPO(ρ).

Quadrature says what the three numbers are at ρ*; the density flow, the particles and the policy
start at π and must arrive there.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from nabla_theory import fokker_planck, free_energy, langevin, policy
from nabla_theory.fokker_planck import Grid
from nabla_theory.targets import SETTINGS, Setting, Target

Array = NDArray[np.floating]

PARTICLES = 10_000
HALVINGS = 40  # of the distance to ρ*, by the density flow and by the policy: 2^-40 is left
# Steps of ULA at a setting's h until what is left of the start is below the sampling error.
STEPS = {
    "gaussian-linear": 100,
    "gaussian-ripple": 900,
    "mixture-quadratic": 260,
    "well-linear": 700,
    "student-bounded": 400,
    "gaussian2d-quadratic": 60,
    "mixture2d-bounded": 220,
    "banana-ripple": 800,
}


class Numbers(NamedTuple):
    """Values that a route reached; at ρ* the last is -log Z."""

    reward: float  # E_ρ[r]
    kl: float  # KL(ρ‖π), nats
    energy: float  # L_PPO(ρ) = KL(ρ‖π) - λE_ρ[r], nats

    def gap(self, other: Numbers) -> float:
        """The largest of the three differences."""
        return max(abs(a - b) for a, b in zip(self, other, strict=True))


def grid_of(setting: Setting) -> Grid:
    """The cells on which densities and policies of a setting live."""
    cells = setting.cells if setting.target.dim == 1 else min(setting.cells, 90)
    return Grid(setting.box, (cells,) * setting.target.dim)


def of_density(rho: Array, target: Target, grid: Grid) -> Numbers:
    """The three numbers of a density on cells, [M]."""
    reward = float(rho @ target.reward.value(grid.points).numpy()) * grid.volume
    energy = free_energy.on_grid(rho, target, grid)
    return Numbers(reward, energy + target.lam * reward, energy)


def by_quadrature(setting: Setting) -> Numbers:
    """Return the values that every route must reach."""
    best = free_energy.optimum(setting.target, setting.box)
    return Numbers(best.reward, best.kl, -best.log_z)


def relaxation_time(setting: Setting) -> float:
    """1/gap: the time in which Langevin dynamics forgets all but 1/e of its slowest mode."""
    return 1 / float(fokker_planck.slowest_rates(setting.target, grid_of(setting))[1])


def by_density(setting: Setting) -> Numbers:
    """Fokker-Planck from π; an implicit step of a relaxation time halves the slowest mode."""
    target, grid = setting.target, grid_of(setting)
    rho = grid.normalise(target.density.log_prob(grid.points))
    A = fokker_planck.generator(target, grid)
    flow = fokker_planck.evolve(A, rho, relaxation_time(setting))
    return of_density(next(islice(flow, HALVINGS - 1, None)), target, grid)


def by_policy(setting: Setting) -> Numbers:
    """Softmax policy from π by natural gradient; a step of rate ½ halves log ρ/ρ*."""
    grid = grid_of(setting)
    steps = policy.natural_gradient(setting.target, grid, 0.5)
    return of_density(next(islice(steps, HALVINGS - 1, None)), setting.target, grid)


@dataclass(frozen=True)
class Cloud:
    """ULA particles that started at π: the numbers at h = 0, with how far they may be off."""

    steps: int
    found: dict[str, free_energy.Estimate]  # reward, potential, kl, free_energy
    slack: dict[str, float]  # what extrapolation and the start may have left

    def scores(self, best: free_energy.Optimum) -> list[float]:
        """Deviations from ρ* in standard errors, beyond the slack."""
        goals = {
            "reward": best.reward,
            "potential": best.potential,
            "kl": best.kl,
            "free_energy": -best.log_z,
        }
        return [
            float(np.maximum(0.0, abs(found.value - goals[key]) - self.slack[key])) / found.error
            for key, found in self.found.items()
        ]


def by_particles(name: str, seed: int, device: str = "cpu") -> Cloud:
    """Independent ULA particles from exact draws of π at h and h/2, extrapolated to h = 0.

    The series in h falls by more than half from term to term, so half of the last correction
    bounds what it leaves; what is left of the start comes from Fokker-Planck.
    """
    setting, steps = SETTINGS[name], STEPS[name]
    coarse, fine = langevin.coupled(
        setting.target,
        setting.target.density.sample(seed, f"agree/{name}", PARTICLES),
        setting.step,
        steps,
        seed=seed,
        stream=f"agree/{name}",
        device=device,
    )
    found, correction = free_energy.extrapolated(coarse, fine, setting.target)
    start = remainder(setting, steps * setting.step)
    slack = {key: abs(correction[key]) / 2 + start[key] for key in found}
    return Cloud(steps, found, slack)


def remainder(setting: Setting, time: float) -> dict[str, float]:
    """|E[r] - E_ρ*[r]|, and the same of L, KL and L_PPO, a time after π (Fokker-Planck).

    Implicit Euler in 60 steps forgets more slowly than the equation, so this is an upper bound.
    """
    target, grid = setting.target, grid_of(setting)
    rho = grid.normalise(target.density.log_prob(grid.points))
    flow = fokker_planck.evolve(fokker_planck.generator(target, grid), rho, time / 60)
    now, star = next(islice(flow, 59, None)), grid.optimum(target)
    ended, goal = (of_density(density, target, grid) for density in (now, star))
    potential = float((now - star) @ target.potential(grid.points).numpy()) * grid.volume
    gaps = [abs(a - b) for a, b in zip(ended, goal, strict=True)]
    return {"reward": gaps[0], "potential": abs(potential), "kl": gaps[1], "free_energy": gaps[2]}

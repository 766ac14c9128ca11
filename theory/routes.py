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

from theory import fokker_planck, free_energy, langevin, policy
from theory.fokker_planck import Grid
from theory.targets import SETTINGS, Setting, Target

Array = NDArray[np.floating]

PARTICLES = 10_000
HALVINGS = 40  # of the distance to ρ*, by the density flow and by the policy: 2^-40 is left
# MALA steps until what is left of the start is below the sampling error.
STEPS = {
    "gaussian-linear": 30,
    "gaussian-ripple": 250,
    "mixture-quadratic": 300,
    "well-linear": 250,
    "student-bounded": 80,
    "gaussian2d-quadratic": 40,
    "mixture2d-bounded": 160,
    "banana-ripple": 250,
}


class Numbers(NamedTuple):
    """What a route reached; at ρ* the last is -log Z."""

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
    """What every route must reach."""
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
    """MALA particles that started at π, with the three numbers estimated from them."""

    run: langevin.Run
    steps: int
    found: dict[str, free_energy.Estimate]  # reward, kl, free_energy

    @property
    def numbers(self) -> Numbers:
        """The estimates without their errors."""
        return Numbers(*(self.found[key].value for key in ("reward", "kl", "free_energy")))


def by_particles(name: str, seed: int, device: str = "cpu") -> Cloud:
    """Independent MALA particles from exact draws of π, for the setting called `name`."""
    setting, steps = SETTINGS[name], STEPS[name]
    run = langevin.simulate(
        setting.target,
        setting.target.density.sample(seed, f"agree/{name}", PARTICLES),
        setting.step,
        [steps // 2, steps],
        kernel="mala",
        seed=seed,
        stream=f"agree/{name}",
        device=device,
    )
    return Cloud(run, steps, free_energy.of_samples(run.last, setting.target))

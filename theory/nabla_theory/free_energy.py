"""The free energy L_PPO(ρ) = -λE_ρ[r] + KL(ρ‖π), divergences and distances, on grids and samples.

L_PPO(ρ) = KL(ρ‖ρ*) - log Z, so its minimum is -log Z, at ρ*.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from scipy.spatial import cKDTree
from torch import Tensor

from nabla_theory import noise
from nabla_theory.fokker_planck import Grid
from nabla_theory.targets import Target

Array = NDArray[np.floating]


def kl(p: Array, q: Array, volume: float) -> float:
    """KL(p‖q) of densities on cells, in nats; cells that p leaves empty count nothing."""
    return float(special.rel_entr(p, q).sum() * volume)


def on_grid(rho: Array, target: Target, grid: Grid) -> float:
    """L_PPO of a density on cells: Σ ρ(-λr + log ρ - log π)·volume, in nats."""
    reward = target.reward.value(grid.points).numpy()
    log_pi = target.density.log_prob(grid.points).numpy()
    energy = rho * (-target.lam * reward - log_pi)
    return float((energy + special.xlogy(rho, rho)).sum() * grid.volume)


@dataclass(frozen=True)
class Optimum:
    """Values that every route must reach, by quadrature."""

    log_z: float  # log E_π[e^{λr}], nats
    reward: float  # E_ρ*[r]
    potential: float  # E_ρ*[L], nats
    kl: float  # KL(ρ*‖π), nats
    error: float  # of the quadrature


def optimum(target: Target, box: tuple[tuple[float, float], ...]) -> Optimum:
    """log Z, E_ρ*[r] and KL(ρ*‖π) = λE_ρ*[r] - log Z by quadrature over a box.

    Gauss-Legendre in panels on the line; in the plane, sums over cells, which converge
    geometrically for smooth densities that vanish at the border. `error` is the change from half
    as many panels or cells.
    """
    line = len(box) == 1
    coarse, fine = (
        _gauss_legendre(target, box[0], 200 * k)
        if line
        else _on_cells(target, Grid(box, (300 * k,) * 2))
        for k in (1, 2)
    )
    error = abs(fine[0] - coarse[0]) + abs(fine[1] - coarse[1])
    log_z, reward, potential = fine
    return Optimum(log_z, reward, potential, target.lam * reward - log_z, error)


def _gauss_legendre(
    target: Target, interval: tuple[float, float], panels: int
) -> tuple[float, float, float]:
    """log Z, E_ρ*[r] and E_ρ*[L] by ten Gauss-Legendre nodes in each panel."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    edges = np.linspace(*interval, panels + 1)
    half = (edges[1] - edges[0]) / 2
    x = ((edges[:-1] + half)[:, None] + half * nodes).ravel()
    return _weighted(target, torch.from_numpy(x).unsqueeze(-1), np.tile(half * weights, panels))


def _on_cells(target: Target, grid: Grid) -> tuple[float, float, float]:
    return _weighted(target, grid.points, np.full(len(grid.points), grid.volume))


def _weighted(target: Target, points: Tensor, weights: Array) -> tuple[float, float, float]:
    """log Z, E_ρ*[r] and E_ρ*[L] by a quadrature rule."""
    potential = target.potential(points).numpy()
    mass = np.exp(-potential) * weights
    z = float(mass.sum())
    reward = float(mass @ target.reward.value(points).numpy()) / z
    return math.log(z), reward, float(mass @ potential) / z


def entropy_terms(samples: Tensor, neighbours: int = 4) -> Array:
    """Kozachenko-Leonenko terms whose mean estimates the entropy -E[log ρ], in nats; [N].

    -ψ(k) + ψ(N) + log(volume of the unit ball) + d log(distance to the k-th neighbour).
    """
    x = samples.cpu().numpy()
    count, d = x.shape
    distance = cKDTree(x).query(x, k=neighbours + 1)[0][:, -1]
    ball = d / 2 * math.log(math.pi) - special.gammaln(d / 2 + 1)
    constant = special.digamma(count) - special.digamma(neighbours) + ball
    return np.asarray(constant + d * np.log(np.maximum(distance, 1e-300)))


@dataclass(frozen=True)
class Estimate:
    """A mean over independent particles with its standard error."""

    value: float
    error: float


def particle_terms(samples: Tensor, target: Target, neighbours: int = 4) -> dict[str, Array]:
    """Terms whose means are E[r], E[L], KL(ρ‖π) and L_PPO(ρ) of particles [N, d]; [N] each.

    The entropy is Kozachenko and Leonenko's. Particles that ran away give NaN.
    """
    if not torch.isfinite(samples).all():
        lost = np.full(len(samples), math.nan)
        return dict.fromkeys(("reward", "potential", "kl", "free_energy"), lost)
    reward = target.reward.value(samples).cpu().numpy()
    kl_terms = -entropy_terms(samples, neighbours) - target.density.log_prob(samples).cpu().numpy()
    terms = {
        "reward": reward,
        "potential": target.potential(samples).cpu().numpy(),
        "kl": kl_terms,
        "free_energy": kl_terms - target.lam * reward,
    }
    return {key: np.where(np.isfinite(value), value, math.nan) for key, value in terms.items()}


def estimates(terms: dict[str, Array], neighbours: int = 4) -> dict[str, Estimate]:
    """Means with standard errors of the terms of independent particles.

    Terms of the entropy depend on each other through shared neighbours; √(1 + 2k) times the naive
    error covers that, since a particle is among the k nearest of k others on average.
    """
    found = {}
    for key, values in terms.items():
        factor = math.sqrt(1 + 2 * neighbours) if key in ("kl", "free_energy") else 1.0
        error = factor * values.std(ddof=1) / math.sqrt(len(values))
        found[key] = Estimate(float(values.mean()), float(error))
    return found


def of_samples(samples: Tensor, target: Target) -> dict[str, Estimate]:
    """`reward` E[r], `potential` E[L], `kl` KL(ρ‖π) and `free_energy` L_PPO of particles [N, d]."""
    return estimates(particle_terms(samples, target))


def extrapolated(
    coarse: Tensor, fine: Tensor, target: Target
) -> tuple[dict[str, Estimate], dict[str, float]]:
    """The same at h = 0, from coupled particles at h and h/2, and the last correction of each."""
    at_h, at_half = particle_terms(coarse, target), particle_terms(fine, target)
    found = estimates({key: 2 * at_half[key] - at_h[key] for key in at_h})
    return found, {key: float((at_half[key] - at_h[key]).mean()) for key in at_h}


def wasserstein2_line(a: Tensor, b: Tensor) -> float:
    """W₂ of two equally large samples on the line: sorted samples are optimally paired."""
    if a.shape != b.shape:
        raise ValueError(f"Equal sample sizes are needed, got {len(a)} and {len(b)}.")
    return float((a.flatten().sort().values - b.flatten().sort().values).square().mean().sqrt())


def wasserstein2_to_grid(samples: Tensor, rho: Array, grid: Grid) -> float:
    """W₂ between a sample on the line and a density on cells, by the quantile functions."""
    levels = (np.arange(len(samples)) + 0.5) / len(samples)
    edges = np.linspace(*grid.box[0], grid.cells[0] + 1)
    cdf = np.concatenate([[0.0], np.cumsum(rho) * grid.volume])
    quantiles = np.interp(levels, cdf / cdf[-1], edges)
    return float(np.sqrt(np.mean((np.sort(samples.flatten().cpu().numpy()) - quantiles) ** 2)))


def sliced_wasserstein2(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """Sliced W₂ in the plane: the root mean square of W₂ along equally spaced directions."""
    angles = torch.arange(directions, dtype=noise.DTYPE) * (math.pi / directions)
    rays = torch.stack([angles.cos(), angles.sin()])
    squares = [wasserstein2_line(a @ ray, b @ ray) ** 2 for ray in rays.T]
    return math.sqrt(sum(squares) / directions)


def mmd2(a: Tensor, b: Tensor, bandwidth: float) -> float:
    """The unbiased squared maximum mean discrepancy under exp(-|x-y|²/(2 bandwidth²))."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / (2 * bandwidth**2))

    n, m = len(a), len(b)
    within_a = (kernel(a, a).sum() - n) / (n * (n - 1))
    within_b = (kernel(b, b).sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel(a, b).mean())

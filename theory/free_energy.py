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

from theory import noise
from theory.fokker_planck import Grid
from theory.targets import Target

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
    """What every route must reach, by quadrature."""

    log_z: float  # log E_π[e^{λr}], nats
    reward: float  # E_ρ*[r]
    kl: float  # KL(ρ*‖π), nats
    error: float  # of the quadrature


def optimum(target: Target, box: tuple[tuple[float, float], ...]) -> Optimum:
    """log Z, E_ρ*[r] and KL(ρ*‖π) = λE_ρ*[r] - log Z by quadrature over a box.

    Gauss-Legendre in panels on the line; in the plane, sums over cells, which converge
    geometrically for smooth densities that vanish at the border. `error` is the change from half
    as many panels or cells.
    """
    if len(box) == 1:
        return _optimum_on_line(target, box[0])
    coarse = _optimum_on_cells(target, Grid(box, (300, 300)))
    fine = _optimum_on_cells(target, Grid(box, (600, 600)))
    error = abs(fine[0] - coarse[0]) + abs(fine[1] - coarse[1])
    return Optimum(fine[0], fine[1], target.lam * fine[1] - fine[0], error)


def _optimum_on_line(target: Target, interval: tuple[float, float]) -> Optimum:
    coarse = _gauss_legendre(target, interval, panels=200)
    fine = _gauss_legendre(target, interval, panels=400)
    error = abs(fine[0] - coarse[0]) + abs(fine[1] - coarse[1])
    return Optimum(fine[0], fine[1], target.lam * fine[1] - fine[0], error)


def _gauss_legendre(
    target: Target, interval: tuple[float, float], panels: int
) -> tuple[float, float]:
    """log Z and E_ρ*[r] by ten Gauss-Legendre nodes in each panel."""
    nodes, weights = np.polynomial.legendre.leggauss(10)
    edges = np.linspace(*interval, panels + 1)
    half = (edges[1] - edges[0]) / 2
    x = ((edges[:-1] + half)[:, None] + half * nodes).ravel()
    points = torch.from_numpy(x).unsqueeze(-1)
    mass = torch.exp(-target.potential(points)).numpy() * np.tile(half * weights, panels)
    z = float(mass.sum())
    return math.log(z), float(mass @ target.reward.value(points).numpy()) / z


def _optimum_on_cells(target: Target, grid: Grid) -> tuple[float, float]:
    logs = -target.potential(grid.points)
    log_z = float(torch.logsumexp(logs, 0)) + math.log(grid.volume)
    reward = (torch.exp(logs - log_z) * target.reward.value(grid.points)).sum() * grid.volume
    return log_z, float(reward)


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


def of_samples(samples: Tensor, target: Target, neighbours: int = 4) -> dict[str, Estimate]:
    """`reward` E[r], `kl` KL(ρ‖π) and `free_energy` L_PPO of independent particles [N, d].

    The entropy is Kozachenko and Leonenko's estimate. Its terms depend on each other through
    shared neighbours; √(1 + 2k) times the naive error covers that, since a particle is among the
    k nearest of k others on average.
    """
    reward = target.reward.value(samples).cpu().numpy()
    terms = -entropy_terms(samples, neighbours) - target.density.log_prob(samples).cpu().numpy()
    inflation = math.sqrt(1 + 2 * neighbours)
    root = math.sqrt(len(reward))

    def estimate(values: Array, factor: float) -> Estimate:
        return Estimate(float(values.mean()), float(factor * values.std(ddof=1) / root))

    return {
        "reward": estimate(reward, 1.0),
        "kl": estimate(terms, inflation),
        "free_energy": estimate(terms - target.lam * reward, inflation),
    }


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

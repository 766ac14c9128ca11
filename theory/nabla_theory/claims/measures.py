"""What the checks are made with: densities, rewards, samplers and distances, each held against
another way to the same number."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import sympy
import torch
from scipy import optimize, stats
from torch import Tensor

from nabla_theory import free_energy, gaussian, noise, proofs, targets
from nabla_theory.checks import Check, Context, close, t_within_error, within_error
from nabla_theory.densities import Density
from nabla_theory.fokker_planck import Grid
from nabla_theory.rewards import Reward

DRAWS = 20_000

BOXES = {  # hold all but about 1e-8 of the density; None where a tail needs more
    "gaussian-1d": ((-7.0, 8.0),),
    "gaussian-2d": ((-7.0, 8.0), (-6.5, 6.0)),
    "mixture-1d": ((-6.0, 6.0),),
    "mixture-2d": ((-6.0, 7.0), (-6.5, 6.5)),
    "double-well": ((-3.2, 3.2),),
    "deep-well": ((-3.2, 3.2),),
    "student-t": ((-300.0, 300.0),),
    "banana": ((-6.0, 6.0), (-7.0, 24.0)),
    "funnel": ((-4.5, 4.5), (-40.0, 40.0)),
}


def log_normalisers(context: Context) -> list[Check]:
    """Every log-density is normalised and every gradient is its derivative."""
    gaps, slopes = {}, []
    for name, density in targets.DENSITIES.items():
        flat = targets.Target(density, targets.REWARDS["ripple"], 0.0)
        gaps[name] = abs(free_energy.optimum(flat, BOXES[name]).log_z)
        x = density.sample(context.seed, f"slope/{name}", 50).requires_grad_()
        (slope,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        slopes.append(float((slope - density.score(x)).detach().abs().max() / slope.abs().max()))
    for name, reward in targets.REWARDS.items():
        dim = 2 if "2d" in name else 1
        x = 2 * noise.normal(context.seed, f"slope/{name}", 0, (50, dim))
        x.requires_grad_()
        (slope,) = torch.autograd.grad(reward.value(x).sum(), x)
        slopes.append(float((slope - reward.gradient(x)).detach().abs().max()))
    worst = max(gaps, key=lambda name: gaps[name])
    return [
        close(
            "log_normalisers/densities",
            f"∫π = 1 for all {len(gaps)} densities: largest |log ∫π| (at {worst})",
            0.0,
            gaps[worst],
            1e-7,
            "mass outside the boxes, below 5e-8 each",
        ),
        close(
            "log_normalisers/gradients",
            "∇log π and ∇r against automatic differentiation: largest difference",
            0.0,
            max(slopes),
            1e-12,
            "rounding, relative to the largest gradient",
        ),
    ]


def symbolic_forms(context: Context) -> list[Check]:
    """The expressions of the proofs are the functions that are simulated."""
    densities = [
        _slope_gap(density, density.score, density.sample(context.seed, f"symbolic/{name}", 40))
        for name, density in targets.DENSITIES.items()
    ]
    rewards = [
        _slope_gap(reward, reward.gradient, _points(name, context, f"symbolic/{name}", 40))
        for name, reward in targets.REWARDS.items()
    ]
    statement = "∇ of the exact expression against the float64 gradient: largest difference"
    why = "rounding, relative to the largest gradient"
    return [
        close(f"symbolic_forms/{name}", f"{name}: {statement}", 0.0, max(gaps), 1e-12, why)
        for name, gaps in (("densities", densities), ("rewards", rewards))
    ]


def _slope_gap(owner: Density | Reward, slope: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """max |∇ symbolic - slope| / max |slope| at the points x [N, d]."""
    symbols = proofs.coordinates(x.shape[1])
    expression = owner.symbolic(symbols)
    parts = [sympy.lambdify(symbols, sympy.diff(expression, xi), "numpy") for xi in symbols]
    columns = [np.broadcast_to(part(*x.T.numpy()), len(x)) for part in parts]
    found = slope(x).numpy()
    return float(np.abs(np.stack(columns, axis=-1) - found).max() / np.abs(found).max())


def _points(name: str, context: Context, stream: str, count: int) -> Tensor:
    return 2 * noise.normal(context.seed, stream, 0, (count, 2 if "2d" in name else 1))


def exact_samples(context: Context) -> list[Check]:
    """The samplers draw from the densities that they belong to."""
    scores = []
    for name, density in targets.DENSITIES.items():
        x = density.sample(context.seed, f"exact/{name}", DRAWS)
        for reward in (targets.REWARDS[f"bounded-{density.dim}d"], targets.REWARDS["ripple"]):
            flat = targets.Target(density, reward, 0.0)
            values = reward.value(x)
            error = values.std().item() / math.sqrt(DRAWS)
            expected = free_energy.optimum(flat, BOXES[name]).reward
            scores.append((values.mean().item() - expected) / error)
    return [
        within_error(
            "exact_samples/expectations",
            f"E[tanh(a·x)] and E[cos 3x] of {DRAWS} draws from each of {len(targets.DENSITIES)} "
            "densities against quadrature",
            scores,
        )
    ]


def distances(context: Context) -> list[Check]:
    """W₂ and MMD as they are computed, against closed forms and an optimal assignment."""
    draw = noise.generator(context.seed, "distances")
    a, b = (torch.from_numpy(draw.standard_normal((60, 1))) for _ in range(2))
    b = 2 * b + 1
    cost = (a - b.T).square().numpy()
    pairs = optimize.linear_sum_assignment(cost)
    P, Q = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([[1.0, -0.6], [-0.6, 1.5]])
    roots = np.sqrt(np.linalg.eigvals(P @ Q).real).sum()
    shift, cloud = torch.tensor([[3.0, -4.0]]).double(), torch.from_numpy(draw.random((50, 2)))
    grid = Grid(((-7.0, 7.0),), (700,))
    levels = (np.arange(1000) + 0.5) / 1000
    quantiles = torch.from_numpy(stats.norm.ppf(levels)).unsqueeze(-1)
    normal = grid.normalise(-0.5 * grid.points[:, 0].square())
    return [
        close(
            "distances/w2_line",
            "W₂ on the line by sorting against the optimal assignment of 60 pairs",
            math.sqrt(cost[pairs].mean()),
            free_energy.wasserstein2_line(a, b),
            1e-12,
            "rounding",
        ),
        close(
            "distances/w2_gaussian",
            "W₂² of centred Gaussians against tr P + tr Q - 2 Σ√eig(PQ)",
            np.trace(P) + np.trace(Q) - 2 * roots,
            gaussian.wasserstein2(np.zeros(2), P, np.zeros(2), Q) ** 2,
            1e-12,
            "rounding of matrix square roots",
        ),
        close(
            "distances/sliced_w2",
            "sliced W₂ between a cloud and itself shifted by |δ| = 5 is |δ|/√2",
            5 / math.sqrt(2),
            free_energy.sliced_wasserstein2(cloud, cloud.flip(0) + shift),
            1e-12,
            "the mean of cos² over equally spaced directions is ½ exactly",
        ),
        close(
            "distances/w2_grid",
            "W₂ of shifted normal quantiles to the normal density on cells is the shift",
            0.5,
            free_energy.wasserstein2_to_grid(quantiles + 0.5, normal, grid),
            grid.spacing[0],
            "quantiles of the cells differ by at most a cell (triangle inequality)",
        ),
        _mmd_of_normals(context),
    ]


def _mmd_of_normals(context: Context, blocks: int = 60, size: int = 100) -> Check:
    """Unbiased MMD² of N(0,1) and N(1,1) against its closed form, bandwidth 1."""
    x = noise.normal(context.seed, "mmd/x", 0, (blocks, size, 1))
    y = noise.normal(context.seed, "mmd/y", 0, (blocks, size, 1)) + 1
    values = [free_energy.mmd2(x[k], y[k], bandwidth=1.0) for k in range(blocks)]
    expected = 2 / math.sqrt(3) * (1 - math.exp(-1 / 6))
    error = np.std(values, ddof=1) / math.sqrt(blocks)
    return t_within_error(
        "distances/mmd",
        f"MMD² of N(0,1) and N(1,1) is 2(1 - e^(-1/6))/√3 = {expected:.4f}; "
        f"found {np.mean(values):.4f}",
        float((np.mean(values) - expected) / error),
        blocks - 1,
    )

"""The exact one-step kernels of ULA and MALA on a fine grid of the line: bias without sampling.

The grid kernel of MALA is in detailed balance with ρ* on the grid; that of ULA is a quadrature of
its Gaussian density, whose error falls faster than any power of the spacing while the spacing is
well below √(2h). The slope of L comes from automatic differentiation and not from `Target.drift`,
so that simulated particles can be held against these kernels.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from nabla_theory import langevin
from nabla_theory.targets import Target

Array = NDArray[np.floating]


def nodes(low: float, high: float, count: int) -> Array:
    """Equidistant nodes, [M]."""
    return np.linspace(low, high, count)


def target_mass(target: Target, x: Array) -> Array:
    """ρ* on the nodes as probabilities, [M]."""
    logs = -target.potential(torch.from_numpy(x).unsqueeze(-1)).numpy()
    mass = np.exp(logs - logs.max())
    return np.asarray(mass / mass.sum())


def downhill(target: Target, points: torch.Tensor) -> torch.Tensor:
    """-∇L by automatic differentiation; [N, d]."""
    x = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(target.potential(x).sum(), x)
    return -slope


def proposal_matrix(target: Target, x: Array, h: float) -> Array:
    """q(x_j | x_i) dx of Euler-Maruyama, rows sum to about 1; [M, M]."""
    spacing, scale = x[1] - x[0], langevin.noise_scale(h)
    if spacing > scale / 2:
        raise ValueError(f"Nodes {spacing:.3g} apart cannot resolve noise of size {scale:.3g}.")
    points = torch.from_numpy(x).unsqueeze(-1)
    mean = langevin.euler_mean(points, downhill(target, points), h).numpy()
    standard = (x[None, :] - mean) / scale
    return np.asarray(np.exp(-0.5 * standard**2) * spacing / (scale * math.sqrt(2 * math.pi)))


def ula_matrix(target: Target, x: Array, h: float) -> Array:
    """ULA's transition probabilities between nodes; rows sum to 1; [M, M]."""
    q = proposal_matrix(target, x, h)
    return np.asarray(q / q.sum(axis=1, keepdims=True))


def mala_matrix(target: Target, x: Array, h: float) -> Array:
    """MALA's transition probabilities between nodes, refusals on the diagonal; [M, M]."""
    q = proposal_matrix(target, x, h)
    points = torch.from_numpy(x).unsqueeze(-1)
    state = langevin.State(points, downhill(target, points), target.potential(points))
    accept = np.empty_like(q)
    for i in range(len(x)):
        here = langevin.State(*(part[i : i + 1] for part in state if part is not None))
        accept[i] = np.exp(np.minimum(0.0, langevin.log_acceptance(here, state, h).numpy()))
    moves = q * accept
    np.fill_diagonal(moves, 0.0)
    np.fill_diagonal(moves, 1.0 - moves.sum(axis=1))
    return np.asarray(moves)


def stationary(transition: Array) -> Array:
    """The probability vector p with pP = p; [M]."""
    count = len(transition)
    system = transition.T - np.eye(count)
    system[-1] = 1.0  # one balance equation follows from the others: put Σp = 1 in its place
    right = np.zeros(count)
    right[-1] = 1.0
    return np.asarray(np.linalg.solve(system, right))

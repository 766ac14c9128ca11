"""Fokker-Planck ∂ρ/∂t = ∇·(ρ∇L) + Δρ by finite volumes (Chang-Cooper), implicit in time.

The flux between cells i and j, Δ apart, is (B(w) ρ_i - B(-w) ρ_j)/Δ with B(w) = w/(e^w - 1) and
w = L_j - L_i (`potential`: ρ* at the centres is stationary to rounding), or w = -Δ·drift at the
face (`drift`: second order in Δ, the weights of Chang and Cooper 1970). Fluxes conserve mass;
B > 0 makes I - Δt·A an M-matrix, so implicit Euler keeps ρ positive for any Δt.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg as sparse_linalg

from nabla_theory.targets import Target

Array = NDArray[np.floating]
Weights = Literal["potential", "drift"]


@dataclass(frozen=True)
class Grid:
    """Equal cells of a box in one or two dimensions."""

    box: tuple[tuple[float, float], ...]
    cells: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.box) != len(self.cells) or len(self.box) not in (1, 2):
            raise ValueError(f"A grid has 1 or 2 dimensions; got {self.box} and {self.cells}.")

    @property
    def spacing(self) -> tuple[float, ...]:
        """Cell width per dimension."""
        pairs = zip(self.box, self.cells, strict=True)
        return tuple((high - low) / n for (low, high), n in pairs)

    @property
    def volume(self) -> float:
        """Volume of a cell."""
        return float(np.prod(self.spacing))

    @cached_property
    def axes(self) -> tuple[Array, ...]:
        """Cell centres per dimension."""
        return tuple(
            low + step * (np.arange(n) + 0.5)
            for (low, _), step, n in zip(self.box, self.spacing, self.cells, strict=True)
        )

    @cached_property
    def points(self) -> torch.Tensor:
        """Cell centres, [M, d], the last dimension running fastest."""
        mesh = np.meshgrid(*self.axes, indexing="ij")
        return torch.from_numpy(np.stack([axis.ravel() for axis in mesh], axis=-1))

    def normalise(self, log_density: torch.Tensor) -> Array:
        """The density on the cells, [M], that integrates to 1, of an unnormalised logarithm."""
        density = torch.exp(log_density - log_density.max()).numpy()
        return np.asarray(density / (density.sum() * self.volume))

    def optimum(self, target: Target) -> Array:
        """ρ* on the cells; [M]."""
        return self.normalise(-target.potential(self.points))


def bernoulli(w: Array) -> Array:
    """B(w) = w / (e^w - 1), positive, with B(0) = 1 and B(-w) - B(w) = w."""
    small = np.abs(w) < 1e-5
    safe = np.clip(np.where(small, 1.0, w), -700.0, 700.0)
    return np.asarray(np.where(small, 1 - w / 2 + w**2 / 12, safe / np.expm1(safe)))


def _faces(grid: Grid, dimension: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells left and right of every inner face that is normal to a dimension."""
    index = np.arange(int(np.prod(grid.cells))).reshape(grid.cells)
    n = grid.cells[dimension]
    left = np.take(index, np.arange(n - 1), axis=dimension).ravel()
    right = np.take(index, np.arange(1, n), axis=dimension).ravel()
    return left, right


def generator(target: Target, grid: Grid, weights: Weights = "potential") -> sparse.csc_array:
    """The matrix A of dρ/dt = Aρ; columns sum to 0, off-diagonal entries are positive; [M, M]."""
    count = len(grid.points)
    potential = target.potential(grid.points).numpy()
    rows, columns, values = [], [], []
    for dimension, step in enumerate(grid.spacing):
        left, right = _faces(grid, dimension)
        if weights == "potential":
            w = potential[right] - potential[left]
        else:
            middle = (grid.points[left] + grid.points[right]) / 2
            w = -step * target.drift(middle)[:, dimension].numpy()
        out, back = bernoulli(w) / step**2, bernoulli(-w) / step**2
        rows += [right, left, left, right]
        columns += [left, left, right, right]
        values += [out, -out, back, -back]
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csc_array(sparse.coo_array(entries, shape=(count, count)))


def evolve(A: sparse.csc_array, rho: Array, dt: float) -> Iterator[Array]:
    """Implicit Euler: yields ρ after 1, 2, ... steps of dt, for ever; [M]."""
    identity = sparse.eye_array(A.shape[0], format="csc")
    solver = sparse_linalg.splu(sparse.csc_array(identity - dt * A))
    while True:
        rho = solver.solve(rho)
        yield rho


def stationary(A: sparse.csc_array, grid: Grid) -> Array:
    """The density with Aρ = 0; [M]."""
    count = A.shape[0]
    system = sparse.lil_array(A)
    system[count - 1, :] = grid.volume  # one equation is redundant: Σρ·volume = 1 in its place
    right = np.zeros(count)
    right[-1] = 1.0
    return np.asarray(sparse_linalg.spsolve(sparse.csc_array(system), right))


def slowest_rates(target: Target, grid: Grid, count: int = 2) -> Array:
    """The smallest eigenvalues of -A, ascending from 0; the second is the spectral gap.

    With the potential weights A is reversible, so √ρ*-scaling makes it symmetric.
    """
    A = generator(target, grid, "potential")
    root = np.sqrt(grid.optimum(target))
    if root.min() <= 0:
        raise ValueError("ρ* underflows in the box; take a smaller one.")
    symmetric = sparse.diags_array(1 / root) @ A @ sparse.diags_array(root)
    start = np.ones(len(root))  # ARPACK's own start is random
    shift = 1e-6  # just above 0, where the matrix itself is singular
    values = sparse_linalg.eigsh(
        sparse.csc_array((symmetric + symmetric.T) / -2),
        k=count,
        sigma=-shift,
        v0=start,
        return_eigenvectors=False,
    )
    return np.sort(values)

"""Policies π with a normalised log-density, its gradient, exact samples and a symbolic form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import sympy
import torch
from scipy import special
from torch import Tensor

from nabla_theory import noise

LOG_2PI = math.log(2 * math.pi)


class Density(Protocol):
    """A probability density on R^d, d = `dim`; x is [N, d] throughout."""

    @property
    def dim(self) -> int:
        """The dimension d."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log π(x) in nats, normalised; [N]."""

    def score(self, x: Tensor) -> Tensor:
        """∇ log π(x); [N, d]."""

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        """`n` independent exact draws, keyed; [n, d]."""

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        """log π up to its constant, for proofs with exact arithmetic."""


def vector(values: Sequence[float]) -> Tensor:
    """A float64 vector."""
    return torch.tensor(values, dtype=noise.DTYPE)


def matrix(values: Sequence[Sequence[float]]) -> Tensor:
    """A float64 matrix."""
    return torch.tensor(values, dtype=noise.DTYPE)


def exact(value: float) -> sympy.Rational:
    """The decimal that a float was written as, exactly."""
    return sympy.Rational(repr(float(value)))


def symbolic_quadratic(x: Sequence[sympy.Symbol], centre: Tensor, form: Tensor) -> sympy.Expr:
    """-½ (x - centre)ᵀ form (x - centre) in exact arithmetic."""
    offset = sympy.Matrix([xi - exact(c) for xi, c in zip(x, centre.tolist(), strict=True)])
    A = sympy.Matrix([[exact(v) for v in row] for row in form.tolist()])
    return -(offset.T * A * offset)[0] / 2


@dataclass(frozen=True, eq=False)
class Gaussian:
    """N(mean, cov)."""

    mean: Tensor  # [d]
    cov: Tensor  # [d, d]

    @property
    def dim(self) -> int:
        return self.mean.shape[0]

    @cached_property
    def precision(self) -> Tensor:
        """cov^-1, [d, d]."""
        return torch.linalg.inv(self.cov)

    @cached_property
    def _log_det(self) -> float:
        return float(torch.logdet(self.cov))

    def log_prob(self, x: Tensor) -> Tensor:
        offset = x - self.mean.to(x.device)
        quadratic = (offset @ self.precision.to(x.device) * offset).sum(-1)
        return -0.5 * (quadratic + self.dim * LOG_2PI + self._log_det)

    def score(self, x: Tensor) -> Tensor:
        return -(x - self.mean.to(x.device)) @ self.precision.to(x.device)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        standard = noise.normal(seed, f"{stream}/gaussian", 0, (n, self.dim))
        return self.mean + standard @ torch.linalg.cholesky(self.cov).T

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        return symbolic_quadratic(x, self.mean, self.precision)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Σ_k weights_k N(means_k, covs_k)."""

    weights: Tensor  # [K], sums to 1
    parts: tuple[Gaussian, ...]

    @property
    def dim(self) -> int:
        return self.parts[0].dim

    def joint(self, x: Tensor) -> Tensor:
        """log(weights_k N_k(x)); [K, N], whose sums over k are of whole rows."""
        logs = torch.stack([part.log_prob(x) for part in self.parts])
        return logs + self.weights.log().to(x.device)[:, None]

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.logsumexp(self.joint(x), dim=0)

    def score(self, x: Tensor) -> Tensor:
        share = torch.softmax(self.joint(x), dim=0)
        scores = torch.stack([part.score(x) for part in self.parts])
        return (share.unsqueeze(-1) * scores).sum(0)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        u = noise.uniform(seed, f"{stream}/component", 0, (n,))
        which = torch.searchsorted(self.weights.cumsum(0)[:-1].contiguous(), u)
        draws = [part.sample(seed, f"{stream}/{k}", n) for k, part in enumerate(self.parts)]
        return torch.stack(draws, dim=1)[torch.arange(n), which]

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        terms = [
            exact(w) * sympy.exp(part.symbolic(x)) / sympy.sqrt(exact(part.cov.det().item()))
            for w, part in zip(self.weights.tolist(), self.parts, strict=True)
        ]
        return sympy.log(sum(terms, start=sympy.Integer(0)))


@dataclass(frozen=True)
class DoubleWell:
    """π ∝ exp(-b (x² - a²)²) on the line: wells at ±a, a barrier of b a⁴ nats at 0."""

    a: float
    b: float
    dim: int = 1

    @property
    def log_normaliser(self) -> float:
        """log ∫ exp(-b (x² - a²)²) dx = log{(πa/2) e^-c [I_¼(c) + I_-¼(c)]}, c = b a⁴ / 2."""
        c = self.b * self.a**4 / 2
        return math.log(math.pi * self.a / 2 * (special.ive(0.25, c) + special.ive(-0.25, c)))

    def log_prob(self, x: Tensor) -> Tensor:
        return -self.b * (x[:, 0] ** 2 - self.a**2) ** 2 - self.log_normaliser

    def score(self, x: Tensor) -> Tensor:
        return -4 * self.b * x * (x**2 - self.a**2)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        reach = math.sqrt(self.a**2 + math.sqrt(40 / self.b))  # beyond it lie under e^-40
        grid = np.linspace(-reach, reach, 20001)
        mass = np.exp(-self.b * (grid**2 - self.a**2) ** 2)
        cdf = np.concatenate([[0.0], np.cumsum((mass[1:] + mass[:-1]) / 2)])
        u = noise.uniform(seed, f"{stream}/well", 0, (n,)).numpy()
        return torch.from_numpy(np.interp(u, cdf / cdf[-1], grid)).unsqueeze(-1)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        return -exact(self.b) * (x[0] ** 2 - exact(self.a) ** 2) ** 2


@dataclass(frozen=True)
class StudentT:
    """Student's t with `df` degrees of freedom on the line: polynomial tails."""

    df: float
    dim: int = 1

    def log_prob(self, x: Tensor) -> Tensor:
        v = self.df
        constant = special.gammaln((v + 1) / 2) - special.gammaln(v / 2)
        constant -= 0.5 * math.log(v * math.pi)
        return constant - (v + 1) / 2 * torch.log1p(x[:, 0] ** 2 / v)

    def score(self, x: Tensor) -> Tensor:
        return -(self.df + 1) * x / (self.df + x**2)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        draw = noise.generator(seed, f"{stream}/student").standard_t(self.df, size=(n, 1))
        return torch.from_numpy(draw)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        v = exact(self.df)
        return -(v + 1) / 2 * sympy.log(1 + x[0] ** 2 / v)


@dataclass(frozen=True)
class Banana:
    """x ~ N(0, s²), y | x ~ N(b (x² - s²), 1): a Gaussian bent along a parabola."""

    s: float
    b: float
    dim: int = 2

    def _bend(self, x: Tensor) -> Tensor:
        return x[:, 1] - self.b * (x[:, 0] ** 2 - self.s**2)

    def log_prob(self, x: Tensor) -> Tensor:
        quadratic = (x[:, 0] / self.s) ** 2 + self._bend(x) ** 2
        return -0.5 * quadratic - LOG_2PI - math.log(self.s)

    def score(self, x: Tensor) -> Tensor:
        bend = self._bend(x)
        first = -x[:, 0] / self.s**2 + 2 * self.b * x[:, 0] * bend
        return torch.stack([first, -bend], dim=-1)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        draw = noise.normal(seed, f"{stream}/banana", 0, (n, 2))
        first = self.s * draw[:, 0]
        return torch.stack([first, draw[:, 1] + self.b * (first**2 - self.s**2)], dim=-1)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        s, b = exact(self.s), exact(self.b)
        return -((x[0] / s) ** 2 + (x[1] - b * (x[0] ** 2 - s**2)) ** 2) / 2


@dataclass(frozen=True)
class Funnel:
    """v ~ N(0, s²), y | v ~ N(0, e^v) (Neal's funnel; mild for s = 1)."""

    s: float
    dim: int = 2

    def log_prob(self, x: Tensor) -> Tensor:
        v, y = x[:, 0], x[:, 1]
        return -0.5 * ((v / self.s) ** 2 + y**2 * torch.exp(-v) + v) - LOG_2PI - math.log(self.s)

    def score(self, x: Tensor) -> Tensor:
        v, y = x[:, 0], x[:, 1]
        narrow = y * torch.exp(-v)
        return torch.stack([-v / self.s**2 + 0.5 * (y * narrow - 1), -narrow], dim=-1)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        draw = noise.normal(seed, f"{stream}/funnel", 0, (n, 2))
        v = self.s * draw[:, 0]
        return torch.stack([v, draw[:, 1] * torch.exp(v / 2)], dim=-1)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        v, y = x
        return -((v / exact(self.s)) ** 2 + y**2 * sympy.exp(-v) + v) / 2


def line_mixture(weights: Sequence[float], means: Sequence[float], sd: float) -> Mixture:
    """A Gaussian mixture on the line with one standard deviation."""
    parts = tuple(Gaussian(vector([m]), matrix([[sd**2]])) for m in means)
    return Mixture(vector(weights), parts)

"""Rewards r with gradient, bounds and a symbolic form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import sympy
import torch
from torch import Tensor

from nabla_theory.densities import exact, symbolic_quadratic


class Reward(Protocol):
    """A real function on R^d; x is [N, d] throughout."""

    @property
    def oscillation(self) -> float:
        """sup r - inf r; infinite when r is unbounded."""

    def value(self, x: Tensor) -> Tensor:
        """r(x); [N]."""

    def gradient(self, x: Tensor) -> Tensor:
        """∇r(x); [N, d]."""

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        """r in exact arithmetic."""


@dataclass(frozen=True, eq=False)
class Linear:
    """r = slope · x."""

    slope: Tensor  # [d]
    oscillation: float = math.inf

    def value(self, x: Tensor) -> Tensor:
        return x @ self.slope.to(x.device)

    def gradient(self, x: Tensor) -> Tensor:
        return self.slope.to(x.device).expand_as(x)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        return sum(exact(a) * xi for a, xi in zip(self.slope.tolist(), x, strict=True))


@dataclass(frozen=True, eq=False)
class Quadratic:
    """r = -½ (x - centre)ᵀ form (x - centre)."""

    centre: Tensor  # [d]
    form: Tensor  # [d, d], symmetric
    oscillation: float = math.inf

    def value(self, x: Tensor) -> Tensor:
        offset = x - self.centre.to(x.device)
        return -0.5 * (offset @ self.form.to(x.device) * offset).sum(-1)

    def gradient(self, x: Tensor) -> Tensor:
        return -(x - self.centre.to(x.device)) @ self.form.to(x.device)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        return symbolic_quadratic(x, self.centre, self.form)


@dataclass(frozen=True, eq=False)
class Bounded:
    """r = tanh(slope · x), between -1 and 1."""

    slope: Tensor  # [d]
    oscillation: float = 2.0

    def value(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.slope.to(x.device))

    def gradient(self, x: Tensor) -> Tensor:
        return (1 - self.value(x) ** 2).unsqueeze(-1) * self.slope.to(x.device)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        return sympy.tanh(sum(exact(a) * xi for a, xi in zip(self.slope.tolist(), x, strict=True)))


@dataclass(frozen=True)
class Ripple:
    """r = mean over coordinates of cos(frequency x_i): many maxima, between -1 and 1."""

    frequency: float
    oscillation: float = 2.0

    def value(self, x: Tensor) -> Tensor:
        return torch.cos(self.frequency * x).mean(-1)

    def gradient(self, x: Tensor) -> Tensor:
        return -self.frequency / x.shape[-1] * torch.sin(self.frequency * x)

    def symbolic(self, x: Sequence[sympy.Symbol]) -> sympy.Expr:
        return sum(sympy.cos(exact(self.frequency) * xi) for xi in x) / len(x)

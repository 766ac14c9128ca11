"""Where ρ* = e^{-L}/Z exists for tokens: between two tokens, in a box, confined, and on logits.

On R^{L×V} it does not: L is linear in the last token, so e^{-L} has no finite integral.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import sympy
import torch
from torch import Tensor

from nabla_theory import reach
from nabla_theory.gradients import Pair
from nabla_theory.targets import Target


def reward_bound(pair: Pair) -> float:
    """√D |head| ≥ |r|: the reward model reads a hidden state of root-mean-square 1."""
    head = pair.reward.head[:, 0]
    return float(math.sqrt(len(head)) * head.norm())


def along_last(pair: Pair, y: Tensor, step: Tensor, lengths: Tensor) -> Tensor:
    """L of y with `length · step` [V] added to its last token; [T]."""
    moved = y.expand(len(lengths), -1, -1).clone()
    moved[:, -1] += lengths[:, None] * step
    return torch.stack([pair.loss(row) for row in moved]).detach()


def box_log_normaliser(slopes: Tensor, half_width: float, nodes: int = 4000) -> float:
    """log ∫ e^{slopes·u} over the box |u_v| ≤ R, by the midpoint rule in every dimension."""
    width = 2 * half_width / nodes
    u = -half_width + width * (torch.arange(nodes, dtype=slopes.dtype) + 0.5)
    return float((torch.logsumexp(slopes[:, None] * u, dim=1) + math.log(width)).sum())


def confined_log_normaliser(slopes: Tensor, strength: float) -> float:
    """log ∫ e^{slopes·u - κ|u|²/2} du = |slopes|²/2κ + (V/2) log(2π/κ)."""
    size = len(slopes) / 2 * math.log(2 * math.pi / strength)
    return float(slopes.square().sum() / (2 * strength)) + size


# --- the segment between two tokens, and its logit ----------------------------------------------


@dataclass(frozen=True, eq=False)
class Segment:
    """-L as a reward on the segment y_L = s e_a + (1 - s) e_b; x = s, or the logit of s."""

    pair: Pair
    y: Tensor  # [L, V]
    tokens: tuple[int, int]
    logit: bool = False
    oscillation: float = math.inf

    def _value(self, x: Tensor) -> Tensor:
        s = torch.sigmoid(x[0]) if self.logit else x[0]
        eye = torch.eye(self.y.shape[1], dtype=self.y.dtype)
        last = s * eye[self.tokens[0]] + (1 - s) * eye[self.tokens[1]]
        return -self.pair.loss(torch.cat([self.y[:-1], last[None]]))

    def value(self, x: Tensor) -> Tensor:
        return torch.func.vmap(self._value)(x).detach()

    def gradient(self, x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(self._value))(x).detach()

    def symbolic(self, x: object) -> sympy.Expr:
        raise NotImplementedError("A transformer has no closed form.")


@dataclass(frozen=True)
class Flat:
    """Lebesgue measure: log-density 0 on the line (normalised only where a box ends it)."""

    dim: int = 1

    def log_prob(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[:, 0])

    def score(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def sample(self, seed: int, stream: str, n: int) -> Tensor:
        raise NotImplementedError("Lebesgue measure has no samples.")

    def symbolic(self, x: object) -> sympy.Expr:
        return sympy.Integer(0)


@dataclass(frozen=True)
class Jacobian(Flat):
    """Lebesgue measure of the segment on its logit z: density s(1 - s), s = σ(z)."""

    def log_prob(self, x: Tensor) -> Tensor:
        return log_jacobian(torch.cat([x, torch.zeros_like(x)], dim=-1))

    def score(self, x: Tensor) -> Tensor:
        p = torch.softmax(torch.cat([x, torch.zeros_like(x)], dim=-1), dim=-1)
        return logit_drift(p, torch.zeros_like(p))[:, :1]


def on_segment(pair: Pair, y: Tensor, tokens: tuple[int, int]) -> Target:
    """e^{-L} on s ∈ [0, 1]."""
    return Target(Flat(), Segment(pair, y, tokens), 1.0)


def on_logit(pair: Pair, y: Tensor, tokens: tuple[int, int], jacobian: bool = True) -> Target:
    """The same on the logit of s, with the Jacobian of the softmax or without it."""
    return Target(Jacobian() if jacobian else Flat(), Segment(pair, y, tokens, logit=True), 1.0)


# --- the softmax's Jacobian ---------------------------------------------------------------------


def log_jacobian(z: Tensor) -> Tensor:
    """log |det ∂(p_1..p_{V-1})/∂(z_1..z_{V-1})| = Σ_v log p_v, z_V held; [...] of z [..., V]."""
    return torch.log_softmax(z, dim=-1).sum(-1)


def logit_drift(p: Tensor, g: Tensor) -> Tensor:
    """-∂/∂z_j [L(p(z)) - Σ_v log p_v] = -p_j (g_j - p·g) + 1 - V p_j, g = ∂L/∂p; [..., V]."""
    return -reach.softmax_backward(p, g, 1.0) + 1 - p.shape[-1] * p


def determinant(tokens: int) -> sympy.Expr:
    """det ∂(p_1..p_{V-1})/∂(z_1..z_{V-1}) - Π_v p_v, with ∂p_i/∂z_j = p_i(δ_ij - p_j); 0."""
    p = sympy.symbols(f"p1:{tokens}", positive=True)
    entries = [[pi * (int(i == j) - pj) for j, pj in enumerate(p)] for i, pi in enumerate(p)]
    return sympy.expand(sympy.Matrix(entries).det() - sympy.prod(p) * (1 - sum(p)))


def midpoints(low: float, high: float, cells: int) -> np.ndarray:
    """The centres of equal cells; [M]."""
    return low + (high - low) * (np.arange(cells) + 0.5) / cells

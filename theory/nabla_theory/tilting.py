"""One step of KL-regularised tilting, and what it costs to linearise the reward.

At one position a token v is chosen from the policy π. Its gain f(e_v) is the log-sigmoid of a
reward model's prefix score with the token's embedding e_v as last input, which a first-order
method replaces by its tangent at a point e: f(e) + <∇f(e), e_v - e>. Up to a constant that is
G_v = <∇f(e), e_v>.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import sympy
import torch
from sympy import Expr
from torch import Tensor

from nabla_theory import noise
from nabla_theory.transformer import Transformer, random_transformer

Gain = Callable[[Tensor], Tensor]  # [D] -> scalar

BETA = sympy.Symbol("beta", positive=True)
NODES = 16  # of the Gauss-Legendre rule along a segment
SCALE = 0.1  # of the random embeddings: beyond it the rule does not resolve the transformers


# --- the tilted policy --------------------------------------------------------------------------


def tilt(log_policy: Tensor, gains: Tensor, beta: float) -> Tensor:
    """ρ = π e^{βG} / Z; [V]."""
    return torch.softmax(log_policy + beta * gains, dim=-1)


def objective(rho: Tensor, log_policy: Tensor, gains: Tensor, beta: float) -> Tensor:
    """E_ρ[G] - KL(ρ‖π)/β of ρ [..., V]; tokens of probability 0 count nothing."""
    return (rho * gains).sum(-1) - (torch.xlogy(rho, rho) - rho * log_policy).sum(-1) / beta


def rule(log_policy: Tensor, gains: Tensor, beta: float) -> int:
    """The token argmax_v log π(v) + βG_v."""
    return int((log_policy + beta * gains).argmax())


def identity(tokens: int = 3) -> Expr:
    """E_p[G] - KL(p‖π)/β - (log Z - KL(p‖ρ))/β for p anywhere on the simplex; 0.

    So ρ = π e^{βG}/Z is the only maximum, of value log Z / β.
    """
    q = sympy.symbols(f"q1:{tokens + 1}", positive=True)
    g = sympy.symbols(f"g1:{tokens + 1}", real=True)
    free = sympy.symbols(f"p1:{tokens}", positive=True)
    p = (*free, 1 - sum(free))
    log_z = sympy.log(sum(qi * sympy.exp(BETA * gi) for qi, gi in zip(q, g, strict=True)))
    total = -log_z / BETA
    for pi, qi, gi in zip(p, q, g, strict=True):
        log_rho = sympy.log(qi) + BETA * gi - log_z
        total += pi * gi - pi * (sympy.log(pi) - sympy.log(qi)) / BETA
        total += pi * (sympy.log(pi) - log_rho) / BETA
    return sympy.simplify(sympy.expand(total))


def parallel_axis(tokens: int = 3) -> Expr:
    """Σ_v π_v (e_v - e)² - Σ_v π_v (e_v - ē)² - (e - ē)² in one dimension, ē = Σ_v π_v e_v; 0.

    Coordinates add up, so of all points the mean embedding has the least mean square distance.
    """
    free = sympy.symbols(f"p1:{tokens}", positive=True)
    p = (*free, 1 - sum(free))
    e = sympy.symbols(f"e1:{tokens + 1}", real=True)
    point = sympy.Symbol("e", real=True)
    mean = sum(pi * ei for pi, ei in zip(p, e, strict=True))
    spread = sum(pi * ((ei - point) ** 2 - (ei - mean) ** 2) for pi, ei in zip(p, e, strict=True))
    return sympy.expand(spread - (point - mean) ** 2)


# --- the tangent and what it leaves out ---------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """One choice of a token: the gain as a function of an embedding, and the policy."""

    gain: Gain
    embeddings: Tensor  # [V, D]
    log_policy: Tensor  # [V]

    @property
    def mean(self) -> Tensor:
        """ē = Σ_v π(v) e_v; [D]."""
        return self.log_policy.exp() @ self.embeddings

    def exact(self) -> Tensor:
        """f(e_v) of every token; [V]."""
        return torch.stack([self.gain(row) for row in self.embeddings])

    def shrunk(self, scale: float) -> Choice:
        """The same with all embeddings moved towards their mean."""
        moved = self.mean + scale * (self.embeddings - self.mean)
        return Choice(self.gain, moved, self.log_policy)


def random_choice(seed: int, lane: int, *, vocabulary: int = 9, length: int = 5) -> Choice:
    """The last token of a random prefix, under a random transformer as reward model."""
    reward: Transformer = random_transformer(seed, f"tilting/{lane}", vocabulary, 1)
    order = noise.generator(seed, f"tilting/{lane}/prefix").integers(vocabulary, size=length)
    prefix = reward.embedding[torch.from_numpy(order)]

    def gain(embedded: Tensor) -> Tensor:
        score = reward.read(torch.cat([prefix, embedded[None]]))[-1, 0]
        return -torch.nn.functional.softplus(-score)

    logits = 2 * noise.normal(seed, f"tilting/{lane}/policy", 0, (vocabulary,))
    choice = Choice(gain, reward.embedding, torch.log_softmax(logits, dim=-1))
    return choice.shrunk(SCALE)


def tangent(choice: Choice, point: Tensor) -> Tensor:
    """f(e) + <∇f(e), e_v - e> of every token; [V]."""
    at = point.clone().requires_grad_()
    value = choice.gain(at)
    (slope,) = torch.autograd.grad(value, at)
    return value.detach() + (choice.embeddings - point) @ slope


def curvatures(choice: Choice, point: Tensor, times: Tensor) -> Tensor:
    """<d, ∇²f d> at e + td for d = e_v - e: at most ‖∇²f‖₂ |d|² in size; [V, T]."""

    def second(step: Tensor, time: float) -> Tensor:
        t = torch.tensor(time, dtype=noise.DTYPE, requires_grad=True)
        (slope,) = torch.autograd.grad(choice.gain(point + t * step), t, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, t)
        return curvature

    steps = choice.embeddings - point
    return torch.stack(
        [torch.stack([second(step, time) for time in times.tolist()]) for step in steps]
    )


def segment() -> tuple[Tensor, Tensor]:
    """Nodes and weights of the Gauss-Legendre rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)


def taylor_remainder(along: Tensor, times: Tensor, weights: Tensor) -> Tensor:
    """∫₀¹ (1 - t) <d, ∇²f(e + td) d> dt, which is f(e_v) less its tangent; [V]."""
    return (along * (1 - times) * weights).sum(-1)


def remainder_bound(along: Tensor) -> Tensor:
    """max_t |<d, ∇²f d>| / 2 ≤ (H/2)|e_v - e|², H the largest ‖∇²f‖₂ on the segment; [V]."""
    return along.abs().amax(-1) / 2


def lost_objective(choice: Choice, linear: Tensor, beta: float) -> Tensor:
    """Return what the tilt of the tangent loses of the exact gains' optimum."""
    exact = choice.exact()
    best = tilt(choice.log_policy, exact, beta)
    ours = tilt(choice.log_policy, linear, beta)

    def value(rho: Tensor) -> Tensor:
        return objective(rho, choice.log_policy, exact, beta)

    return value(best) - value(ours)


def lost_objective_bound(beta: float, remainder: Tensor) -> Tensor:
    """β range(R)²/8, by Hoeffding's lemma, for the remainders R_v = f(e_v) - tangent; scalar."""
    return beta * (remainder.max() - remainder.min()) ** 2 / 8

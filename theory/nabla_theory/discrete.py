"""Responses that can be enumerated: V^L sequences under a policy and a reward, with no sampling.

Everything here is a sum over all S = V^L sequences: ρ* = π e^{λr}/Z, the frontier of E[r] against
KL(·‖π), best-of-N's law, and L_PPO of any law p.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special

from nabla_theory.gradients import Pair, backpropagated

Array = NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Responses:
    """All sequences of L tokens, in lexicographic order, with their probabilities and rewards."""

    tokens: NDArray[np.integer]  # [S, L]
    conditionals: Array  # [S, L, V], log π(·|y_<i, x) along each sequence
    reward: Array  # [S]
    likelihood_slope: Array  # [S, L, V], ∂(-log π)/∂y at each (Prop. C.1)
    reward_slope: Array  # [S, L, V], ∂r/∂y at each

    @property
    def steps(self) -> Array:
        """log π(y_i|y_<i, x) of the tokens that are there; [S, L]."""
        return np.take_along_axis(self.conditionals, self.tokens[:, :, None], axis=2)[:, :, 0]

    @property
    def log_policy(self) -> Array:
        """log π(y|x); [S]."""
        return np.asarray(self.steps.sum(1))


def enumerate_responses(pair: Pair, length: int) -> Responses:
    """Every response of `length` tokens under a pair."""
    vocabulary = pair.prompt.shape[1]
    tokens = np.array(list(itertools.product(range(vocabulary), repeat=length)))
    hard = torch.eye(vocabulary, dtype=pair.prompt.dtype)[torch.from_numpy(tokens)]
    with torch.no_grad():
        conditionals = torch.stack([pair.log_policy(y) for y in hard]).numpy()
        rewards = torch.stack([pair.rewards(y).sum() for y in hard]).numpy()
    flat, tilted = (
        torch.stack([backpropagated(replace(pair, lam=lam), y) for y in hard]).numpy()
        for lam in (0.0, 1.0)
    )
    return Responses(tokens, conditionals, rewards, flat, flat - tilted)


def gibbs(responses: Responses, lam: float) -> tuple[Array, float]:
    """ρ* = π e^{λr}/Z, [S], and log Z."""
    logs = responses.log_policy + lam * responses.reward
    log_z = float(special.logsumexp(logs))
    return np.exp(logs - log_z), log_z


def divergence(p: Array, q: Array) -> float:
    """KL(p‖q) in nats."""
    return float(special.rel_entr(p, q).sum())


def free_energy(p: Array, responses: Responses, lam: float) -> float:
    """L_PPO(p) = -λE_p[r] + KL(p‖π), nats."""
    entropy = special.xlogy(p, p).sum()
    return float(entropy - p @ (responses.log_policy + lam * responses.reward))


def best_of_n(responses: Responses, n: int) -> Array:
    """The law of the best of n draws (the first of them where rewards tie); [S].

    P(best reward ≤ r) = F(r)^n, shared among equal rewards in proportion to π.
    """
    pi = np.exp(responses.log_policy)
    pi = pi / pi.sum()
    law = np.zeros_like(pi)
    below = 0.0
    for value in np.unique(responses.reward):
        same = responses.reward == value
        share = pi[same].sum()
        law[same] = pi[same] / share * ((below + share) ** n - below**n)
        below += share
    return law


def frontier(responses: Responses, kl: float) -> float:
    """The largest E_p[r] among all laws with KL(p‖π) ≤ kl: min over λ of (kl + log Z_λ)/λ.

    For every λ > 0, E_p[r] = (KL(p‖π) + log Z_λ - KL(p‖ρ_λ))/λ, so no law lies above any of these
    lines, and ρ_λ touches its own. Beyond KL = -log π(argmax r) the value is max r.
    """
    if kl <= 0:
        return float(np.exp(responses.log_policy) @ responses.reward)

    def line(log_lam: float) -> float:
        lam = math.exp(log_lam)
        return (kl + gibbs(responses, lam)[1]) / lam

    found = optimize.minimize_scalar(
        line, bounds=(-12, 12), method="bounded", options={"xatol": 1e-9}
    )
    return min(float(found.fun), float(responses.reward.max()))

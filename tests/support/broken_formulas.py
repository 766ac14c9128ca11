"""Formulas of the theory, each broken in one place: what the checks must notice."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy import linalg, sparse

from nabla_theory import fokker_planck, gradients, langevin
from nabla_theory.targets import Target

GENERATOR = fokker_planck.generator  # as it is before a test replaces it


def wrong_kl(p: Any, q: Any, volume: float) -> float:
    return float(np.sum(np.abs(p - q)) * volume)


def no_metropolis(before: langevin.State, after: langevin.State, h: float) -> torch.Tensor:
    return torch.zeros(len(after.position), dtype=torch.float64)


def without_proposal(before: langevin.State, after: langevin.State, h: float) -> torch.Tensor:
    assert before.potential is not None and after.potential is not None
    return before.potential - after.potential


def central(w: np.ndarray) -> np.ndarray:
    return 1 - w / 2  # central differences: no upwinding


def no_tie_rule(values: Any) -> int:
    best, count = -math.inf, 0
    for value in values:
        if value >= best:
            best, count = value, count + 1
    return count


def no_postfix(jacobian: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(y)


def postfix_with_present(jacobian: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return gradients.printed_postfix(jacobian, y)


def last_end_only(jacobian: torch.Tensor, ends: Any, lam: float) -> torch.Tensor:
    return -lam * jacobian[-1]


def pi_forgotten(rho: Any, target: Target, grid: Any) -> float:
    reward = target.reward.value(grid.points).numpy()
    return float((rho * (-target.lam * reward + np.log(rho + 1e-300))).sum() * grid.volume)


def no_kl_penalty(reward: Any, log_pi: Any, log_rho: Any, lam: float) -> Any:
    return lam * reward + log_pi


def ou_rate_once(K: Any, start: Any, t: float) -> Any:
    stationary = np.linalg.inv(K)
    return stationary + math.exp(-t) * (start - stationary)


def hasty_mean(mu: Any, K: Any, start: Any, t: float) -> Any:
    return mu + linalg.expm(-1.1 * K * t) @ (start - mu)


def printed(target: Target, x: torch.Tensor) -> torch.Tensor:
    return target.printed_drift(x)


def leaky(target: Target, grid: Any, weights: Any = "potential") -> Any:
    A = GENERATOR(target, grid, weights)
    return sparse.csc_array(A - 1e-9 * sparse.eye_array(A.shape[0]))


def explicit(A: Any, rho: Any, dt: float) -> Any:
    while True:
        rho = rho + dt * (A @ rho)
        yield rho

"""The optimal policy ρ* = π e^{λr} / Z, its potential L and drift, and the registry of settings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nabla_theory.densities import (
    Banana,
    Density,
    DoubleWell,
    Funnel,
    Gaussian,
    Mixture,
    StudentT,
    line_mixture,
    matrix,
    vector,
)
from nabla_theory.rewards import Bounded, Linear, Quadratic, Reward, Ripple


@dataclass(frozen=True)
class Target:
    """ρ* ∝ π e^{λr} = e^{-L} for a policy π, a reward r and λ > 0 (or any real λ)."""

    density: Density
    reward: Reward
    lam: float

    @property
    def dim(self) -> int:
        """The dimension d of the sample space."""
        return self.density.dim

    def potential(self, x: Tensor) -> Tensor:
        """L(x) = -λ r(x) - log π(x) (Eq. 2); [N]."""
        return -self.lam * self.reward.value(x) - self.density.log_prob(x)

    def drift(self, x: Tensor) -> Tensor:
        """-∇L = +λ∇r + ∇log π, the drift under which ρ* is stationary; [N, d]."""
        return self.lam * self.reward.gradient(x) + self.density.score(x)

    def printed_drift(self, x: Tensor) -> Tensor:
        """-λ∇r - ∇log π = +∇L, the drift that Eq. 23's middle member prints; [N, d]."""
        return -self.lam * self.reward.gradient(x) - self.density.score(x)


def tilt_gaussian(pi: Gaussian, reward: Reward, lam: float) -> tuple[float, Gaussian]:
    """log Z and ρ* in closed form, for a Gaussian π and a linear or quadratic reward.

    Linear:    ρ* = N(m + λSa, S),  log Z = λ aᵀm + λ² aᵀSa / 2.
    Quadratic: precision K = S⁻¹ + λA, mean μ = K⁻¹(S⁻¹m + λAc),
               log Z = ½(μᵀKμ - mᵀS⁻¹m - λcᵀAc) - ½ log det(S K).
    """
    m, S = pi.mean, pi.cov
    if isinstance(reward, Linear):
        shift = lam * S @ reward.slope
        log_z = lam * (reward.slope @ m + shift @ reward.slope / 2)
        return float(log_z), Gaussian(m + shift, S)
    if not isinstance(reward, Quadratic):
        raise ValueError(f"No closed form for {type(reward).__name__}; use a Linear or Quadratic.")
    P, A, c = pi.precision, reward.form, reward.centre
    K = P + lam * A
    if torch.linalg.eigvalsh(K).min() <= 0:
        raise ValueError(f"ρ* is not normalisable: S⁻¹ + λA has an eigenvalue <= 0 at λ={lam}.")
    mu = torch.linalg.solve(K, P @ m + lam * A @ c)
    log_z = 0.5 * (mu @ K @ mu - m @ P @ m - lam * c @ A @ c - torch.logdet(S @ K))
    return float(log_z), Gaussian(mu, torch.linalg.inv(K))


def closed_form(target: Target) -> tuple[float, Gaussian | Mixture] | None:
    """log Z and ρ* in closed form where they exist (Gaussian or mixture, linear or quadratic)."""
    pi, reward, lam = target.density, target.reward, target.lam
    if not isinstance(reward, Linear | Quadratic):
        return None
    if isinstance(pi, Gaussian):
        return tilt_gaussian(pi, reward, lam)
    if isinstance(pi, Mixture):
        tilted = [tilt_gaussian(part, reward, lam) for part in pi.parts]
        logs = pi.weights.log() + vector([log_z for log_z, _ in tilted])
        parts = tuple(part for _, part in tilted)
        return float(torch.logsumexp(logs, 0)), Mixture(torch.softmax(logs, 0), parts)
    return None


@dataclass(frozen=True)
class Setting:
    """A triple (π, r, λ) with the box that holds all but about e^-20 of π and of ρ*."""

    target: Target
    box: tuple[tuple[float, float], ...]  # per dimension: low, high
    step: float  # h of ULA: times the largest curvature of L where ρ* lives, at most about 0.3
    cells: int = 400  # per dimension, of grids


# Every density and every reward of the package, by the name that reports use.
DENSITIES: dict[str, Density] = {
    "gaussian-1d": Gaussian(vector([0.5]), matrix([[1.25]])),
    "gaussian-2d": Gaussian(vector([0.5, -0.25]), matrix([[1.25, 0.5], [0.5, 1.0]])),
    "mixture-1d": line_mixture([0.3, 0.7], [-1.5, 1.5], 0.6),
    "mixture-2d": Mixture(
        vector([0.5, 0.3, 0.2]),
        (
            Gaussian(vector([-1.25, 0.0]), matrix([[0.5, 0.25], [0.25, 0.5]])),
            Gaussian(vector([1.25, 1.0]), matrix([[0.5, -0.2], [-0.2, 0.5]])),
            Gaussian(vector([0.75, -1.5]), matrix([[0.8, 0.0], [0.0, 0.4]])),
        ),
    ),
    "double-well": DoubleWell(a=1.2, b=0.8),
    "deep-well": DoubleWell(a=1.5, b=1.2),
    "student-t": StudentT(df=5.0),
    "banana": Banana(s=1.0, b=0.5),
    "funnel": Funnel(s=0.75),
}
REWARDS: dict[str, Reward] = {
    "linear-1d": Linear(vector([0.75])),
    "linear-2d": Linear(vector([0.75, -0.5])),
    "quadratic-1d": Quadratic(vector([1.0]), matrix([[1.0]])),
    "quadratic-2d": Quadratic(vector([1.0, 0.5]), matrix([[1.0, 0.25], [0.25, 0.5]])),
    "bounded-1d": Bounded(vector([1.0])),
    "bounded-2d": Bounded(vector([0.75, -0.5])),
    "ripple": Ripple(frequency=3.0),
}


def target(density: str, reward: str, lam: float) -> Target:
    """The target of two registered names."""
    return Target(DENSITIES[density], REWARDS[reward], lam)


# The triples on which particles, Fokker-Planck and policy optimisation must agree.
SETTINGS: dict[str, Setting] = {
    "gaussian-linear": Setting(target("gaussian-1d", "linear-1d", 1.0), ((-7.0, 9.5),), 0.1),
    "gaussian-ripple": Setting(target("gaussian-1d", "ripple", 1.5), ((-6.5, 7.5),), 0.02),
    "mixture-quadratic": Setting(target("mixture-1d", "quadratic-1d", 0.5), ((-5.5, 5.5),), 0.05),
    "well-linear": Setting(target("double-well", "linear-1d", 0.5), ((-3.2, 3.2),), 0.02),
    "student-bounded": Setting(
        target("student-t", "bounded-1d", 1.0), ((-60.0, 60.0),), 0.1, cells=3000
    ),
    "gaussian2d-quadratic": Setting(
        target("gaussian-2d", "quadratic-2d", 0.7), ((-7.0, 8.0), (-6.5, 6.0)), 0.1, cells=110
    ),
    "mixture2d-bounded": Setting(
        target("mixture-2d", "bounded-2d", 1.5), ((-5.5, 6.5), (-6.0, 5.5)), 0.05, cells=110
    ),
    "banana-ripple": Setting(
        target("banana", "ripple", 1.0), ((-5.5, 5.5), (-6.0, 14.0)), 0.02, cells=120
    ),
}

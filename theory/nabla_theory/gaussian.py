"""Closed forms for Gaussians: Ornstein-Uhlenbeck, Euler-Maruyama, KL, Wasserstein, free energy.

With ρ* = N(μ, K⁻¹), Langevin dynamics is dX = -K(X - μ) dt + √2 dW. K is symmetric positive.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

Array = NDArray[np.floating]


def ou_mean(mu: Array, K: Array, start: Array, t: float) -> Array:
    """E[X_t] = μ + e^{-Kt}(E[X_0] - μ); [d]."""
    return mu + linalg.expm(-K * t) @ (start - mu)


def ou_covariance(K: Array, start: Array, t: float) -> Array:
    """Cov[X_t] = K⁻¹ + e^{-Kt}(Cov[X_0] - K⁻¹)e^{-Kt}; [d, d]."""
    decay = linalg.expm(-K * t)
    stationary = np.linalg.inv(K)
    return stationary + decay @ (start - stationary) @ decay


def euler_mean(mu: Array, K: Array, start: Array, h: float, steps: int) -> Array:
    """E[X_n] = μ + (I - hK)^n (E[X_0] - μ) of Euler-Maruyama with step h; [d]."""
    contraction = np.linalg.matrix_power(np.eye(len(K)) - h * K, steps)
    return mu + contraction @ (start - mu)


def euler_covariance(K: Array, start: Array, h: float, steps: int) -> Array:
    """Cov[X_n] = C_h + (I - hK)^n (Cov[X_0] - C_h)(I - hK)^n; [d, d]."""
    contraction = np.linalg.matrix_power(np.eye(len(K)) - h * K, steps)
    stationary = euler_stationary_covariance(K, h)
    return stationary + contraction @ (start - stationary) @ contraction


def euler_stationary_covariance(K: Array, h: float) -> Array:
    """C_h = (K(I - hK/2))⁻¹: what Euler-Maruyama converges to, for h < 2 / λ_max(K); [d, d]."""
    if h * np.linalg.eigvalsh(K).max() >= 2:
        raise ValueError(f"Euler-Maruyama diverges at h={h}: h must be below 2 / λ_max(K).")
    return np.linalg.inv(K @ (np.eye(len(K)) - h * K / 2))


def kl(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> float:
    """KL(N_p ‖ N_q) = ½[tr(Q⁻¹P) - d + (m_q - m_p)ᵀQ⁻¹(m_q - m_p) + log det Q - log det P]."""
    inverse = np.linalg.inv(cov_q)
    offset = mean_q - mean_p
    logdets = np.linalg.slogdet(cov_q)[1] - np.linalg.slogdet(cov_p)[1]
    trace = np.trace(inverse @ cov_p) - len(mean_p)
    return float(0.5 * (trace + offset @ inverse @ offset + logdets))


def wasserstein2(mean_p: Array, cov_p: Array, mean_q: Array, cov_q: Array) -> float:
    """W₂ of two Gaussians: W₂² = |m_p - m_q|² + tr(P + Q - 2 (Q^½ P Q^½)^½)."""
    root = linalg.sqrtm(cov_q)
    cross = np.real(linalg.sqrtm(root @ cov_p @ root))
    square = np.sum((mean_p - mean_q) ** 2) + np.trace(cov_p + cov_q - 2 * cross)
    return float(np.sqrt(max(square, 0.0)))

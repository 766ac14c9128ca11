"""Theorem 4.1's particles: Ornstein-Uhlenbeck moments, bias in h, MALA, contraction."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import linalg

from nabla_theory import free_energy, gaussian, langevin, noise, targets, transition
from nabla_theory.checks import (
    FAILURE_PROBABILITY,
    Check,
    Context,
    at_least,
    at_most,
    close,
    fitted_slope,
    within_error,
    z_limit,
)
from nabla_theory.densities import Gaussian, matrix, vector
from nabla_theory.gaussian import Array
from nabla_theory.rewards import Linear

PARTICLES = 20_000


def ou_setting() -> tuple[targets.Target, Array, Array, Gaussian]:
    """A plane Gaussian with a quadratic reward: the target, μ and K of ρ*, and the start law."""
    target = targets.SETTINGS["gaussian2d-quadratic"].target
    solution = targets.closed_form(target)
    assert solution is not None and isinstance(solution[1], Gaussian)
    start = Gaussian(vector([-2.0, 3.0]), matrix([[0.5, -0.1], [-0.1, 0.25]]))
    return target, solution[1].mean.numpy(), solution[1].precision.numpy(), start


def gaussian_z_scores(
    x: torch.Tensor, mean: Array, cov: Array, slack: tuple[Array, Array] | None = None
) -> list[float]:
    """Deviations of a Gaussian sample's mean and covariance in standard errors, less a slack.

    Var(mean_i) = C_ii / N and Var(Ĉ_ij) = (C_ii C_jj + C_ij²) / N (known mean).
    """
    sample = x.cpu().numpy()
    n, d = sample.shape
    mean_slack, cov_slack = slack if slack is not None else (np.zeros(d), np.zeros((d, d)))
    found = (sample - mean).T @ (sample - mean) / n
    if slack is not None:  # the sample's own mean may differ from `mean` by the slack
        found = np.cov(sample.T, bias=True) * n / (n - 1)
    errors = np.sqrt((np.outer(np.diag(cov), np.diag(cov)) + cov**2) / n)
    off_mean = np.maximum(np.abs(sample.mean(0) - mean) - mean_slack, 0) / np.sqrt(np.diag(cov) / n)
    off_cov = np.maximum(np.abs(found - cov) - cov_slack, 0) / errors
    return [*off_mean.tolist(), *off_cov[np.triu_indices(d)].tolist()]


def ou_moments(context: Context) -> list[Check]:
    """Particles against the Ornstein-Uhlenbeck process at 20 times."""
    target, mu, K, start = ou_setting()
    h, steps = 1 / 128, [24 * k for k in range(1, 21)]
    x0 = start.sample(context.seed, "ou/start", PARTICLES)
    run = langevin.simulate(
        target, x0, h, steps, seed=context.seed, stream="ou", device=context.device
    )
    m0, c0 = start.mean.numpy(), start.cov.numpy()
    bound = euler_bias_bounds(mu, K, m0, c0, h)
    slack = np.full(2, bound[0]), np.full((2, 2), bound[1])
    against_euler, against_ou, bias = [], [], []
    for n in steps:
        em = gaussian.euler_mean(mu, K, m0, h, n), gaussian.euler_covariance(K, c0, h, n)
        ou = gaussian.ou_mean(mu, K, m0, n * h), gaussian.ou_covariance(K, c0, n * h)
        bias.append([float(np.linalg.norm(e - o, 2)) for e, o in zip(em, ou, strict=True)])
        against_euler += gaussian_z_scores(run.positions[n], *em)
        against_ou += gaussian_z_scores(run.positions[n], *ou, slack=slack)
    return [
        within_error(
            "ou_moments/euler",
            "mean and covariance of ULA at 20 times are the closed form of Euler-Maruyama",
            against_euler,
        ),
        within_error(
            "ou_moments/continuous",
            "... and those of the Ornstein-Uhlenbeck process, up to a bound on Euler's bias",
            against_ou,
            "; the bounds of the next two rows subtracted",
        ),
        at_most(
            "ou_moments/mean_bias",
            "Euler's bias of the mean is O(h): |E_h - E| ≤ ½ h λ_max e^{hλ_max - 1} |m₀ - μ|",
            bound[0],
            max(mean for mean, _ in bias),
            "n(e^{-hk} - 1 + hk) e^{-hk(n-1)} ≤ ½ h k² t e^{-k(t-h)}, and t e^{-kt} ≤ 1/(ek)",
        ),
        at_most(
            "ou_moments/covariance_bias",
            "... and of the covariance: ≤ h/(2 - hλ_max) + h λ_max e^{hλ_max - 1} |C₀ - K⁻¹|",
            bound[1],
            max(cov for _, cov in bias),
            "the stationary bias, and twice the bound on |e^{-Kt} - (I - hK)^n|",
        ),
    ]


def euler_bias_bounds(mu: Array, K: Array, m0: Array, c0: Array, h: float) -> tuple[float, float]:
    """Bounds on |E_h - E| and |C_h - C| at every time (spectral norms), from h, K and the start."""
    top = float(np.linalg.eigvalsh(K).max())
    decay = 0.5 * h * top * math.exp(h * top - 1)
    start = float(np.linalg.norm(c0 - np.linalg.inv(K), 2))
    return decay * float(np.linalg.norm(m0 - mu)), h / (2 - h * top) + 2 * decay * start


def euler_stationary(context: Context) -> list[Check]:
    """Euler-Maruyama's stationary covariance is (K(I - hK/2))⁻¹."""
    target, mu, K, _ = ou_setting()
    h = 0.3
    expected = gaussian.euler_stationary_covariance(K, h)
    step = np.eye(2) - h * K
    lyapunov = linalg.solve_discrete_lyapunov(step, 2 * h * np.eye(2))
    start = Gaussian(vector(mu.tolist()), matrix(expected.tolist()))
    x0 = start.sample(context.seed, "euler/start", 4 * PARTICLES)
    run = langevin.simulate(target, x0, h, [30], seed=context.seed, stream="euler")
    forgotten = np.abs(np.linalg.eigvalsh(step)).max() ** 60
    scores = gaussian_z_scores(run.last, mu, expected)
    gap = np.abs(expected - np.linalg.inv(K)).max() / (expected.max() * math.sqrt(2 / len(x0)))
    return [
        close(
            "euler_stationary/lyapunov",
            "(K(I - hK/2))⁻¹ solves C = (I - hK) C (I - hK) + 2hI",
            0.0,
            float(np.abs(lyapunov - expected).max()),
            1e-12,
            "rounding in a 2×2 linear system",
        ),
        within_error(
            "euler_stationary/particles",
            f"ULA at h=0.3 has that covariance after 30 steps (start forgotten to {forgotten:.0e})",
            scores,
        ),
        at_least(
            "euler_stationary/power",
            "the test would see the difference from K⁻¹, in standard errors",
            2 * z_limit(len(scores)),
            float(gap),
            "twice the limit of the row above",
        ),
    ]


def coupled_bias(h: float, particles: int, seed: int) -> tuple[float, float]:
    """E[x²] of ULA minus that of the exact process for L = x²/2, and its standard error.

    Both share their noise, so nearly all of the sampling error cancels.
    """
    target = targets.Target(Gaussian(vector([0.0]), matrix([[1.0]])), Linear(vector([0.0])), 0.0)
    steps = math.ceil(6 / h)
    exact = ula = noise.normal(seed, f"bias/start/{h}", 0, (particles,))
    keep = math.exp(-h)
    spread = math.sqrt(1 - keep**2)
    for n in range(steps):
        xi = noise.normal(seed, f"bias/{h}", n, (particles,))
        exact = keep * exact + spread * xi
        ula = (
            langevin.euler_mean(ula, target.drift(ula[:, None])[:, 0], h)
            + langevin.noise_scale(h) * xi
        )
    difference = ula**2 - exact**2
    return difference.mean().item(), difference.std().item() / math.sqrt(particles)


def bias_order(context: Context) -> list[Check]:
    """Euler-Maruyama's stationary bias is of first order in h."""
    widths = [0.02, 0.04, 0.08, 0.16]
    found = [coupled_bias(h, PARTICLES, context.seed) for h in widths]
    exact = [gaussian.euler_stationary_covariance(np.eye(1), h)[0, 0] - 1 for h in widths]
    scores = [abs(b - e) / error for (b, error), e in zip(found, exact, strict=True)]
    setting = targets.SETTINGS["well-linear"]
    x = transition.nodes(-2.7, 2.7, 401)
    star = float(transition.target_mass(setting.target, x) @ x**2)
    small = [0.0025, 0.005, 0.01, 0.02]
    well = [
        abs(float(transition.stationary(transition.ula_matrix(setting.target, x, h)) @ x**2) - star)
        for h in small
    ]
    return [
        close(
            "bias_order/gaussian",
            "slope of log|E_h[x²] - E[x²]| against log h, Gaussian target (particles)",
            1.0,
            fitted_slope(widths, [abs(b) for b, _ in found]),
            0.1,
            "exact slope over these h is 1.05; coupled particles have 1 % error",
            FAILURE_PROBABILITY,
        ),
        within_error("bias_order/constant", "the bias itself is (h/2)/(1 - h/2) at each h", scores),
        close(
            "bias_order/double_well",
            "the slope for a tilted double well (exact transition matrix, no sampling)",
            1.0,
            fitted_slope(small, well),
            0.1,
            "the O(h²) term: a relative change of the bias by about h × curvature",
        ),
    ]


def mala_unbiased(context: Context) -> list[Check]:
    """MALA leaves ρ* invariant at any step size."""
    rows = []
    for name, box, h in (("gaussian-ripple", (-6.0, 7.0), 0.15), ("well-linear", (-2.7, 2.7), 0.1)):
        target = targets.SETTINGS[name].target
        x = transition.nodes(*box, 241)
        star = transition.target_mass(target, x)
        flow = star[:, None] * transition.mala_matrix(target, x, h)
        rows.append(
            close(
                f"mala_unbiased/balance[{name}]",
                "detailed balance ρ*(x)P(x,y) = ρ*(y)P(y,x) on a grid, relative to the flow",
                0.0,
                float(np.abs(flow - flow.T).max() / flow.max()),
                1e-12,
                "rounding of exp and of sums over 241 nodes",
            )
        )
    target = targets.target("mixture-1d", "quadratic-1d", 0.5)
    solution = targets.closed_form(target)
    assert solution is not None
    moments = _mixture_moments(solution[1])
    x0 = solution[1].sample(context.seed, "mala/start", PARTICLES)
    run = langevin.simulate(
        target, x0, 0.4, [39, 40], kernel="mala", seed=context.seed, device=context.device
    )
    before, x = (run.positions[n][:, 0].cpu().numpy() for n in (39, 40))
    scores = [
        abs((x**k).mean() - m) / ((x**k).std() / math.sqrt(len(x))) for k, m in moments.items()
    ]
    stride, expected = (x - before) ** 2, _mean_square_step(target, 0.4)
    scores.append(abs(stride.mean() - expected) / (stride.std() / math.sqrt(len(x))))
    rows.append(
        within_error(
            "mala_unbiased/particles",
            f"E[x], .., E[x⁴] of a mixture, 40 steps of h=0.4 ({run.acceptance:.2f} accepted), "
            f"right under any drift, and the last step's E[Δx²] = {stride.mean():.3f}, which tells "
            f"drifts apart: {expected:.3f} for -∇L",
            scores,
        )
    )
    return rows


def _mean_square_step(target: targets.Target, h: float) -> float:
    """E[(y - x)²] of one MALA step from ρ*, drift -∇L, on a grid of the line."""
    x = transition.nodes(-6.0, 6.0, 401)
    moves = transition.mala_matrix(target, x, h)
    squares = (x[:, None] - x[None, :]) ** 2
    return float(transition.target_mass(target, x) @ (moves * squares).sum(axis=1))


def _mixture_moments(mixture: targets.Mixture | Gaussian) -> dict[int, float]:
    """E[x^k], k = 1..4, of a Gaussian mixture on the line."""
    assert not isinstance(mixture, Gaussian)
    m = np.array([part.mean.item() for part in mixture.parts])
    v = np.array([part.cov.item() for part in mixture.parts])
    powers = {1: m, 2: m**2 + v, 3: m**3 + 3 * m * v, 4: m**4 + 6 * m**2 * v + 3 * v**2}
    return {k: float(mixture.weights.numpy() @ value) for k, value in powers.items()}


def wasserstein_contraction(context: Context) -> list[Check]:
    """Two laws under one dynamics approach each other in W₂ at the rate λ_min."""
    _, mu, K, start = ou_setting()
    rates, modes = np.linalg.eigh(K)
    rate, slow = float(rates[0]), modes[:, 0]
    stationary = np.linalg.inv(K)
    worst = -math.inf
    first = gaussian.wasserstein2(start.mean.numpy(), start.cov.numpy(), mu, stationary)
    for t in np.linspace(0.1, 4, 20):
        mean = gaussian.ou_mean(mu, K, start.mean.numpy(), t)
        cov = gaussian.ou_covariance(K, start.cov.numpy(), t)
        now = gaussian.wasserstein2(mean, cov, mu, stationary)
        worst = max(worst, now / (math.exp(-rate * t) * first))
    line = targets.SETTINGS["gaussian-linear"].target
    a = line.density.sample(context.seed, "w2/a", 4000)
    runs = [
        langevin.simulate(line, x, 0.05, [40], seed=context.seed, stream="w2")
        for x in (a, 2 * a - 3)
    ]
    shrunk = free_energy.wasserstein2_line(runs[0].last, runs[1].last)
    began = free_energy.wasserstein2_line(a, 2 * a - 3)
    return [
        at_most(
            "wasserstein_contraction/gaussian",
            "W₂(ρ_t, ρ*) ≤ e^{-λ_min t} W₂(ρ_0, ρ*) at 20 times, as a ratio (closed forms)",
            1.0,
            worst,
            "rounding of matrix square roots",
            tolerance=1e-9,
        ),
        close(
            "wasserstein_contraction/shift",
            "for a start shifted by δ along the slowest mode it is an equality: W₂ at t = 1",
            2 * math.exp(-rate),
            gaussian.wasserstein2(
                gaussian.ou_mean(mu, K, mu + 2 * slow, 1.0), stationary, mu, stationary
            ),
            1e-7,
            "√rounding: the covariances cancel under the root",
        ),
        at_most(
            "wasserstein_contraction/particles",
            "two clouds under common noise: W₂ after 40 ULA steps ≤ (1 - h/σ²)^40 W₂ before",
            (1 - 0.05 / 1.25) ** 40 * began,
            shrunk,
            "a theorem for the samples themselves: the common noise is a coupling",
            tolerance=1e-12,
        ),
    ]

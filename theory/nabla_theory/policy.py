"""The other side of the duality: minimise L_PPO over the parameters of a policy.

Four ways to the same ρ*: a softmax policy on cells by its exact gradient, plain and natural; a
Gaussian-mixture policy by its exact gradient; and the same policy by PPO's clipped surrogate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import optimize, special
from torch import Tensor

from nabla_theory import noise
from nabla_theory.densities import LOG_2PI
from nabla_theory.fokker_planck import Grid
from nabla_theory.targets import Target

Array = NDArray[np.floating]


def advantage(reward: Array, log_pi: Array, log_rho: Array, lam: float) -> Array:
    """λr - (log ρ - log π): the reward of KL-regularised RL, constant (= log Z) at ρ*; [M]."""
    return lam * reward - (log_rho - log_pi)


def softmax_gradient(p: Array, gain: Array) -> Array:
    """∂L_PPO/∂θ = -p(A - Σ p A) of p = softmax(θ), with the advantage A as `gain`; [M]."""
    return np.asarray(-p * (gain - p @ gain))


def _on_cells(target: Target, grid: Grid) -> tuple[Array, Array]:
    """r and the log-probabilities of π on the cells (not densities); [M] each."""
    logs = target.density.log_prob(grid.points).numpy()
    return target.reward.value(grid.points).numpy(), logs - special.logsumexp(logs)


def natural_gradient(target: Target, grid: Grid, rate: float) -> Iterator[Array]:
    """Softmax policy from θ = log π by natural gradient θ += rate·A; yields densities [M] for ever.

    The Fisher matrix diag(p) - ppᵀ turns the gradient into -A up to a constant. In the limit of
    small rates log ρ_t = e^{-t} log ρ_0 + (1 - e^{-t}) log ρ* + const: no barrier slows it down.
    """
    reward, log_pi = _on_cells(target, grid)
    theta = log_pi.copy()
    while True:
        theta = theta + rate * advantage(reward, log_pi, theta, target.lam)
        theta -= special.logsumexp(theta)
        yield np.exp(theta) / grid.volume


def plain_gradient(target: Target, grid: Grid, iterations: int = 400) -> tuple[Array, int]:
    """Softmax policy from θ = log π by L-BFGS on its exact gradient; density [M], iterations."""
    reward, log_pi = _on_cells(target, grid)

    def objective(theta: Array) -> tuple[float, Array]:
        log_p = theta - special.logsumexp(theta)
        gain = advantage(reward, log_pi, log_p, target.lam)
        p = np.exp(log_p)
        return -float(p @ gain), softmax_gradient(p, gain)

    options = {
        "maxiter": iterations,
        "maxfun": 2 * iterations,
        "ftol": 1e-15,
        "gtol": 1e-10,
        "maxcor": 30,
    }
    found = optimize.minimize(objective, log_pi, jac=True, method="L-BFGS-B", options=options)
    return np.exp(found.x - special.logsumexp(found.x)) / grid.volume, int(found.nit)


@dataclass(frozen=True)
class MixturePolicy:
    """ρ_θ = Σ_k softmax(logits)_k N(means_k, C_k C_kᵀ); a Gaussian policy when K = 1.

    C_k is lower triangular with the exponential of `scales`' diagonal on its own.
    """

    logits: Tensor  # [K]
    means: Tensor  # [K, d]
    scales: Tensor  # [K, d, d]

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors that are optimised."""
        return [self.logits, self.means, self.scales]

    @property
    def factors(self) -> Tensor:
        """The Cholesky factors C_k; [K, d, d]."""
        diagonal = torch.diagonal(self.scales, dim1=-2, dim2=-1).exp()
        return torch.tril(self.scales, -1) + torch.diag_embed(diagonal)

    def log_prob(self, x: Tensor) -> Tensor:
        """log ρ_θ(x) of x [N, d]; [N]."""
        offsets = (x.unsqueeze(0) - self.means.unsqueeze(1)).transpose(-2, -1)  # [K, d, N]
        standard = torch.linalg.solve_triangular(self.factors, offsets, upper=False)
        size = torch.diagonal(self.scales, dim1=-2, dim2=-1).sum(-1)  # log det C_k
        logs = -0.5 * standard.square().sum(-2) - size[:, None] - x.shape[-1] / 2 * LOG_2PI
        return torch.logsumexp(logs + torch.log_softmax(self.logits, 0)[:, None], dim=0)

    @torch.no_grad()
    def sample(self, seed: int, stream: str, step: int, n: int) -> Tensor:
        """`n` keyed draws; [n, d]."""
        u = noise.uniform(seed, f"{stream}/component", step, (n,))
        which = torch.searchsorted(torch.softmax(self.logits, 0).cumsum(0)[:-1].contiguous(), u)
        standard = noise.normal(seed, f"{stream}/normal", step, (n, self.means.shape[1], 1))
        return self.means[which] + (self.factors[which] @ standard).squeeze(-1)

    def detached(self) -> MixturePolicy:
        """The same policy with parameters that can be optimised on their own."""
        return MixturePolicy(*(p.detach().clone().requires_grad_() for p in self.parameters))


def start_policy(target: Target, components: int, spread: float) -> MixturePolicy:
    """Components at evenly spread places around the mean of π, all of one size."""
    draws = target.density.sample(0, "policy-start", 4096)
    centre, size = draws.mean(0), draws.std(0)
    if components == 1:
        places = torch.zeros(1, target.dim, dtype=noise.DTYPE)
    elif target.dim == 1:
        places = torch.linspace(-spread, spread, components, dtype=noise.DTYPE)[:, None]
    else:
        angles = torch.arange(components, dtype=noise.DTYPE) * (2 * math.pi / components)
        places = spread * torch.stack([angles.cos(), angles.sin()], dim=-1)
    width = 1.0 if components == 1 else 0.5
    scales = torch.diag_embed((width * size).log().expand(components, -1))
    logits = torch.zeros(components, dtype=noise.DTYPE)
    return MixturePolicy(logits, centre + places * size, scales.clone()).detached()


def mixture_gradient(
    target: Target, grid: Grid, components: int, spread: float = 1.0, iterations: int = 300
) -> MixturePolicy:
    """A mixture policy by L-BFGS on the exact gradient of L_PPO, computed on cells.

    The family need not hold ρ*: what is left is KL(ρ_θ‖ρ*) = L_PPO + log Z > 0.
    """
    policy = start_policy(target, components, spread)
    energy = target.potential(grid.points)
    solver = torch.optim.LBFGS(
        policy.parameters,
        max_iter=iterations,
        history_size=30,
        tolerance_grad=1e-10,
        tolerance_change=1e-15,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        solver.zero_grad()
        log_rho = policy.log_prob(grid.points)
        loss = (log_rho.exp() * (energy + log_rho)).sum() * grid.volume
        loss.backward()
        return loss.item()

    solver.step(closure)
    return policy.detached()


def fisher(policy: MixturePolicy, grid: Grid) -> Tensor:
    """F = E_ρθ[∇_θ log ρ_θ ∇_θ log ρ_θᵀ] on cells, all parameters in one row; [p, p].

    KL(ρ_θ‖ρ_θ+δ) = ½ δᵀFδ to second order.
    """
    policy = policy.detached()
    shapes = [p.shape for p in policy.parameters]
    flat = torch.cat([p.detach().flatten() for p in policy.parameters])

    def log_prob(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes])
        parts = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return MixturePolicy(*parts).log_prob(grid.points)

    width = 1e-5  # central differences: an error of about 1e-10
    bumps = width * torch.eye(len(flat), dtype=flat.dtype)
    pairs = [log_prob(flat + bump) - log_prob(flat - bump) for bump in bumps]
    slopes = torch.stack(pairs, dim=-1) / (2 * width)  # [M, p]
    mass = log_prob(flat).exp() * grid.volume
    return slopes.T @ (mass[:, None] * slopes)


def clipped_surrogate(ratio: Tensor, gain: Tensor, clip: float) -> Tensor:
    """PPO's -E[min(ratio·A, clip(ratio, 1 ± clip)·A)] (Schulman et al. 2017, Eq. 7)."""
    return -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain).mean()


@dataclass(frozen=True)
class PPO:
    """Options of the sampled version; the learning rate falls geometrically to `min_lr`."""

    iterations: int = 120
    batch: int = 512
    epochs: int = 4
    clip: float = 0.2
    lr: float = 0.05
    min_lr: float = 5e-4


def ppo(
    target: Target,
    policy: MixturePolicy,
    options: PPO,
    seed: int,
    watch: Callable[[int, MixturePolicy], None] | None = None,
) -> MixturePolicy:
    """PPO with the KL penalty inside the reward; `watch` sees the policy after each iteration.

    The advantage is centred, not divided by its spread: at ρ* it is the constant log Z, so the
    gradient's noise vanishes there and the iteration can settle on ρ* itself.
    """
    policy = policy.detached()
    solver = torch.optim.Adam(policy.parameters, lr=options.lr)
    decay = (options.min_lr / options.lr) ** (1 / max(1, options.iterations - 1))
    for iteration in range(options.iterations):
        x = policy.sample(seed, "ppo", iteration, options.batch)
        with torch.no_grad():
            before = policy.log_prob(x)
            gain = torch.from_numpy(
                advantage(
                    target.reward.value(x).numpy(),
                    target.density.log_prob(x).numpy(),
                    before.numpy(),
                    target.lam,
                )
            )
        for group in solver.param_groups:
            group["lr"] = options.lr * decay**iteration
        for _ in range(options.epochs):
            solver.zero_grad()
            ratio = torch.exp(policy.log_prob(x) - before)
            clipped_surrogate(ratio, gain - gain.mean(), options.clip).backward()
            solver.step()
        if watch is not None:
            watch(iteration + 1, policy)
    return policy.detached()

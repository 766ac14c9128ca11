"""What is proved: stationarity of ρ*, the free-energy identity, and the closed forms in use."""

from __future__ import annotations

import sympy
import torch

from theory import free_energy, noise, proofs, targets
from theory.checks import Check, Context, close
from theory.fokker_planck import Grid

EXACT = "exact arithmetic: the simplified expression is the integer 0"


def stationarity(context: Context) -> list[Check]:
    """∇·(ρ*∇L) + Δρ* = 0, for every density of the registry and in general."""
    rows = [
        close(
            f"stationarity/general[d={dim}]",
            "∇·(ρ*∇L) + Δρ* = 0 (Theorem 4.1) for all smooth log π and r, any λ",
            1.0,
            float(proofs.is_zero(proofs.general_residual(dim))),
            0.0,
            EXACT,
        )
        for dim in (1, 2)
    ]
    wrong = proofs.general_residual(1, sign=-1)
    rows.append(
        close(
            "stationarity/printed",
            "with the signs printed in Eq. 16 and 20-23 there remains 2Δρ*, not 0",
            1.0,
            float(_is_twice_the_laplacian(wrong) and not proofs.is_zero(wrong)),
            0.0,
            EXACT,
        )
    )
    for name, density in targets.DENSITIES.items():
        fluxes = [proofs.is_zero(flux) for flux in proofs.flux_at_optimum(density)]
        printed = [proofs.is_zero(flux) for flux in proofs.flux_at_optimum(density, sign=-1)]
        rows.append(
            close(
                f"stationarity/{name}",
                "the flux ρ*∇L + ∇ρ* vanishes for this π with any smooth r (not as printed)",
                float(density.dim),
                float(sum(fluxes) - sum(printed)),
                0.0,
                EXACT,
            )
        )
    return rows


def _is_twice_the_laplacian(residual: sympy.Expr) -> bool:
    (x,) = proofs.coordinates(1)
    rho = sympy.exp(sympy.Function("f", real=True)(x) + proofs.LAM * proofs.reward_symbol((x,)))
    return proofs.is_zero(residual - 2 * sympy.diff(rho, x, 2) / rho)


def free_energy_identity(context: Context) -> list[Check]:
    """L_PPO(ρ) - L_PPO(ρ*) = KL(ρ‖ρ*)."""
    proved = {
        "pointwise": (
            proofs.pointwise_identity(),
            "the integrands agree for all ρ, π, r, λ; with ∫ρ = 1: L_PPO = KL(ρ‖ρ*) - log Z",
        ),
        "gaussian": (
            proofs.gaussian_identity(),
            "both sides integrated for Gaussians with symbols for all parameters",
        ),
        "discrete": (proofs.discrete_identity(), "on three states, p anywhere on the simplex"),
    }
    rows = [
        close(
            f"free_energy_identity/{name}",
            f"L_PPO(ρ) - L_PPO(ρ*) = KL(ρ‖ρ*): {statement}",
            1.0,
            float(residual == 0),
            0.0,
            EXACT,
        )
        for name, (residual, statement) in proved.items()
    ]
    return [*rows, _identity_on_grid(context)]


def _identity_on_grid(context: Context) -> Check:
    """The identity as the solvers use it, for a random density on cells."""
    setting = targets.SETTINGS["well-linear"]
    grid = Grid(setting.box, (200,))
    rho = grid.normalise(noise.normal(context.seed, "identity", 0, (200,)))
    star = grid.optimum(setting.target)
    best = free_energy.on_grid(star, setting.target, grid)
    excess = free_energy.on_grid(rho, setting.target, grid) - best
    return close(
        "free_energy_identity/cells",
        "the same for a random density on 200 cells, as the solvers compute it",
        free_energy.kl(rho, star, grid.volume),
        excess,
        1e-10,
        "rounding of sums whose terms reach L ≈ 70 nats",
    )


def gaussian_closed_forms(context: Context) -> list[Check]:
    """Ornstein-Uhlenbeck, Euler-Maruyama, the KL rate; log Z against quadrature."""
    mean, variance, euler = proofs.ornstein_uhlenbeck_residuals()
    proved = {
        "mean": (mean, "m(t) = μ + e^{-kt}(m₀ - μ) solves m' = -k(m - μ)"),
        "variance": (variance, "C(t) = 1/k + e^{-2kt}(C₀ - 1/k) solves C' = -2kC + 2"),
        "euler": (euler, "1/(k(1 - hk/2)) is the fixed point of C → (1 - hk)²C + 2h"),
        "kl_rate": (proofs.kl_decay_rate(), "-d/dt log KL(ρ_t‖ρ*) → 2k"),
    }
    rows = [
        close(f"gaussian_closed_forms/{name}", statement, 1.0, float(residual == 0), 0.0, EXACT)
        for name, (residual, statement) in proved.items()
    ]
    for name in ("gaussian-linear", "mixture-quadratic", "gaussian2d-quadratic"):
        setting = targets.SETTINGS[name]
        solution = targets.closed_form(setting.target)
        assert solution is not None
        by_quadrature = free_energy.optimum(setting.target, setting.box)
        rows.append(
            close(
                f"gaussian_closed_forms/log_z[{name}]",
                "log Z in closed form against quadrature",
                solution[0],
                by_quadrature.log_z,
                1e-8 + by_quadrature.error,
                "mass outside the box (under e^-18) and the quadrature's own estimate",
            )
        )
    return rows


BOXES = {  # hold all but about 1e-8 of the density; None where a tail needs more
    "gaussian-1d": ((-7.0, 8.0),),
    "gaussian-2d": ((-7.0, 8.0), (-6.5, 6.0)),
    "mixture-1d": ((-6.0, 6.0),),
    "mixture-2d": ((-6.0, 7.0), (-6.5, 6.5)),
    "double-well": ((-3.2, 3.2),),
    "deep-well": ((-3.2, 3.2),),
    "student-t": ((-300.0, 300.0),),
    "banana": ((-6.0, 6.0), (-7.0, 24.0)),
    "funnel": ((-4.5, 4.5), (-40.0, 40.0)),
}


def log_normalisers(context: Context) -> list[Check]:
    """Every log-density is normalised and every gradient is its derivative."""
    gaps, slopes = {}, []
    for name, density in targets.DENSITIES.items():
        flat = targets.Target(density, targets.REWARDS["ripple"], 0.0)
        gaps[name] = abs(free_energy.optimum(flat, BOXES[name]).log_z)
        x = density.sample(context.seed, f"slope/{name}", 50).requires_grad_()
        (slope,) = torch.autograd.grad(density.log_prob(x).sum(), x)
        slopes.append(float((slope - density.score(x)).detach().abs().max() / slope.abs().max()))
    for name, reward in targets.REWARDS.items():
        dim = 2 if "2d" in name else 1
        x = 2 * noise.normal(context.seed, f"slope/{name}", 0, (50, dim))
        x.requires_grad_()
        (slope,) = torch.autograd.grad(reward.value(x).sum(), x)
        slopes.append(float((slope - reward.gradient(x)).detach().abs().max()))
    worst = max(gaps, key=lambda name: gaps[name])
    return [
        close(
            "log_normalisers/densities",
            f"∫π = 1 for all {len(gaps)} densities: largest |log ∫π| (at {worst})",
            0.0,
            gaps[worst],
            1e-7,
            "mass outside the boxes, below 5e-8 each",
        ),
        close(
            "log_normalisers/gradients",
            "∇log π and ∇r against automatic differentiation: largest difference",
            0.0,
            max(slopes),
            1e-12,
            "rounding, relative to the largest gradient",
        ),
    ]

"""What is proved: stationarity of ρ*, the free-energy identity, and the closed forms in use."""

from __future__ import annotations

import sympy

from nabla_theory import free_energy, noise, proofs, targets
from nabla_theory.checks import Check, Context, close
from nabla_theory.fokker_planck import Grid

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
    for name, density in targets.DENSITIES.items():
        fluxes = [proofs.is_zero(flux) for flux in proofs.flux_at_optimum(density)]
        middle = [proofs.is_zero(flux) for flux in proofs.flux_at_optimum(density, sign=-1)]
        rows.append(
            close(
                f"stationarity/{name}",
                "the flux ρ*∇L + ∇ρ* vanishes for this π with any smooth r (not with the drift of "
                "Eq. 23's middle member)",
                float(density.dim),
                float(sum(fluxes) - sum(middle)),
                0.0,
                EXACT,
            )
        )
    return rows


def printed_flow(context: Context) -> list[Check]:
    """Eq. 16, 20 and 22 run time backwards, Eq. 21 loses ρ, Eq. 23 contradicts itself."""
    facts: dict[str, tuple[str, bool]] = {}
    for dim in (1, 2):
        rho, log_pi, r, x = proofs.any_density(dim)
        potential = -proofs.LAM * r - log_pi
        forward = proofs.stationarity_residual(rho, potential, x)
        printed = proofs.printed_flows(rho, log_pi, r, x)
        star = sympy.exp(log_pi + proofs.LAM * r)
        at_optimum = proofs.printed_flows(star, log_pi, r, x)
        facts[f"reversed[d={dim}]"] = (
            "the right-hand sides of Eq. 16, 20 and 22 are that of the gradient flow with the sign "
            "turned, for all ρ, π, r: time runs backwards",
            all(proofs.is_zero(printed[n] + forward) for n in ("16", "20", "22"))
            and not proofs.is_zero(printed["22"] - forward),
        )
        facts[f"stationary[d={dim}]"] = (
            "so ρ* is stationary there too",
            all(proofs.is_zero(at_optimum[n]) for n in ("16", "20", "22")),
        )
        facts[f"eq_21[d={dim}]"] = (
            "Eq. 21, between Eq. 20 and 22, equals neither: it lost the factor ρ and is "
            "-Δ(L + log ρ), which stationarity of ρ* does not show",
            not proofs.is_zero(printed["21"] - printed["20"])
            and not proofs.is_zero(printed["21"] + forward)
            and proofs.is_zero(at_optimum["21"]),
        )
    for name, flow, sign in (("falls", forward_1d(), -1), ("rises", -forward_1d(), 1)):
        rho, log_pi, r, x = proofs.any_density(1)
        rate = proofs.energy_rate(flow, rho, -proofs.LAM * r - log_pi, x[0], sign)
        facts[f"energy_{name}"] = (
            f"dL_PPO/dt = {'-' if sign < 0 else '+'}∫ρ|∇(L + log ρ)|²: along "
            f"{'the gradient flow' if sign < 0 else 'Eq. 16, 20 and 22'} it {name}",
            proofs.is_zero(rate),
        )
    residual, variance = proofs.collapsing_gaussian()
    facts["collapse"] = (
        "ill-posed: under Eq. 22 a Gaussian narrower than ρ* has variance 1/k + e^{2kt}(C₀ - 1/k), "
        "which is 0 at t* = -log(1 - kC₀)/2k",
        residual == 0 and variance == 0,
    )
    middle = proofs.general_residual(1, sign=-1)
    facts["eq_23"] = (
        "Eq. 23's middle member -λ∇r - ∇log π is +∇L, its right side -∇L: only the Fokker-Planck "
        "equation of the middle one leaves 2Δρ*, and the two agree nowhere but where ∇L = 0",
        _is_twice_the_laplacian(middle) and not proofs.is_zero(middle),
    )
    return [
        close(f"printed_flow/{name}", statement, 1.0, float(holds), 0.0, EXACT)
        for name, (statement, holds) in facts.items()
    ]


def forward_1d() -> sympy.Expr:
    """∇·(ρ∇L) + Δρ on the line for arbitrary ρ, π and r."""
    rho, log_pi, r, x = proofs.any_density(1)
    return proofs.stationarity_residual(rho, -proofs.LAM * r - log_pi, x)


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

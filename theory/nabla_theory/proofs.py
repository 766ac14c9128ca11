"""Exact arithmetic: what sympy proves, with no number rounded."""

from __future__ import annotations

from collections.abc import Sequence

import sympy
from sympy import Expr, Symbol

from nabla_theory.densities import Density

LAM = sympy.Symbol("lambda", positive=True)
ZERO = sympy.Integer(0)


def coordinates(dim: int) -> tuple[Symbol, ...]:
    """Real symbols x_1 .. x_d."""
    return tuple(sympy.symbols(f"x1:{dim + 1}", real=True))


def stationarity_residual(rho: Expr, potential: Expr, x: Sequence[Symbol]) -> Expr:
    """∇·(ρ∇L) + Δρ, the right-hand side of Fokker-Planck (Theorem 4.1)."""
    flux = sum((sympy.diff(rho * sympy.diff(potential, xi), xi) for xi in x), sympy.Integer(0))
    return flux + sum((sympy.diff(rho, xi, 2) for xi in x), sympy.Integer(0))


def reward_symbol(x: Sequence[Symbol]) -> Expr:
    """An arbitrary smooth reward r(x_1, .., x_d): what is proved with it holds for every one."""
    return sympy.Function("r", real=True)(*x)


def is_zero(expression: Expr) -> bool:
    """Return whether an expression vanishes identically, over a common denominator."""
    expanded = sympy.expand(expression)
    return bool(expanded == 0 or sympy.expand(sympy.numer(sympy.together(expanded))) == 0)


def general_residual(dim: int, sign: int = 1) -> Expr:
    """(∇·(ρ*∇L) + Δρ*)/ρ* for arbitrary smooth log π and r, any λ, and the drift -sign·∇L.

    `sign=-1` is the drift of Eq. 23's middle member; it leaves 2Δρ*/ρ*. Z cancels.
    """
    x = coordinates(dim)
    log_pi, r = sympy.Function("f", real=True)(*x), reward_symbol(x)
    rho = sympy.exp(log_pi + LAM * r)
    return stationarity_residual(rho, sign * (-LAM * r - log_pi), x) / rho


def printed_flows(rho: Expr, log_pi: Expr, r: Expr, x: Sequence[Symbol]) -> dict[str, Expr]:
    """The right-hand sides of ∂ρ/∂t in Eq. 16, 20, 21 and 22, with the signs and factors printed.

    With u = L + log ρ + 1, the first variation of L_PPO: -∇·(ρ∇u) (16, and 20 with L_PPO's own
    u), the same with the factor ρ lost (21), and ∇·(ρ(λ∇r + ∇log π)) - Δρ (22).
    """
    variation = -LAM * r - log_pi + sympy.log(rho) + 1

    def divergence(factor: Expr) -> Expr:
        return sum((sympy.diff(factor * sympy.diff(variation, xi), xi) for xi in x), ZERO)

    tilt = LAM * r + log_pi
    transport = sum((sympy.diff(rho * sympy.diff(tilt, xi), xi) for xi in x), ZERO)
    return {
        "16": -divergence(rho),
        "20": -divergence(rho),
        "21": -divergence(sympy.Integer(1)),
        "22": transport - sum((sympy.diff(rho, xi, 2) for xi in x), ZERO),
    }


def any_density(dim: int) -> tuple[Expr, Expr, Expr, tuple[Symbol, ...]]:
    """ρ = e^g, log π and r as arbitrary smooth functions of x."""
    x = coordinates(dim)
    g, log_pi = (sympy.Function(name, real=True)(*x) for name in ("g", "f"))
    return sympy.exp(g), log_pi, reward_symbol(x), x


def energy_rate(flow: Expr, rho: Expr, potential: Expr, x: Symbol, sign: int) -> Expr:
    """u ∂ρ/∂t less its divergence part and less sign·ρ u'², u = L + log ρ + 1; 0.

    Integrated, it says dL_PPO/dt = sign ∫ρ|u'|²: falling for -1, rising for +1.
    """
    slope = sympy.diff(potential + sympy.log(rho), x)
    variation = potential + sympy.log(rho) + 1
    boundary = -sign * sympy.diff(variation * rho * slope, x)
    return sympy.expand(variation * flow - boundary - sign * rho * slope**2)


def collapsing_gaussian() -> tuple[Expr, Expr]:
    """Eq. 22's residual for N(μ + e^{kt}(m₀ - μ), 1/k + e^{2kt}(C₀ - 1/k)); C at t*; both 0.

    ρ* = N(μ, 1/k). For C₀ < 1/k the variance reaches 0 at t* = -log(1 - kC₀)/2k: no density solves
    the equation any longer.
    """
    (x,) = coordinates(1)
    t, mu, m0 = sympy.symbols("t mu m0", real=True)
    k, c0 = sympy.symbols("k C0", positive=True)
    mean, variance = mu + sympy.exp(k * t) * (m0 - mu), 1 / k + sympy.exp(2 * k * t) * (c0 - 1 / k)
    log_rho = -((x - mean) ** 2) / (2 * variance) - sympy.log(variance) / 2
    rho = sympy.exp(log_rho)
    flow = printed_flows(rho, -k * (x - mu) ** 2 / 2, ZERO, (x,))["22"]
    end = -sympy.log(1 - k * c0) / (2 * k)
    residual = sympy.simplify((flow - sympy.diff(rho, t)) / rho)
    return residual, sympy.simplify(variance.subs(t, end))


def flux_at_optimum(density: Density, sign: int = 1) -> tuple[Expr, ...]:
    """(ρ*∂_iL + ∂_iρ*)/ρ* for every i, for ρ* ∝ π e^{λr} with any smooth reward.

    Where all vanish no probability flows at all, so its divergence, the residual above, is 0; in
    the flow of Eq. 16, 20 and 22 as well, which only turns the flux round. `sign=-1` is the drift
    of Eq. 23's middle member.
    """
    x = coordinates(density.dim)
    log_pi, r = density.symbolic(x), reward_symbol(x)
    pi = sympy.exp(log_pi)
    potential = sign * (-LAM * r - log_pi)
    return tuple(
        sympy.diff(potential, xi) + LAM * sympy.diff(r, xi) + sympy.diff(pi, xi) / pi for xi in x
    )


def pointwise_identity() -> Expr:
    """ρ(-λr + log ρ - log π) - ρ(log ρ - log ρ*) + ρ log Z with log ρ* = log π + λr - log Z.

    It vanishes for every value of the symbols; integrated, with ∫ρ = 1, it says
    L_PPO(ρ) = KL(ρ‖ρ*) - log Z for every density ρ.
    """
    rho, log_rho, log_pi, r, log_z = sympy.symbols("rho log_rho log_pi r log_Z", real=True)
    log_star = log_pi + LAM * r - log_z
    free_energy = rho * (-LAM * r + log_rho - log_pi)
    return sympy.expand(free_energy - rho * (log_rho - log_star) + rho * log_z)


def gaussian_identity() -> Expr:
    """L_PPO(ρ) - L_PPO(ρ*) - KL(ρ‖ρ*) for Gaussians and r = ax, by integration; 0."""
    x, mu, m, a = sympy.symbols("x mu m a", real=True)
    s, v = sympy.symbols("s v", positive=True)
    log_pi = _log_normal(x, m, v)
    log_star = _log_normal(x, m + LAM * v**2 * a, v)

    def free_energy(mean: Expr, sd: Expr) -> Expr:
        value = -LAM * a * x + _log_normal(x, mean, sd) - log_pi
        return _expectation(value, x, mean, sd)

    divergence = _expectation(_log_normal(x, mu, s) - log_star, x, mu, s)
    best = free_energy(m + LAM * v**2 * a, v)
    return sympy.simplify(free_energy(mu, s) - best - divergence)


def discrete_identity(states: int = 3) -> Expr:
    """The same on a finite set, L_PPO(p) - KL(p‖p*) + log Z with p free on the simplex; 0."""
    q = sympy.symbols(f"q1:{states + 1}", positive=True)
    r = sympy.symbols(f"r1:{states + 1}", real=True)
    free = sympy.symbols(f"p1:{states}", positive=True)
    p = (*free, 1 - sum(free))
    z = sum(qi * sympy.exp(LAM * ri) for qi, ri in zip(q, r, strict=True))
    total = sympy.log(z)
    for pi, qi, ri in zip(p, q, r, strict=True):
        log_star = sympy.log(qi) + LAM * ri - sympy.log(z)
        total += pi * (-LAM * ri + sympy.log(pi) - sympy.log(qi))
        total -= pi * (sympy.log(pi) - log_star)
    return sympy.simplify(sympy.expand(total))


def ornstein_uhlenbeck_residuals() -> tuple[Expr, Expr, Expr]:
    """m' + k(m - μ), C' + 2kC - 2, and Euler's variance less its successor: all 0."""
    k, h = sympy.symbols("k h", positive=True)
    t, mu, m0, c0 = sympy.symbols("t mu m0 c0", real=True)
    mean = mu + sympy.exp(-k * t) * (m0 - mu)
    variance = 1 / k + sympy.exp(-2 * k * t) * (c0 - 1 / k)
    euler = 1 / (k * (1 - h * k / 2))
    return (
        sympy.simplify(sympy.diff(mean, t) + k * (mean - mu)),
        sympy.simplify(sympy.diff(variance, t) + 2 * k * variance - 2),
        sympy.simplify((1 - h * k) ** 2 * euler + 2 * h - euler),
    )


def kl_decay_rate() -> Expr:
    """lim -d/dt log KL(ρ_t‖ρ*) - 2k for a displaced Ornstein-Uhlenbeck process; 0.

    With e = e^{-2kt}: KL = ½[δ²k e + (v - 1 - log v)], v = 1 + (c₀k - 1)e; the limit is e → 0.
    """
    k, delta, e = sympy.symbols("k delta e", positive=True)
    c0 = sympy.Symbol("c0", positive=True)
    v = 1 + (c0 * k - 1) * e
    kl = (delta**2 * k * e + v - 1 - sympy.log(v)) / 2
    rate = 2 * k * e * sympy.diff(kl, e) / kl  # -d/dt = 2k e d/de
    return sympy.simplify(sympy.limit(rate, e, 0, "+") - 2 * k)


def _log_normal(x: Expr, mean: Expr, sd: Expr) -> Expr:
    return -(((x - mean) / sd) ** 2) / 2 - sympy.log(sd) - sympy.log(2 * sympy.pi) / 2


def _expectation(value: Expr, x: Symbol, mean: Expr, sd: Expr) -> Expr:
    """E[value] under N(mean, sd²) for a polynomial in x, by integrating powers of (x - mean)/sd."""
    u = sympy.Symbol("u", real=True)
    weight = sympy.exp(-(u**2) / 2) / sympy.sqrt(2 * sympy.pi)
    powers = sympy.Poly(sympy.expand(value.subs(x, mean + sd * u)), u).terms()
    return sum(
        (
            coefficient * sympy.integrate(u**power * weight, (u, -sympy.oo, sympy.oo))
            for (power,), coefficient in powers
        ),
        sympy.Integer(0),
    )

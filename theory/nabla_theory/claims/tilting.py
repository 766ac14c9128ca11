"""The first-order choice of a token: the tilt it follows, and the error of its tangent."""

from __future__ import annotations

import torch

from nabla_theory import noise, tilting
from nabla_theory.checks import Check, Context, at_least, at_most, close, fitted_slope

EXACT = "exact arithmetic: the simplified expression is the integer 0"
LANES = 3
BETAS = (0.5, 3.0, 10.0)
SHRINK = (0.2, 0.1, 0.05)  # further, beyond tilting.SCALE


def tilting_optimum(context: Context) -> list[Check]:
    """ρ = π e^{βG}/Z maximises E_ρ[G] - KL(ρ‖π)/β, and the rule's token does among tokens."""
    draw = noise.generator(context.seed, "tilting")
    excess, gap, tokens, ratio = [], [], [], []
    for beta in BETAS:
        log_policy = torch.log_softmax(torch.from_numpy(2 * draw.standard_normal(12)), dim=-1)
        gains = torch.from_numpy(draw.standard_normal(12))
        rho = tilting.tilt(log_policy, gains, beta)
        best = tilting.objective(rho, log_policy, gains, beta)
        log_z = torch.logsumexp(log_policy + beta * gains, dim=-1)
        others = torch.softmax(torch.from_numpy(3 * draw.standard_normal((2000, 12))), dim=-1)
        values = tilting.objective(others, log_policy, gains, beta)
        divergence = (others * (others.log() - rho.log())).sum(-1)
        excess.append(float((values - best).max()))
        gap.append(float((best - values - divergence / beta).abs().max()))
        ratio.append(float((best - log_z / beta).abs()))
        masses = tilting.objective(torch.eye(12).double(), log_policy, gains, beta)
        tokens.append(int(masses.argmax()) == tilting.rule(log_policy, gains, beta))
    return [
        close(
            "tilting_optimum/proved",
            "E_p[G] - KL(p‖π)/β = (log Z - KL(p‖ρ))/β with ρ = π e^{βG}/Z, for all p, π, G and β",
            1.0,
            float(tilting.identity() == 0),
            0.0,
            EXACT,
        ),
        at_most(
            "tilting_optimum/largest",
            "of 6,000 random distributions none exceeds ρ's objective",
            0.0,
            max(excess),
            "a theorem",
        ),
        close(
            "tilting_optimum/gap",
            "each falls short of it by KL(p‖ρ)/β: largest difference",
            0.0,
            max(gap),
            1e-11,
            "rounding of sums of 12 terms",
        ),
        close(
            "tilting_optimum/value",
            "the optimum is log Z / β: largest difference",
            0.0,
            max(ratio),
            1e-12,
            "rounding",
        ),
        close(
            "tilting_optimum/token",
            "argmax_v log π(v) + βG_v is the best single token, for every β",
            float(len(BETAS)),
            float(sum(tokens)),
            0.0,
            "KL(δ_v‖π) = -log π(v), so it is the same comparison",
        ),
    ]


def linearisation_error(context: Context) -> list[Check]:
    """Tangents at the mean embedding err by at most (H/2)|e_v - ē|², and what that loses."""
    times, weights = tilting.segment()
    integral, excess, lost, identity = [], [], [], []
    for lane in range(LANES):
        choice = tilting.random_choice(context.seed, lane)
        linear = tilting.tangent(choice, choice.mean)
        remainder = choice.exact() - linear
        along = tilting.curvatures(choice, choice.mean, times)
        by_parts = tilting.taylor_remainder(along, times, weights)
        integral.append(float((remainder - by_parts).abs().max()))
        excess.append(float((remainder.abs() - tilting.remainder_bound(along)).max()))
        for beta in BETAS:
            loss = tilting.lost_objective(choice, linear, beta)
            lost.append(float(loss - tilting.lost_objective_bound(beta, remainder)))
            ours = tilting.tilt(choice.log_policy, linear, beta)
            best = tilting.tilt(choice.log_policy, choice.exact(), beta)
            divergence = (ours * (ours.log() - best.log())).sum() / beta
            identity.append(float((loss - divergence).abs()))
    return [
        close(
            "linearisation_error/taylor",
            "f(e_v) less its tangent is ∫(1 - t)<d, ∇²f d>dt along the segment: largest difference",
            0.0,
            max(integral),
            1e-6,
            f"{tilting.NODES}-point Gauss-Legendre rule on analytic functions",
        ),
        at_most(
            "linearisation_error/bound",
            "|f(e_v) - tangent| ≤ max |<d, ∇²f d>|/2 ≤ (H/2)|e_v - ē|²: largest excess",
            0.0,
            max(excess),
            "a theorem; the maximum is over the rule's nodes",
        ),
        close(
            "linearisation_error/loss",
            "the tangent's tilt loses KL(ρ_tangent‖ρ_exact)/β of the objective",
            0.0,
            max(identity),
            1e-11,
            "rounding",
        ),
        at_most(
            "linearisation_error/lost_objective",
            "that loss is at most β range(R)²/8, R the remainders: largest excess",
            0.0,
            max(lost),
            "Hoeffding's lemma",
            tolerance=1e-13,
        ),
        *_orders(context),
        *_points(context),
    ]


def _orders(context: Context) -> list[Check]:
    """Embeddings moved towards their mean: the error is of second order, the loss of fourth."""
    choice = tilting.random_choice(context.seed, 0)
    errors, losses = [], []
    for scale in SHRINK:
        near = choice.shrunk(scale)
        linear = tilting.tangent(near, near.mean)
        errors.append(float((near.exact() - linear).abs().max()))
        losses.append(float(tilting.lost_objective(near, linear, 3.0)))
    why = "the next term of the Taylor series, over scales 0.2 to 0.05"
    orders = {
        "error": (2.0, errors, "the tangent's error"),
        "lost": (4.0, losses, "the objective lost by the tilt"),
    }
    return [
        close(
            f"linearisation_error/order[{name}]",
            f"{what} falls as the distance to the power {order:.0f}",
            order,
            fitted_slope(SHRINK, values),
            0.35,
            why,
        )
        for name, (order, values, what) in orders.items()
    ]


def _points(context: Context) -> list[Check]:
    """Why the mean embedding: no point has a smaller mean square distance under π."""
    gains = []
    for lane in range(LANES):
        choice = tilting.random_choice(context.seed, lane)
        pi, table = choice.log_policy.exp(), choice.embeddings
        spread = (table[:, None] - table[None]).square().sum(-1) @ pi  # from every token's own
        mean = (table - choice.mean).square().sum(-1) @ pi
        gains.append(float(spread.min() / mean))
    return [
        close(
            "linearisation_error/parallel_axis",
            "E_π|e_v - e|² = E_π|e_v - ē|² + |e - ē|²: the mean embedding is the best point",
            1.0,
            float(tilting.parallel_axis() == 0),
            0.0,
            EXACT,
        ),
        at_least(
            "linearisation_error/hard",
            "no token's own embedding is nearer on average: least ratio of mean square distances",
            1.0,
            min(gains),
            "a theorem (parallel axis)",
        ),
    ]

"""Where ρ* of Theorem 4.1 exists for tokens and where it does not (README, section 5, point 0)."""

from __future__ import annotations

from itertools import islice

import numpy as np
import torch

from nabla_theory import fokker_planck, gradients, noise, simplex
from nabla_theory.checks import Check, Context, at_least, at_most, close
from nabla_theory.fokker_planck import Grid

EXACT = "exact arithmetic: the simplified expression is the integer 0"
ENDS = (0, 1)  # the tokens at the ends of the segment


def no_optimum(context: Context) -> list[Check]:
    """On R^{L×V}, Eq. 2's L is unbounded below and Z is infinite."""
    pair, y = gradients.random_pair(context.seed)
    flat = gradients.Pair(pair.policy, pair.reward, pair.prompt, 0.0, pair.ends)
    slopes = pair.log_policy(y)[-1].detach()  # log π(v|y_<L, x) = -∂(-log π)/∂y_{L,v}
    steps = noise.normal(context.seed, "ray", 0, (20, len(slopes)))
    one = torch.ones(1, dtype=y.dtype)
    start = float(flat.loss(y))
    curved = [
        float(simplex.along_last(flat, y, step, 100 * one)) - start + 100 * float(slopes @ step)
        for step in steps
    ]
    fall, far = float(slopes.sum()), 1e4
    down = -torch.ones_like(slopes)
    reached = float(simplex.along_last(pair, y, down, far * one)) - float(pair.loss(y))
    allowed = 2 * pair.lam * simplex.reward_bound(pair)
    boxes = [simplex.box_log_normaliser(slopes, r) for r in (20.0, 40.0)]
    return [
        close(
            "no_optimum/linear",
            "with λ = 0, L is linear in the last token y_L, of slope -log π: largest curvature "
            "over 20 steps of size 100",
            0.0,
            max(map(abs, curved)),
            1e-10,
            "rounding of numbers of size 10³",
        ),
        close(
            "no_optimum/ray",
            "with λ = 2, L(y_L - t·1) falls without bound: its slope at t = 10⁴ is Σ_v log π(v)",
            fall,
            reached / far,
            allowed / far,
            "2λ max|r|/t: this reward is bounded, as the head reads a normalised hidden state",
        ),
        at_most(
            "no_optimum/below",
            "so no constant bounds L from below: L(y_L - 10⁴·1) - L(y)",
            far * fall + allowed,
            reached,
            "the same",
        ),
        close(
            "no_optimum/normaliser",
            "and Z is infinite: over boxes |y_L| ≤ R, λ = 0, log Z grows by Σ|log π(v)| per "
            "unit of R (R = 20 to 40)",
            float(slopes.abs().sum()),
            (boxes[1] - boxes[0]) / 20,
            0.01 * float(slopes.abs().sum()),
            "∫e^{au} = 2 sinh(aR)/a: 1 - e^{-2aR} and the midpoint rule, (a·2R/4000)²/24",
        ),
    ]


def restricted(context: Context) -> list[Check]:
    """The theorem between two tokens, in a box with walls, and under a quadratic confinement."""
    pair, y = gradients.random_pair(context.seed)
    slopes = pair.log_policy(y)[-1].detach()
    target, errors = simplex.on_segment(pair, y, ENDS), []
    for cells in (100, 200):
        grid = Grid(((0.0, 1.0),), (cells,))
        A = fokker_planck.generator(target, grid, "drift")
        found = fokker_planck.stationary(A, grid)
        errors.append(float(np.abs(found - grid.optimum(target)).max() / found.max()))
    grid = Grid(((0.0, 1.0),), (200,))
    A, point = fokker_planck.generator(target, grid, "drift"), np.zeros(200)
    point[0] = 1 / grid.volume
    ended = next(islice(fokker_planck.evolve(A, point, 0.02), 149, None))
    left = np.abs(ended - fokker_planck.stationary(A, grid)).max()
    lows = {k: simplex.confined_log_normaliser(slopes, k) for k in (0.5, 1.0)}
    wide = float(slopes.abs().max()) + 12
    u = torch.from_numpy(simplex.midpoints(-2 * wide, 2 * wide, 8000))
    by_sum = {
        k: float(
            (torch.logsumexp(slopes[:, None] * u - k * u**2 / 2, 1) + np.log(4 * wide / 8000)).sum()
        )
        for k in lows
    }
    return [
        close(
            "restricted/segment",
            "between two tokens (λ = 2, walls that reflect) the Fokker-Planck equation of -∇L has "
            "the stationary density e^{-L}/Z: largest relative difference, 200 cells",
            0.0,
            errors[1],
            0.3 * errors[0],
            "a quarter of the error on 100 cells: the drift's weights are of second order",
        ),
        close(
            "restricted/reached",
            "and goes there from a point mass at one of the tokens, t = 3: largest difference",
            0.0,
            float(left),
            1e-8,
            "e^{-gap t}, gap ≥ π² e^{-osc L}",
        ),
        *(
            close(
                f"restricted/confined[κ={k:g}]",
                "with κ|y_L|²/2 added (λ = 0) ρ* is N(log π/κ, I/κ): log Z, by sums over each "
                "coordinate; it grows as 1/κ",
                lows[k],
                by_sum[k],
                1e-9 * abs(lows[k]),
                "midpoint rule on Gaussians, tails beyond 12 standard deviations",
            )
            for k in lows
        ),
    ]


def logit_langevin(context: Context) -> list[Check]:
    """On logits the softmax's Jacobian belongs into the drift; without it nothing is stationary."""
    pair, y = gradients.random_pair(context.seed)
    on_tokens = simplex.on_segment(pair, y, ENDS)
    fine = Grid(((0.0, 1.0),), (400,))
    star, s = fine.optimum(on_tokens), fine.axes[0]
    expected = [float((star @ s**k) * fine.volume) for k in (1, 2)]
    line = Grid(((-20.0, 20.0),), (400,))
    with_it = simplex.on_logit(pair, y, ENDS)
    density = fokker_planck.stationary(fokker_planck.generator(with_it, line, "drift"), line)
    share = 1 / (1 + np.exp(-line.axes[0]))
    found = [float((density @ share**k) * line.volume) for k in (1, 2)]
    bare = simplex.on_logit(pair, y, ENDS, jacobian=False)
    wide = Grid(((-200.0, 200.0),), (300,))
    start = wide.normalise(-0.1 * wide.points[:, 0] ** 2)
    spread = {}
    for name, target in (("bare", bare), ("full", with_it)):
        A = fokker_planck.generator(target, wide)
        path = list(islice(fokker_planck.evolve(A, start, 4.0), 200))
        spread[name] = [float(path[n] @ wide.axes[0] ** 2 * wide.volume) for n in (99, 199)]
    draw = noise.normal(context.seed, "logits", 0, (4, 7)).requires_grad_()
    weights = noise.normal(context.seed, "weights", 0, (4, 7))
    p = torch.softmax(draw, -1)
    loss = (weights * p.square()).sum() - simplex.log_jacobian(draw).sum()
    (slope,) = torch.autograd.grad(loss, draw)
    formula = simplex.logit_drift(p.detach(), 2 * weights * p.detach())
    return [
        close(
            "logit_langevin/jacobian",
            "det ∂p/∂z of the softmax with one logit held is Π_v p_v, for V = 2 to 5",
            4.0,
            float(sum(simplex.determinant(tokens) == 0 for tokens in (2, 3, 4, 5))),
            0.0,
            EXACT,
        ),
        close(
            "logit_langevin/drift",
            "so Langevin on logits has the drift -J∂L/∂p + 1 - Vp: against differentiation of "
            "-L(p(z)) + Σ_v log p_v",
            0.0,
            float((formula + slope).abs().max()),
            1e-12,
            "rounding",
        ),
        close(
            "logit_langevin/stationary",
            "with it the law of p is e^{-L}/Z on the segment: E[s], E[s²] from the equation on z",
            0.0,
            max(abs(a - b) for a, b in zip(found, expected, strict=True)),
            1e-4,
            "cells of 0.1 in z and 0.0025 in s, second order; p(1 - p) below e^-20 outside",
        ),
        close(
            "logit_langevin/spread",
            "and E[z²] has settled: t = 800 over t = 400",
            1.0,
            spread["full"][1] / spread["full"][0],
            1e-6,
            "e^{-gap t}",
        ),
        at_least(
            "logit_langevin/without",
            "without the Jacobian, as in DTO with noise, the potential is bounded on z ∈ R: "
            "nothing is stationary, and E[z²] grows like t: t = 800 over t = 400",
            1.8,
            spread["bare"][1] / spread["bare"][0],
            "2 for free diffusion; a bounded potential takes off a share of order 1/√t",
        ),
    ]

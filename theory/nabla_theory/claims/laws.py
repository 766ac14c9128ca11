"""Enumerable responses: the exact law of Algorithm 1, and the frontier of E[r] against KL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import optimize, special

from nabla_theory import discrete, gradients, noise, reach
from nabla_theory import output_law as algorithm
from nabla_theory.checks import Check, Context, at_least, at_most, close
from nabla_theory.discrete import Array, Responses

VOCABULARY, LENGTH = 3, 4
LAMS = (0.0, 1.0, 4.0, 100.0)
RATES = ((0, 0.01), (20, 0.01), (20, 0.1), (20, 0.3), (200, 0.1))  # T, lr
ROLLOUTS = 8
SUM = "rounding of sums over 81 sequences"


def responses_of(seed: int) -> Responses:
    """81 responses: 4 tokens of 3, under a random pair."""
    pair, _ = gradients.random_pair(seed, length=VOCABULARY, vocabulary=VOCABULARY)
    return discrete.enumerate_responses(replace(pair, ends=(LENGTH - 1,)), LENGTH)


def sweep(
    responses: Responses, lams: Sequence[float] = LAMS
) -> dict[tuple[float, int, float], list[Array]]:
    """(λ, T, lr) -> the exact laws of Algorithm 1 for N = 1 .. 8."""
    return {
        (lam, steps, lr): algorithm.output_laws(
            responses, algorithm.draws(responses, lam=lam, steps=steps, lr=lr), ROLLOUTS
        )
        for lam in lams
        for steps, lr in RATES
    }


def output_law(context: Context) -> list[Check]:
    """What Algorithm 1 returns is not ρ*, at any T, lr, N and λ of the sweep."""
    responses = responses_of(context.seed)
    laws = sweep(responses)
    pi = np.exp(responses.log_policy)
    rewards = np.array([[law @ responses.reward for law in path] for path in laws.values()])
    gaps, identity = [], []
    for (lam, _, _), path in laws.items():
        star, log_z = discrete.gibbs(responses, lam)
        for law in path[1:]:
            shortfall = _shortfall(responses, law)
            gaps.append(shortfall)
            excess = discrete.free_energy(law, responses, lam) + log_z
            identity.append(abs(excess - discrete.divergence(law, star)) / max(1.0, lam))
    bound = LENGTH * reach.total_variation_bound(
        reach.logit_reach(reach.cosine_rates(0.01, 0.001, 20)), 1.0
    )
    twins = [
        algorithm.total_variation(laws[lam, 20, 0.01][-1], laws[0.0, 0, 0.01][-1]) for lam in LAMS
    ]
    stars = [discrete.gibbs(responses, lam)[0] for lam in (1.0, 4.0)]
    apart = algorithm.total_variation(*stars)
    far = {
        name: discrete.divergence(laws[4.0, steps, lr][-1], stars[1])
        for name, steps, lr in (("twin", 0, 0.01), ("paper", 20, 0.01), ("fast", 20, 0.3))
    }
    return [
        _recursion(context),
        close(
            "output_law/one_rollout",
            "with N = 1 the response is a draw of π: largest difference over λ, T, lr",
            0.0,
            max(float(np.abs(path[0] - pi).max()) for path in laws.values()),
            1e-14,
            SUM,
        ),
        at_least(
            "output_law/reward_rises",
            "E[r] does not fall with N, for any λ, T and lr: smallest step",
            0.0,
            float(np.diff(rewards, axis=1).min()),
            "a theorem: N + 1 rollouts go on where N stopped, and accept only a higher reward",
            tolerance=1e-13,
        ),
        close(
            "output_law/free_energy",
            "L_PPO(p) + log Z = KL(p‖ρ*) for every law of the sweep: largest difference over λ",
            0.0,
            max(identity),
            1e-12,
            SUM,
        ),
        at_least(
            "output_law/not_gibbs",
            "no law with N ≥ 2 is π e^{λ'r}/Z for any λ' (KL to ρ* at λ = 4, N = 8: "
            f"{far['twin']:.2f} without a gradient, {far['paper']:.2f} at lr 0.01, "
            f"{far['fast']:.2f} at lr 0.3): least E[r] missing at its own KL",
            1e-6,
            min(gaps),
            "10⁶ times rounding",
        ),
        at_most(
            "output_law/reach",
            f"lr 0.01, T = 20, N = 8: for λ = 0 to 100 the law is within L tanh(B/2τ) of the loop "
            f"without a gradient, though ρ* moves by {apart:.2f} from λ = 1 to 4 alone: largest TV",
            bound,
            max(twins),
            "a coupling: at most L draws, each within tanh(B/2τ)",
        ),
    ]


def _shortfall(responses: Responses, law: Array) -> float:
    """Return how much E[r] a law misses at its own KL(·‖π)."""
    kl = discrete.divergence(law, np.exp(responses.log_policy))
    return discrete.frontier(responses, kl) - float(law @ responses.reward)


def _recursion(context: Context) -> Check:
    """The dynamic programme against every path of draws, for two tokens of three."""
    pair, _ = gradients.random_pair(context.seed, length=VOCABULARY, vocabulary=VOCABULARY)
    small = discrete.enumerate_responses(replace(pair, ends=(1,)), 2)
    laws = algorithm.draws(small, lam=2.0, steps=5, lr=0.3)
    found = algorithm.output_laws(small, laws, 3)
    worst = max(
        float(np.abs(found[n - 1] - algorithm.enumerated_law(small, laws, n)).max())
        for n in (1, 2, 3)
    )
    return close(
        "output_law/enumeration",
        "the law by dynamic programming is that of following every path of draws (9 responses, "
        "N = 1, 2, 3): largest difference",
        0.0,
        worst,
        1e-14,
        "rounding",
    )


def frontier(context: Context) -> list[Check]:
    """π e^{λr}/Z over λ is the frontier of E[r] against KL(·‖π), and nothing lies above it."""
    responses = responses_of(context.seed)
    pi = np.exp(responses.log_policy)
    draw = noise.generator(context.seed, "frontier")
    scales = np.exp(draw.uniform(-3, 3, size=(100, 1)))
    random = np.exp(responses.log_policy + scales * draw.standard_normal((100, len(pi))))
    laws = [law / law.sum() for law in random]
    laws += [path[n] for path in sweep(responses, (1.0, 4.0)).values() for n in (1, 7)]
    best = [discrete.best_of_n(responses, n) for n in range(1, 17)]
    short = [_shortfall(responses, law) for law in (*laws, *best)]
    lams = np.exp(np.linspace(-2, 2.5, 12))
    tilted = [_point(responses, lam) for lam in lams]
    slopes = []
    for lam in lams:
        (kl0, e0), (kl1, e1) = (_point(responses, lam * f) for f in (1 - 1e-4, 1 + 1e-4))
        slopes.append(abs(lam * (e1 - e0) / (kl1 - kl0) - 1))
    spent = [discrete.divergence(law, pi) for law in best]
    allowed = [math.log(n) - (n - 1) / n for n in range(1, 17)]
    gains = [float((law - pi) @ responses.reward) for law in best[1:]]
    share = min(g / (g + missing) for g, missing in zip(gains, short[-15:], strict=True))
    return [
        at_least(
            "frontier/nothing_above",
            f"of {len(short)} laws (random, Algorithm 1's, best-of-N's) none has more E[r] than "
            "π e^{λr}/Z of the same KL: least shortfall",
            0.0,
            min(short),
            "a theorem; the search over λ stops at 1e-9 of its value",
            tolerance=1e-8,
        ),
        close(
            "frontier/gibbs",
            "π e^{λr}/Z lies on it, for 12 λ from 0.14 to 12: largest distance in E[r]",
            0.0,
            max(abs(discrete.frontier(responses, kl) - e) for kl, e in tilted),
            1e-8,
            "the search over λ",
        ),
        close(
            "frontier/slope",
            "its slope dE[r]/dKL is 1/λ: largest relative difference",
            0.0,
            max(slopes),
            1e-5,
            "central difference of relative width 1e-4",
        ),
        close(
            "frontier/constrained",
            "a solver that knows nothing of λ finds the same: max E_p[r] with KL(p‖π) ≤ ½ (SLSQP)",
            discrete.frontier(responses, 0.5),
            _constrained(responses, 0.5),
            1e-5,
            "the solver's own tolerance of 1e-9 in E[r], and feasibility",
        ),
        at_most(
            "frontier/best_of_n",
            f"best-of-N spends KL ≤ log N - (N - 1)/N, N = 1 .. 16 (and gains at least {share:.0%} "
            "of what that KL can buy): largest excess",
            0.0,
            max(kl - most for kl, most in zip(spent, allowed, strict=True)),
            "a theorem; equality for a reward without atoms",
            tolerance=1e-12,
        ),
    ]


def _point(responses: Responses, lam: float) -> tuple[float, float]:
    """KL(ρ_λ‖π) and E[r] of π e^{λr}/Z."""
    law, log_z = discrete.gibbs(responses, lam)
    reward = float(law @ responses.reward)
    return lam * reward - log_z, reward


def _constrained(responses: Responses, kl: float) -> float:
    """max E_p[r] over the simplex with KL(p‖π) ≤ kl, by sequential quadratic programming."""
    r, log_pi = responses.reward, responses.log_policy

    def at(theta: Array) -> tuple[Array, float, Array]:
        """p = softmax(θ), KL(p‖π) and its gradient."""
        p = special.softmax(theta)
        ratio = np.log(p) - log_pi
        spent = float(p @ ratio)
        return p, spent, p * (ratio - spent)

    def ascent(theta: Array) -> Array:
        p = special.softmax(theta)
        return -p * (r - p @ r)

    found = optimize.minimize(
        lambda theta: -float(special.softmax(theta) @ r),
        log_pi,
        jac=ascent,
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda theta: kl - at(theta)[1],
            "jac": lambda theta: -at(theta)[2],
        },
        options={"maxiter": 1000, "ftol": 1e-13},
    )
    return float(special.softmax(found.x) @ r)

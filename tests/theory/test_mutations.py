"""Each formula, deliberately broken, must turn at least one of its rows red: checks can fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import broken_discrete
import broken_formulas
import broken_printed
import broken_simplex
import broken_tilting
import numpy as np
import pytest
import torch

from theory import (
    checks,
    entropy_decay,
    fokker_planck,
    free_energy,
    gaussian,
    gradients,
    langevin,
    noise,
    policy,
    proofs,
    reach,
    rejection,
    targets,
)
from theory.densities import Banana, DoubleWell
from theory.rewards import Bounded
from theory.targets import Target


class Mutation(NamedTuple):
    """A broken formula and the claim that must notice."""

    what: str
    owner: Any
    name: str
    broken: Callable[..., Any]
    claim: str


ELSEWHERE = (broken_discrete, broken_printed, broken_simplex, broken_tilting)  # more of them
MUTATIONS = [
    Mutation("a leak of 1e-9", fokker_planck, "generator", broken_formulas.leaky, "conservation"),
    Mutation("explicit Euler", fokker_planck, "evolve", broken_formulas.explicit, "conservation"),
    Mutation(
        "total variation for KL",
        free_energy,
        "kl",
        broken_formulas.wrong_kl,
        "free_energy_identity",
    ),
    Mutation(
        "free energy without π",
        free_energy,
        "on_grid",
        broken_formulas.pi_forgotten,
        "mixture_policy_agrees",
    ),
    Mutation(
        "noise √h for √2h",
        langevin,
        "noise_scale",
        lambda h: math.sqrt(h),
        "particles_in_distribution",
    ),
    Mutation("no KL penalty", policy, "advantage", broken_formulas.no_kl_penalty, "mixing_time"),
    Mutation(
        "a reward's gradient halved",
        Bounded,
        "gradient",
        lambda self, x: 0.5 * (1 - self.value(x) ** 2).unsqueeze(-1) * self.slope,
        "log_normalisers",
    ),
    Mutation(
        "another a in the proof",
        DoubleWell,
        "symbolic",
        lambda self, x: -((x[0] ** 2 - 1) ** 2),
        "symbolic_forms",
    ),
    Mutation(
        "a banana that is not bent",
        Banana,
        "sample",
        lambda self, seed, stream, n: noise.normal(seed, stream, 0, (n, 2)),
        "exact_samples",
    ),
    Mutation(
        "W2 of unsorted samples",
        free_energy,
        "wasserstein2_line",
        lambda a, b: float((a - b).square().mean().sqrt()),
        "distances",
    ),
    Mutation(
        "biased MMD",
        free_energy,
        "mmd2",
        lambda a, b, bandwidth: float((a.mean() - b.mean()) ** 2),
        "distances",
    ),
    Mutation(
        "the slope for the difference",
        gradients,
        "swapped_losses",
        lambda pair, y: gradients.backpropagated(pair, y),
        "straight_through",
    ),
    Mutation(
        "sharp bound with (1 - p)²",
        reach,
        "sharp_gradient_bound",
        lambda p, g, temperature: p * (1 - p) ** 2 * reach.gradient_range(g) / temperature,
        "gradient_bound",
    ),
    Mutation(
        "softmax without its mean",
        reach,
        "softmax_backward",
        lambda p, g, temperature: p * g / temperature,
        "gradient_bound",
    ),
    Mutation("mean at 1.1 K", gaussian, "ou_mean", broken_formulas.hasty_mean, "kl_decay_gaussian"),
    Mutation("drift with the printed sign", Target, "drift", broken_formulas.printed, "ou_moments"),
    Mutation("noise √h for √2h", langevin, "noise_scale", lambda h: math.sqrt(h), "ou_moments"),
    Mutation(
        "OU covariance at rate 1",
        gaussian,
        "ou_covariance",
        broken_formulas.ou_rate_once,
        "ou_moments",
    ),
    Mutation(
        "Euler's covariance without h/2",
        gaussian,
        "euler_stationary_covariance",
        lambda K, h: np.linalg.inv(K),
        "euler_stationary",
    ),
    Mutation(
        "noise grows as h",
        langevin,
        "noise_scale",
        lambda h: math.sqrt(2 * h * (1 + math.sqrt(h))),
        "bias_order",
    ),
    Mutation(
        "MALA without a test",
        langevin,
        "log_acceptance",
        broken_formulas.no_metropolis,
        "mala_unbiased",
    ),
    Mutation(
        "MALA without q(x|y)/q(y|x)",
        langevin,
        "log_acceptance",
        broken_formulas.without_proposal,
        "mala_unbiased",
    ),
    Mutation(
        "W2 without the means",
        gaussian,
        "wasserstein2",
        lambda mp, cp, mq, cq: float(abs(np.trace(cp) - np.trace(cq))),
        "wasserstein_contraction",
    ),
    Mutation(
        "flow downhill in ρ*",
        langevin,
        "euler_mean",
        lambda position, drift, h: position - h * drift,
        "no_noise",
    ),
    Mutation(
        "printed sign corrected",
        Target,
        "printed_drift",
        lambda self, x: self.lam * self.reward.gradient(x) + self.density.score(x),
        "sign_error",
    ),
    Mutation(
        "central weights", fokker_planck, "bernoulli", broken_formulas.central, "conservation"
    ),
    Mutation(
        "weights with B(-w) - B(w) ≠ w",
        fokker_planck,
        "bernoulli",
        lambda w: np.exp(-0.6 * w),
        "stationary_order",
    ),
    Mutation(
        "slow fluxes",
        fokker_planck,
        "bernoulli",
        lambda w: np.minimum(1.0, np.exp(-np.clip(w, -50, 50))),
        "transient_order",
    ),
    Mutation(
        "total variation for KL", free_energy, "kl", broken_formulas.wrong_kl, "kl_decay_gaussian"
    ),
    Mutation(
        "Holley-Stroock with the wrong sign",
        entropy_decay,
        "holley_stroock",
        lambda convexity, oscillation: convexity * math.exp(oscillation),
        "log_sobolev",
    ),
    Mutation(
        "free energy without π",
        free_energy,
        "on_grid",
        broken_formulas.pi_forgotten,
        "fokker_planck_agrees",
    ),
    Mutation(
        "log Z without λ²aᵀSa/2",
        targets,
        "tilt_gaussian",
        lambda pi, reward, lam: (float(lam * pi.mean.sum()), pi),
        "gaussian_closed_forms",
    ),
    Mutation(
        "Bessel argument",
        DoubleWell,
        "log_normaliser",
        property(lambda self: math.log(math.pi * self.a / 2)),
        "log_normalisers",
    ),
    Mutation(
        "entropy terms without d",
        free_energy,
        "entropy_terms",
        lambda samples, neighbours=4: np.zeros(len(samples)),
        "particles_agree",
    ),
    Mutation(
        "no KL penalty", policy, "advantage", broken_formulas.no_kl_penalty, "softmax_policy_agrees"
    ),
    Mutation(
        "no KL penalty in PPO", policy, "advantage", broken_formulas.no_kl_penalty, "ppo_agrees"
    ),
    Mutation(
        "clipped away from 1",
        policy,
        "clipped_surrogate",
        lambda ratio, gain, clip: (ratio * gain).mean(),
        "ppo_agrees",
    ),
    Mutation(
        "residual without Δρ",
        proofs,
        "stationarity_residual",
        lambda rho, potential, x: sum(
            (rho * potential.diff(xi)).diff(xi) - rho.diff(xi, 2) for xi in x
        ),
        "stationarity",
    ),
    Mutation("no prefix term", gradients, "prefix_term", torch.zeros_like, "proposition_c1"),
    Mutation(
        "no postfix term", gradients, "postfix_term", broken_formulas.no_postfix, "proposition_c1"
    ),
    Mutation(
        "y_l for y_i",
        gradients,
        "postfix_term",
        broken_formulas.postfix_with_present,
        "proposition_c1",
    ),
    Mutation(
        "only the last step",
        gradients,
        "reward_term",
        broken_formulas.last_end_only,
        "proposition_c1",
    ),
    Mutation(
        "printed postfix mended",
        gradients,
        "printed_postfix",
        lambda jacobian, y: gradients.postfix_term(jacobian, y),
        "printed_gradients",
    ),
    Mutation(
        "C.3 with p_j² for p_j",
        reach,
        "gradient_bound",
        lambda p, g, temperature: p**2 * reach.gradient_range(g) / temperature,
        "gradient_bound",
    ),
    Mutation("R_t = 1", reach, "adam_ratio", lambda t, betas=(0.9, 0.999): 1.0, "adam_reach"),
    Mutation("B = lr", reach, "logit_reach", lambda rates, betas=None: rates[0], "dto_reach"),
    Mutation(
        "total variation without 1/τ",
        reach,
        "total_variation_bound",
        lambda bound, temperature: math.tanh(bound / 2),
        "dto_reach",
    ),
    Mutation(
        "ties accepted", rejection, "records", broken_formulas.no_tie_rule, "records_with_ties"
    ),
    Mutation(
        "H_{N-1}",
        rejection,
        "harmonic",
        lambda n: sum((Fraction(1, k) for k in range(1, n)), start=Fraction(0)),
        "records",
    ),
    Mutation(
        "every proposal alike",
        rejection,
        "improving_records",
        lambda draws: rejection.harmonic(len(draws)),
        "improving_proposals",
    ),
    Mutation(
        "nothing shared",
        rejection,
        "prefix_sharing_acceptances",
        lambda rewards, length, vocabulary: rejection.harmonic(length + 1) - 1,
        "prefix_sharing",
    ),
    *(Mutation(*row) for module in ELSEWHERE for row in module.MUTATIONS),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda m: f"{m.claim}-{m.what}")
def test_a_broken_formula_fails_its_check(
    mutation: Mutation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mutation.owner, mutation.name, mutation.broken)
    try:
        rows = checks.run_claim(mutation.claim, checks.Context())
    except (ValueError, ArithmeticError, RuntimeError):
        return  # the formula cannot even be evaluated any more
    assert not all(row.passed for row in rows), f"{mutation.claim} does not notice: {mutation.what}"


def test_every_claim_has_a_mutation() -> None:
    assert set(checks.CLAIMS) == {mutation.claim for mutation in MUTATIONS}

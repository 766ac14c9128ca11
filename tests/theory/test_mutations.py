"""Checks can fail: each formula, broken, turns a row red, and wrong drifts all of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import broken_formulas
import numpy as np
import pytest
import torch

from nabla_theory import (
    claims,
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
from nabla_theory.checks import Context
from nabla_theory.densities import Banana, DoubleWell
from nabla_theory.rewards import Bounded
from nabla_theory.targets import Target

MUTATIONS: list[tuple[str, Any, str, Callable[..., Any], str]] = [
    # what is broken, the owner of its name, the broken one, the claim that must notice
    ("a leak of 1e-9", fokker_planck, "generator", broken_formulas.leaky, "conservation"),
    ("explicit Euler", fokker_planck, "evolve", broken_formulas.explicit, "conservation"),
    ("total variation for KL", free_energy, "kl", broken_formulas.wrong_kl,
     "free_energy_identity"),
    ("free energy without π", free_energy, "on_grid", broken_formulas.pi_forgotten,
     "mixture_policy_agrees"),
    ("noise √h for √2h", langevin, "noise_scale", lambda h: math.sqrt(h),
     "particles_in_distribution"),
    ("no KL penalty", policy, "advantage", broken_formulas.no_kl_penalty, "mixing_time"),
    ("a reward's gradient halved", Bounded, "gradient",
     lambda self, x: 0.5 * (1 - self.value(x) ** 2).unsqueeze(-1) * self.slope, "log_normalisers"),
    ("another a in the proof", DoubleWell, "symbolic", lambda self, x: -((x[0] ** 2 - 1) ** 2),
     "symbolic_forms"),
    ("a banana that is not bent", Banana, "sample",
     lambda self, seed, stream, n: noise.normal(seed, stream, 0, (n, 2)), "exact_samples"),
    ("W2 of unsorted samples", free_energy, "wasserstein2_line",
     lambda a, b: float((a - b).square().mean().sqrt()), "distances"),
    ("biased MMD", free_energy, "mmd2", lambda a, b, bandwidth: float((a.mean() - b.mean()) ** 2),
     "distances"),
    ("the slope for the difference", gradients, "swapped_losses",
     lambda pair, y: gradients.backpropagated(pair, y), "straight_through"),
    ("sharp bound with (1 - p)²", reach, "sharp_gradient_bound",
     lambda p, g, temperature: p * (1 - p) ** 2 * reach.gradient_range(g) / temperature,
     "gradient_bound"),
    ("softmax without its mean", reach, "softmax_backward",
     lambda p, g, temperature: p * g / temperature, "gradient_bound"),
    ("mean at 1.1 K", gaussian, "ou_mean", broken_formulas.hasty_mean, "kl_decay_gaussian"),
    ("drift with the printed sign", Target, "drift", broken_formulas.printed, "ou_moments"),
    ("noise √h for √2h", langevin, "noise_scale", lambda h: math.sqrt(h), "ou_moments"),
    ("OU covariance at rate 1", gaussian, "ou_covariance", broken_formulas.ou_rate_once,
     "ou_moments"),
    ("Euler's covariance without h/2", gaussian, "euler_stationary_covariance",
     lambda K, h: np.linalg.inv(K), "euler_stationary"),
    ("noise grows as h", langevin, "noise_scale", lambda h: math.sqrt(2 * h * (1 + math.sqrt(h))),
     "bias_order"),
    ("MALA without a test", langevin, "log_acceptance", broken_formulas.no_metropolis,
     "mala_unbiased"),
    ("MALA without q(x|y)/q(y|x)", langevin, "log_acceptance", broken_formulas.without_proposal,
     "mala_unbiased"),
    ("W2 without the means", gaussian, "wasserstein2",
     lambda mp, cp, mq, cq: float(abs(np.trace(cp) - np.trace(cq))), "wasserstein_contraction"),
    ("flow downhill in ρ*", langevin, "euler_mean",
     lambda position, drift, h: position - h * drift, "no_noise"),
    ("printed sign corrected", Target, "printed_drift",
     lambda self, x: self.lam * self.reward.gradient(x) + self.density.score(x), "sign_error"),
    ("central weights", fokker_planck, "bernoulli", broken_formulas.central, "conservation"),
    ("weights with B(-w) - B(w) ≠ w", fokker_planck, "bernoulli", lambda w: np.exp(-0.6 * w),
     "stationary_order"),
    ("slow fluxes", fokker_planck, "bernoulli",
     lambda w: np.minimum(1.0, np.exp(-np.clip(w, -50, 50))), "transient_order"),
    ("total variation for KL", free_energy, "kl", broken_formulas.wrong_kl, "kl_decay_gaussian"),
    ("Holley-Stroock with the wrong sign", entropy_decay, "holley_stroock",
     lambda convexity, oscillation: convexity * math.exp(oscillation), "log_sobolev"),
    ("free energy without π", free_energy, "on_grid", broken_formulas.pi_forgotten,
     "fokker_planck_agrees"),
    ("log Z without λ²aᵀSa/2", targets, "tilt_gaussian",
     lambda pi, reward, lam: (float(lam * pi.mean.sum()), pi), "gaussian_closed_forms"),
    ("Bessel argument", DoubleWell, "log_normaliser",
     property(lambda self: math.log(math.pi * self.a / 2)), "log_normalisers"),
    ("entropy terms without d", free_energy, "entropy_terms",
     lambda samples, neighbours=4: np.zeros(len(samples)), "particles_agree"),
    ("no KL penalty", policy, "advantage", broken_formulas.no_kl_penalty, "softmax_policy_agrees"),
    ("no KL penalty in PPO", policy, "advantage", broken_formulas.no_kl_penalty, "ppo_agrees"),
    ("clipped away from 1", policy, "clipped_surrogate",
     lambda ratio, gain, clip: (ratio * gain).mean(), "ppo_agrees"),
    ("residual without Δρ", proofs, "stationarity_residual",
     lambda rho, potential, x: sum(
         (rho * potential.diff(xi)).diff(xi) - rho.diff(xi, 2) for xi in x
     ),
     "stationarity"),
    ("no prefix term", gradients, "prefix_term", torch.zeros_like, "proposition_c1"),
    ("no postfix term", gradients, "postfix_term", broken_formulas.no_postfix, "proposition_c1"),
    ("y_l for y_i", gradients, "postfix_term", broken_formulas.postfix_with_present,
     "proposition_c1"),
    ("only the last step", gradients, "reward_term", broken_formulas.last_end_only,
     "proposition_c1"),
    ("printed postfix mended", gradients, "printed_postfix",
     lambda jacobian, y: gradients.postfix_term(jacobian, y), "printed_gradients"),
    ("C.3 with p_j² for p_j", reach, "gradient_bound",
     lambda p, g, temperature: p**2 * reach.gradient_range(g) / temperature, "gradient_bound"),
    ("R_t = 1", reach, "adam_ratio", lambda t, betas=(0.9, 0.999): 1.0, "adam_reach"),
    ("B = lr", reach, "logit_reach", lambda rates, betas=None: rates[0], "dto_reach"),
    ("total variation without 1/τ", reach, "total_variation_bound",
     lambda bound, temperature: math.tanh(bound / 2), "dto_reach"),
    ("ties accepted", rejection, "records", broken_formulas.no_tie_rule, "records_with_ties"),
    ("H_{N-1}", rejection, "harmonic",
     lambda n: sum((Fraction(1, k) for k in range(1, n)), start=Fraction(0)), "records"),
    ("every proposal alike", rejection, "improving_records",
     lambda draws: rejection.harmonic(len(draws)), "improving_proposals"),
    ("nothing shared", rejection, "prefix_sharing_acceptances",
     lambda rewards, length, vocabulary: rejection.harmonic(length + 1) - 1, "prefix_sharing"),
    *broken_formulas.MUTATIONS,
]  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "name", "broken", "claim"),
    [pytest.param(*row, id=f"{row[-1]}-{what}") for what, *row in MUTATIONS],
)
def test_a_broken_formula_fails_its_check(
    owner: Any, name: str, broken: Any, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    try:
        rows = claims.run_claim(claim, Context())
    except (ValueError, ArithmeticError, RuntimeError):
        return  # the formula cannot even be evaluated any more
    assert not all(row.passed for row in rows)


def test_every_claim_has_a_mutation() -> None:
    assert set(claims.CLAIMS) == {claim for *_, claim in MUTATIONS}


DRIFT = Target.drift
WRONG: dict[str, Callable[[Target, torch.Tensor], torch.Tensor]] = {
    "halved": lambda target, x: 0.5 * DRIFT(target, x),
    "zero": lambda target, x: torch.zeros_like(x),
    "printed": lambda target, x: -DRIFT(target, x),
}
ROWS = {  # claims with rows that rest on simulated particles: those rows, or all of them
    "particles_agree": None, "particles_in_distribution": None, "no_noise": None,
    "ou_moments": ("euler", "continuous"), "euler_stationary": ("particles",),
    "bias_order": ("gaussian", "constant"), "sign_error": ("correct",),
    "mala_unbiased": ("particles",), "wasserstein_contraction": ("particles",),
    "mixing_time": ("particles",),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("claim", "on_particles"), ROWS.items())
def test_every_particle_row_notices_a_wrong_drift(
    wrong: str, claim: str, on_particles: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Target, "drift", WRONG[wrong])
    rows = {row.name.split("/")[1]: row for row in claims.run_claim(claim, Context())}
    noticed = [rows[name] for name in on_particles or rows]
    assert noticed and [row.name for row in noticed if row.passed] == []


def test_a_tenth_less_drift_is_seen_in_every_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Target, "drift", lambda target, x: 0.9 * DRIFT(target, x))
    assert [row.name for row in claims.run_claim("particles_agree", Context()) if row.passed] == []

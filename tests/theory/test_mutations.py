"""Checks can fail: each formula, broken, turns a row red, and wrong drifts all of theirs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
import torch
from scipy import linalg, sparse

from nabla_theory import (
    checks,
    claims,
    discrete,
    entropy_decay,
    fokker_planck,
    free_energy,
    gaussian,
    gradients,
    langevin,
    noise,
    output_law,
    policy,
    proofs,
    reach,
    rejection,
    simplex,
    targets,
    tilting,
)
from nabla_theory.checks import Context
from nabla_theory.claims import laws, token_rl
from nabla_theory.densities import Banana, DoubleWell
from nabla_theory.gradients import Pair
from nabla_theory.rewards import Bounded
from nabla_theory.targets import Target

GENERATOR = fokker_planck.generator  # as it is before a test replaces it


def wrong_kl(p: Any, q: Any, volume: float) -> float:
    return float(np.sum(np.abs(p - q)) * volume)


def no_metropolis(before: langevin.State, after: langevin.State, h: float) -> torch.Tensor:
    return torch.zeros(len(after.position), dtype=torch.float64)


def without_proposal(before: langevin.State, after: langevin.State, h: float) -> torch.Tensor:
    assert before.potential is not None and after.potential is not None
    return before.potential - after.potential


def central(w: np.ndarray) -> np.ndarray:
    return 1 - w / 2  # central differences: no upwinding


def no_tie_rule(values: Any) -> int:
    best, count = -math.inf, 0
    for value in values:
        if value >= best:
            best, count = value, count + 1
    return count


def no_postfix(jacobian: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(y)


def postfix_with_present(jacobian: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return gradients.printed_postfix(jacobian, y)


def last_end_only(jacobian: torch.Tensor, ends: Any, lam: float) -> torch.Tensor:
    return -lam * jacobian[-1]


def pi_forgotten(rho: Any, target: Target, grid: Any) -> float:
    reward = target.reward.value(grid.points).numpy()
    return float((rho * (-target.lam * reward + np.log(rho + 1e-300))).sum() * grid.volume)


def no_kl_penalty(reward: Any, log_pi: Any, log_rho: Any, lam: float) -> Any:
    return lam * reward + log_pi


def ou_rate_once(K: Any, start: Any, t: float) -> Any:
    stationary = np.linalg.inv(K)
    return stationary + math.exp(-t) * (start - stationary)


def hasty_mean(mu: Any, K: Any, start: Any, t: float) -> Any:
    return mu + linalg.expm(-1.1 * K * t) @ (start - mu)


def printed(target: Target, x: torch.Tensor) -> torch.Tensor:
    return target.printed_drift(x)


def leaky(target: Target, grid: Any, weights: Any = "potential") -> Any:
    A = GENERATOR(target, grid, weights)
    return sparse.csc_array(A - 1e-9 * sparse.eye_array(A.shape[0]))


def explicit(A: Any, rho: Any, dt: float) -> Any:
    while True:
        rho = rho + dt * (A @ rho)
        yield rho


TRANSITION, GIBBS, FRONTIER = output_law.transition, discrete.gibbs, discrete.frontier
BEST_OF_N, SWEEP = discrete.best_of_n, laws.sweep
LAWS = output_law.output_laws


def always_accepts(responses: Any, at: int, law: Any) -> Any:
    ranked = np.arange(len(responses.reward), dtype=float)
    return TRANSITION(replace(responses, reward=ranked), at, law)


def no_rejection(responses: Any, at: int, law: Any) -> Any:
    """A rejected candidate vanishes instead of leaving y."""
    stay, move = TRANSITION(responses, at, law)
    return stay, move - np.diag(np.diag(move))


def returns_gibbs(responses: Any, lams: Any = laws.LAMS) -> Any:
    """An Algorithm 1 that samples from rho* itself."""
    pi = np.exp(responses.log_policy)
    return {
        key: [pi] + [GIBBS(responses, key[0] or 1.0)[0]] * (laws.ROLLOUTS - 1)
        for key in SWEEP(responses, lams)
    }


def far_from_the_twin(responses: Any, at: int, **options: Any) -> Any:
    law = np.zeros((len(responses.reward), responses.conditionals.shape[-1]))
    law[:, -1 if options["steps"] == 20 and options["lr"] == 0.01 else 0] = 1.0
    return law


def free_energy_without_entropy(p: Any, responses: Any, lam: float) -> float:
    return float(-p @ (responses.log_policy + lam * responses.reward))


def without_the_past(responses: Any, logits: torch.Tensor) -> torch.Tensor:
    """Every position reads the logits of the first sequence: no token sees its prefix."""
    rows = torch.log_softmax(logits[0], dim=-1)
    tokens = torch.from_numpy(responses.tokens)
    return rows.expand(len(tokens), -1, -1).gather(2, tokens[:, :, None])[:, :, 0].sum(1)


FLOWS, ROW = proofs.printed_flows, checks._row
RATE, RESIDUAL, ENERGY = proofs.energy_rate, proofs.general_residual, free_energy.on_grid


def forward_in_time(rho: Any, log_pi: Any, r: Any, x: Any) -> dict[str, Any]:
    return {key: -flow for key, flow in FLOWS(rho, log_pi, r, x).items()}


def with_the_factor(rho: Any, log_pi: Any, r: Any, x: Any) -> dict[str, Any]:
    flows = FLOWS(rho, log_pi, r, x)
    return {**flows, "21": flows["20"]}


def middle_for_22(rho: Any, log_pi: Any, r: Any, x: Any) -> dict[str, Any]:
    flows = FLOWS(rho, log_pi, r, x)
    return {**flows, "22": flows["22"] + 2 * sum(sympy.diff(rho, xi, 2) for xi in x)}


LOSS, DRIFT = Pair.loss, Target.drift
EVOLVE, ON_LOGIT = fokker_planck.evolve, simplex.on_logit


def confined(pair: Pair, y: torch.Tensor) -> torch.Tensor:
    """L with a quadratic confinement: it does have a minimum."""
    return LOSS(pair, y) + 0.5 * y.square().sum()


def wrong_determinant(tokens: int) -> sympy.Expr:
    return sympy.Symbol("p1") ** tokens


class NoticedError(Exception):
    """A row does not hold: the rest of its claim need not be computed."""


def row_that_holds(*values: Any) -> checks.Check:
    row = ROW(*values)
    if not row.passed:
        raise NoticedError(row.name)
    return row


MUTATIONS: list[tuple[str, Any, str, Callable[..., Any], str]] = [
    # what is broken, the owner of its name, the broken one, the claim that must notice
    ("a leak of 1e-9", fokker_planck, "generator", leaky, "conservation"),
    ("explicit Euler", fokker_planck, "evolve", explicit, "conservation"),
    ("total variation for KL", free_energy, "kl", wrong_kl,
     "free_energy_identity"),
    ("free energy without π", free_energy, "on_grid", pi_forgotten,
     "mixture_policy_agrees"),
    ("noise √h for √2h", langevin, "noise_scale", lambda h: math.sqrt(h),
     "particles_in_distribution"),
    ("no KL penalty", policy, "advantage", no_kl_penalty, "mixing_time"),
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
    ("mean at 1.1 K", gaussian, "ou_mean", hasty_mean, "kl_decay_gaussian"),
    ("drift with the printed sign", Target, "drift", printed, "ou_moments"),
    ("noise √h for √2h", langevin, "noise_scale", lambda h: math.sqrt(h), "ou_moments"),
    ("OU covariance at rate 1", gaussian, "ou_covariance", ou_rate_once,
     "ou_moments"),
    ("Euler's covariance without h/2", gaussian, "euler_stationary_covariance",
     lambda K, h: np.linalg.inv(K), "euler_stationary"),
    ("noise grows as h", langevin, "noise_scale", lambda h: math.sqrt(2 * h * (1 + math.sqrt(h))),
     "bias_order"),
    ("MALA without a test", langevin, "log_acceptance", no_metropolis,
     "mala_unbiased"),
    ("MALA without q(x|y)/q(y|x)", langevin, "log_acceptance", without_proposal,
     "mala_unbiased"),
    ("W2 without the means", gaussian, "wasserstein2",
     lambda mp, cp, mq, cq: float(abs(np.trace(cp) - np.trace(cq))), "wasserstein_contraction"),
    ("flow downhill in ρ*", langevin, "euler_mean",
     lambda position, drift, h: position - h * drift, "no_noise"),
    ("printed sign corrected", Target, "printed_drift",
     lambda self, x: self.lam * self.reward.gradient(x) + self.density.score(x), "sign_error"),
    ("central weights", fokker_planck, "bernoulli", central, "conservation"),
    ("weights with B(-w) - B(w) ≠ w", fokker_planck, "bernoulli", lambda w: np.exp(-0.6 * w),
     "stationary_order"),
    ("slow fluxes", fokker_planck, "bernoulli",
     lambda w: np.minimum(1.0, np.exp(-np.clip(w, -50, 50))), "transient_order"),
    ("total variation for KL", free_energy, "kl", wrong_kl, "kl_decay_gaussian"),
    ("Holley-Stroock with the wrong sign", entropy_decay, "holley_stroock",
     lambda convexity, oscillation: convexity * math.exp(oscillation), "log_sobolev"),
    ("free energy without π", free_energy, "on_grid", pi_forgotten,
     "fokker_planck_agrees"),
    ("log Z without λ²aᵀSa/2", targets, "tilt_gaussian",
     lambda pi, reward, lam: (float(lam * pi.mean.sum()), pi), "gaussian_closed_forms"),
    ("Bessel argument", DoubleWell, "log_normaliser",
     property(lambda self: math.log(math.pi * self.a / 2)), "log_normalisers"),
    ("entropy terms without d", free_energy, "entropy_terms",
     lambda samples, neighbours=4: np.zeros(len(samples)), "particles_agree"),
    ("no KL penalty", policy, "advantage", no_kl_penalty, "softmax_policy_agrees"),
    ("no KL penalty in PPO", policy, "advantage", no_kl_penalty, "ppo_agrees"),
    ("clipped away from 1", policy, "clipped_surrogate",
     lambda ratio, gain, clip: (ratio * gain).mean(), "ppo_agrees"),
    ("residual without Δρ", proofs, "stationarity_residual",
     lambda rho, potential, x: sum(
         (rho * potential.diff(xi)).diff(xi) - rho.diff(xi, 2) for xi in x
     ),
     "stationarity"),
    ("no prefix term", gradients, "prefix_term", torch.zeros_like, "proposition_c1"),
    ("no postfix term", gradients, "postfix_term", no_postfix, "proposition_c1"),
    ("y_l for y_i", gradients, "postfix_term", postfix_with_present,
     "proposition_c1"),
    ("only the last step", gradients, "reward_term", last_end_only,
     "proposition_c1"),
    ("printed postfix mended", gradients, "printed_postfix",
     lambda jacobian, y: gradients.postfix_term(jacobian, y), "printed_gradients"),
    ("C.3 with p_j² for p_j", reach, "gradient_bound",
     lambda p, g, temperature: p**2 * reach.gradient_range(g) / temperature, "gradient_bound"),
    ("R_t = 1", reach, "adam_ratio", lambda t, betas=(0.9, 0.999): 1.0, "adam_reach"),
    ("B = lr", reach, "logit_reach", lambda rates, betas=None: rates[0], "dto_reach"),
    ("total variation without 1/τ", reach, "total_variation_bound",
     lambda bound, temperature: math.tanh(bound / 2), "dto_reach"),
    ("ties accepted", rejection, "records", no_tie_rule, "records_with_ties"),
    ("H_{N-1}", rejection, "harmonic",
     lambda n: sum((Fraction(1, k) for k in range(1, n)), start=Fraction(0)), "records"),
    ("every proposal alike", rejection, "improving_records",
     lambda draws: rejection.harmonic(len(draws)), "improving_proposals"),
    ("nothing shared", rejection, "prefix_sharing_acceptances",
     lambda rewards, length, vocabulary: rejection.harmonic(length + 1) - 1, "prefix_sharing"),
    ("acceptance by rank in the alphabet", output_law, "transition", always_accepts, "output_law"),
    ("rejected candidates vanish", output_law, "transition", no_rejection, "output_law"),
    ("Algorithm 1 samples rho*", laws, "sweep", returns_gibbs, "output_law"),
    ("a refinement beyond Adam's reach", output_law, "refined", far_from_the_twin, "output_law"),
    ("one rollout more than paid for", output_law, "output_laws",
     lambda responses, draws, n: LAWS(responses, draws, n + 1)[1:], "output_law"),
    ("no entropy in L_PPO", discrete, "free_energy", free_energy_without_entropy, "output_law"),
    ("a frontier one per cent too low", discrete, "frontier",
     lambda responses, kl: FRONTIER(responses, kl) - 0.01 * kl, "frontier"),
    ("a tilt with half of lambda", discrete, "gibbs",
     lambda responses, lam: GIBBS(responses, lam / 2), "frontier"),
    ("best of 2N", discrete, "best_of_n", lambda responses, n: BEST_OF_N(responses, 2 * n),
     "frontier"),
    ("a tilt with half of lambda", discrete, "gibbs",
     lambda responses, lam: GIBBS(responses, lam / 2), "discrete_rl"),
    ("the best value for the soft one", token_rl, "soft_values",
     lambda responses, lam: GIBBS(responses, 10 * lam)[0], "discrete_rl"),
    ("a policy without memory", token_rl, "token_law", without_the_past, "discrete_rl"),
    ("REINFORCE with half of the cost", token_rl, "score_function",
     lambda responses, lam, context: (np.ones(3), 2 * np.ones(3)), "discrete_rl"),
    ("Eq. 16-22 forward in time", proofs, "printed_flows", forward_in_time, "printed_flow"),
    ("Eq. 21 with its factor", proofs, "printed_flows", with_the_factor, "printed_flow"),
    ("Eq. 23's middle member for Eq. 22", proofs, "printed_flows", middle_for_22, "printed_flow"),
    ("a reversed flow that runs forward", fokker_planck, "generator",
     lambda target, grid: -GENERATOR(target, grid), "reversed_flow"),
    ("free energy with its sign turned", free_energy, "on_grid",
     lambda rho, target, grid: -ENERGY(rho, target, grid), "reversed_flow"),
    ("total variation for KL", free_energy, "kl",
     lambda p, q, volume: float(abs(p - q).sum() * volume), "reversed_flow"),
    ("a variance that does not move", gaussian, "ou_covariance", lambda K, start, t: start,
     "reversed_flow"),
    ("free energy the other way", proofs, "energy_rate",
     lambda flow, rho, potential, x, sign: RATE(flow, rho, potential, x, -sign), "printed_flow"),
    ("Eq. 23's middle member mended", proofs, "general_residual",
     lambda dim, sign=1: RESIDUAL(dim), "printed_flow"),
    ("Eq. 11 mended", gradients, "printed_reward", lambda terms: terms.total, "printed_gradients"),
    ("Eq. 11 without the minus of -log π", gradients, "printed_reward",
     lambda terms: -terms.prefix - terms.postfix + terms.reward, "printed_gradients"),
    ("Eq. 14 mended", gradients, "printed_entries", gradients.postfix_term, "printed_gradients"),
    ("Eq. 5 mended", gradients, "bare_postfix", gradients.postfix_term, "printed_gradients"),
    ("an L that is confined", Pair, "loss", confined, "no_optimum"),
    ("a normaliser that does not grow", simplex, "box_log_normaliser",
     lambda slopes, half_width: 1.0, "no_optimum"),
    ("a drift halved", Target, "drift", lambda target, x: 0.5 * DRIFT(target, x), "restricted"),
    ("a confinement twice as wide", simplex, "confined_log_normaliser",
     lambda slopes, strength: float(slopes.square().sum() / strength), "restricted"),
    ("another determinant", simplex, "determinant", wrong_determinant, "logit_langevin"),
    ("no Jacobian", simplex, "log_jacobian", lambda z: torch.zeros_like(z[..., 0]),
     "logit_langevin"),
    ("a drift without 1 - Vp", simplex, "logit_drift",
     lambda p, g: -reach.softmax_backward(p, g, 1.0), "logit_langevin"),
    ("time a hundred times slower", fokker_planck, "evolve",
     lambda A, rho, dt: EVOLVE(A, rho, dt / 100), "restricted"),
    ("the Jacobian always there", simplex, "on_logit",
     lambda pair, y, tokens, jacobian=True: ON_LOGIT(pair, y, tokens), "logit_langevin"),
    ("a tilt without β", tilting, "tilt",
     lambda log_policy, gains, beta: torch.softmax(log_policy + gains, dim=-1), "tilting_optimum"),
    ("a rule without π", tilting, "rule", lambda log_policy, gains, beta: int(gains.argmax()),
     "tilting_optimum"),
    ("a tangent without its slope", tilting, "tangent",
     lambda choice, point: choice.gain(point).expand(len(choice.embeddings)),
     "linearisation_error"),
    ("Taylor's remainder without 1 - t", tilting, "taylor_remainder",
     lambda along, times, weights: (along * weights).sum(-1), "linearisation_error"),
    ("H/8 for H/2", tilting, "remainder_bound", lambda along: along.abs().amax(-1) / 8,
     "linearisation_error"),
    ("Hoeffding's lemma with 1/80", tilting, "lost_objective_bound",
     lambda beta, remainder: beta * (remainder.max() - remainder.min()) ** 2 / 80,
     "linearisation_error"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("owner", "name", "broken", "claim"),
    [pytest.param(*row, id=f"{row[-1]}-{what}") for what, *row in MUTATIONS],
)
def test_a_broken_formula_fails_its_check(
    owner: Any, name: str, broken: Any, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, broken)
    monkeypatch.setattr(checks, "_row", row_that_holds)
    # A formula that is broken may be one that cannot be evaluated any more.
    with pytest.raises((NoticedError, ValueError, ArithmeticError, RuntimeError)):
        claims.run_claim(claim, Context())


def test_every_claim_has_a_mutation() -> None:
    assert set(claims.CLAIMS) == {claim for *_, claim in MUTATIONS}


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

"""Statements about the equations as printed, each broken, with the claim that must notice."""

from __future__ import annotations

from typing import Any

import sympy

from nabla_theory import fokker_planck, free_energy, gaussian, gradients, proofs

FLOWS = proofs.printed_flows
GENERATOR = fokker_planck.generator
RATE, RESIDUAL, ENERGY = proofs.energy_rate, proofs.general_residual, free_energy.on_grid


def forward_in_time(rho: Any, log_pi: Any, r: Any, x: Any) -> dict[str, Any]:
    return {key: -flow for key, flow in FLOWS(rho, log_pi, r, x).items()}


def with_the_factor(rho: Any, log_pi: Any, r: Any, x: Any) -> dict[str, Any]:
    flows = FLOWS(rho, log_pi, r, x)
    return {**flows, "21": flows["20"]}


def middle_for_22(rho: Any, log_pi: Any, r: Any, x: Any) -> dict[str, Any]:
    flows = FLOWS(rho, log_pi, r, x)
    return {**flows, "22": flows["22"] + 2 * sum(sympy.diff(rho, xi, 2) for xi in x)}


MUTATIONS = [  # what, owner, name, broken, claim
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
]  # fmt: skip

"""Formulas of theory.simplex, each broken, with the claim that must notice."""

from __future__ import annotations

import sympy
import torch

from nabla_theory import fokker_planck, reach, simplex
from nabla_theory.gradients import Pair
from nabla_theory.targets import Target

LOSS, DRIFT = Pair.loss, Target.drift
EVOLVE, ON_LOGIT = fokker_planck.evolve, simplex.on_logit


def confined(pair: Pair, y: torch.Tensor) -> torch.Tensor:
    """L with a quadratic confinement: it does have a minimum."""
    return LOSS(pair, y) + 0.5 * y.square().sum()


def wrong_determinant(tokens: int) -> sympy.Expr:
    return sympy.Symbol("p1") ** tokens


MUTATIONS = [  # what, owner, name, broken, claim
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
]  # fmt: skip

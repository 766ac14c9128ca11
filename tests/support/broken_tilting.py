"""Formulas of theory.tilting, each broken, with the claim that must notice."""

from __future__ import annotations

import torch

from nabla_theory import tilting

MUTATIONS = [  # what, owner, name, broken, claim
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

"""Formulas over enumerable responses, each broken, with the claim that must notice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from nabla_theory import discrete, output_law
from nabla_theory.claims import laws, token_rl

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


MUTATIONS = [  # what, owner, name, broken, claim
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
]  # fmt: skip

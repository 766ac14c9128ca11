"""The claims by name; a claim is a function from a Context to rows, in the module of its topic."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches

from nabla_theory.alternatives import rejected_by
from nabla_theory.checks import Check, Context

Claim = Callable[[Context], list[Check]]

# Claim -> the module of nabla_theory.claims that holds it, as a function of the same name.
CLAIMS: dict[str, str] = {
    "stationarity": "symbolic",
    "printed_flow": "symbolic",
    "free_energy_identity": "symbolic",
    "gaussian_closed_forms": "symbolic",
    "no_optimum": "existence",
    "restricted": "existence",
    "logit_langevin": "existence",
    "log_normalisers": "measures",
    "symbolic_forms": "measures",
    "exact_samples": "measures",
    "distances": "measures",
    "ou_moments": "dynamics",
    "euler_stationary": "dynamics",
    "bias_order": "dynamics",
    "mala_unbiased": "dynamics",
    "wasserstein_contraction": "dynamics",
    "no_noise": "drift",
    "sign_error": "drift",
    "reversed_flow": "drift",
    "conservation": "fokker",
    "stationary_order": "fokker",
    "transient_order": "fokker",
    "kl_decay_gaussian": "fokker",
    "log_sobolev": "fokker",
    "particles_agree": "particles",
    "particles_in_distribution": "particles",
    "fokker_planck_agrees": "duality",
    "softmax_policy_agrees": "duality",
    "mixture_policy_agrees": "duality",
    "ppo_agrees": "duality",
    "mixing_time": "particles",
    "proposition_c1": "tokens",
    "printed_gradients": "tokens",
    "gradient_bound": "tokens",
    "straight_through": "tokens",
    "tilting_optimum": "tilting",
    "linearisation_error": "tilting",
    "output_law": "laws",
    "frontier": "laws",
    "discrete_rl": "token_rl",
    "adam_reach": "steps",
    "dto_reach": "steps",
    "records": "baselines",
    "records_with_ties": "baselines",
    "improving_proposals": "baselines",
    "prefix_sharing": "baselines",
}

# Claims in which nothing is drawn: no seed changes them.
SEEDLESS = frozenset(
    (
        "stationarity",
        "printed_flow",
        "reversed_flow",
        "gaussian_closed_forms",
        "conservation",
        "stationary_order",
        "transient_order",
        "kl_decay_gaussian",
        "log_sobolev",
        "fokker_planck_agrees",
        "softmax_policy_agrees",
        "mixture_policy_agrees",
        "records",
        "records_with_ties",
        "improving_proposals",
    )
)


def select(names: Sequence[str]) -> list[str]:
    """The claims that were asked for, by name or by one of their rows, all of them for none.

    Raises ValueError for an unknown one.
    """
    names = [name.partition("/")[0] for name in names]
    unknown = [name for name in names if name not in CLAIMS]
    if unknown:
        near = get_close_matches(unknown[0], CLAIMS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(CLAIMS)}."
        raise ValueError(f"There is no check {unknown[0]!r}. {hint}")
    return [name for name in CLAIMS if not names or name in names]


def run_claim(name: str, context: Context) -> list[Check]:
    """The rows of one claim, each with the alternative that it rejects."""
    module = importlib.import_module(f"nabla_theory.claims.{CLAIMS[name]}")
    claim: Claim = getattr(module, name)
    return [replace(row, rejects=rejected_by(row.name)) for row in claim(context)]


def run(names: Sequence[str], context: Context) -> Iterator[tuple[str, list[Check], float]]:
    """Yields each claim's name, rows and seconds, in order."""
    for name in select(names):
        began = time.perf_counter()
        rows = run_claim(name, context)
        yield name, rows, time.perf_counter() - began

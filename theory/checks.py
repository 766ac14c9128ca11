"""Every claim as a row: expected, measured, the tolerance and where the tolerance comes from.

A claim is a function from a Context to rows; `CLAIMS` names them in the order of the report.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from enum import Enum

import numpy as np
from scipy import stats

from theory.alternatives import rejected_by

# A statistical row fails by chance with at most this probability, over all that it compares.
FAILURE_PROBABILITY = 1e-6


class Sense(str, Enum):
    """How `measured` is held against `expected`."""

    CLOSE = "="
    """|measured - expected| <= tolerance"""
    AT_MOST = "≤"
    """measured <= expected + tolerance"""
    AT_LEAST = "≥"
    """measured >= expected - tolerance"""


@dataclass(frozen=True)
class Check:
    """One row of the report."""

    name: str  # claim/row
    statement: str  # what holds, with the equation it comes from
    expected: float
    measured: float
    tolerance: float
    passed: bool
    sense: Sense
    why: str  # where the tolerance comes from
    chance: float = 0.0  # of failing although the claim holds; 0 where nothing is drawn
    rejects: str = ""  # the alternative under which the row fails (theory.alternatives)

    def as_json(self) -> dict[str, object]:
        """The row as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Context:
    """What a claim may depend on."""

    seed: int = 0
    device: str = "cpu"


Claim = Callable[[Context], list[Check]]

# Claim -> the module of theory.claims that holds it, as a function of the same name.
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


def close(
    name: str,
    statement: str,
    expected: float,
    measured: float,
    tolerance: float,
    why: str,
    chance: float = 0.0,
) -> Check:
    """A row that passes iff |measured - expected| <= tolerance (never for NaN)."""
    passed = abs(measured - expected) <= tolerance
    return _row(name, statement, expected, measured, tolerance, passed, Sense.CLOSE, why, chance)


def at_most(
    name: str,
    statement: str,
    bound: float,
    measured: float,
    why: str,
    tolerance: float = 0.0,
    chance: float = 0.0,
) -> Check:
    """A row that passes iff measured <= bound + tolerance (never for NaN)."""
    passed = measured <= bound + tolerance
    return _row(name, statement, bound, measured, tolerance, passed, Sense.AT_MOST, why, chance)


def at_least(
    name: str, statement: str, bound: float, measured: float, why: str, tolerance: float = 0.0
) -> Check:
    """A row that passes iff measured >= bound - tolerance (never for NaN)."""
    passed = measured >= bound - tolerance
    return _row(name, statement, bound, measured, tolerance, passed, Sense.AT_LEAST, why)


def within_error(name: str, statement: str, scores: Sequence[float], note: str = "") -> Check:
    """A row that passes iff none of the z-scores exceeds what chance allows (never for NaN)."""
    why = f"largest of {len(scores)} z-scores; exceeded by chance with p ≤ {FAILURE_PROBABILITY:g}"
    worst = float(np.max(np.abs(scores)))
    limit = z_limit(len(scores))
    return at_most(name, statement, limit, worst, why + note, chance=FAILURE_PROBABILITY)


def t_within_error(name: str, statement: str, score: float, freedom: int) -> Check:
    """A row that passes iff a t-score of so many degrees of freedom is what chance allows."""
    why = f"t-score of {freedom} degrees of freedom; p ≤ {FAILURE_PROBABILITY:g}"
    limit = t_limit(freedom)
    return at_most(name, statement, limit, abs(score), why, chance=FAILURE_PROBABILITY)


def _row(
    name: str,
    statement: str,
    expected: float,
    measured: float,
    tolerance: float,
    passed: bool,
    sense: Sense,
    why: str,
    chance: float = 0.0,
) -> Check:
    numbers = float(expected), float(measured), float(tolerance)
    return Check(name, statement, *numbers, bool(passed), sense, why, chance)


def z_limit(comparisons: int) -> float:
    """The z-score that none of `comparisons` normal deviations exceeds, but for
    FAILURE_PROBABILITY (Bonferroni, two-sided)."""
    return float(stats.norm.isf(FAILURE_PROBABILITY / (2 * comparisons)))


def t_limit(freedom: int) -> float:
    """The t-score that is exceeded, on either side, with FAILURE_PROBABILITY."""
    return float(stats.t.isf(FAILURE_PROBABILITY / 2, freedom))


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The least-squares slope of log y against log x."""
    logs = [math.log(v) for v in x], [math.log(v) for v in y]
    return float(stats.linregress(*logs).slope)


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
    module = importlib.import_module(f"theory.claims.{CLAIMS[name]}")
    claim: Claim = getattr(module, name)
    return [replace(row, rejects=rejected_by(row.name)) for row in claim(context)]


def run(names: Sequence[str], context: Context) -> Iterator[tuple[str, list[Check], float]]:
    """Yields each claim's name, rows and seconds, in order."""
    for name in select(names):
        began = time.perf_counter()
        rows = run_claim(name, context)
        yield name, rows, time.perf_counter() - began

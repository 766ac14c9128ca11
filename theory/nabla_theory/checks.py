"""Rows of the report: expected, measured, the tolerance and where the tolerance comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import Enum

import numpy as np
from scipy import stats

# A statistical row fails by chance with at most this probability, over all that it compares.
FAILURE_PROBABILITY = 1e-6


class Sense(str, Enum):
    """Relation in which `measured` must stand to `expected`."""

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
    rejects: str = ""  # the alternative under which the row fails (nabla_theory.alternatives)

    def as_json(self) -> dict[str, object]:
        """The row as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Context:
    """Settings that a claim may depend on."""

    seed: int = 0
    device: str = "cpu"


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

"""Exact tests of paired differences, and the correction for several of them.

Both tests ask the same question of problems on which two methods differ: could the signs have
fallen like this if either method were as likely to be ahead? Neither assumes a distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from scipy.special import bdtr

_STEPS = 1 << 18  # the most that all differences may come to before they are rounded
_GRID = 500  # the most steps in the largest difference, where they are
_NEAR = 1e-9


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact binomial p value of `wins` of `wins + losses` at probability 1/2."""
    trials = wins + losses
    if trials == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(wins, losses), trials, 0.5)))


def sign_flip_test(differences: Sequence[float]) -> float:
    """Two-sided exact p value of a mean of paired differences: all 2^P signs are equally likely.

    For differences of -1, 0 and 1 (one right-or-wrong run per problem) this is McNemar's exact
    test. The distribution of the sum is computed exactly over the differences' common denominator;
    where they have none of moderate size (mixtures of runs, say), they are rounded to 1/500 of the
    largest first (to fewer steps for thousands of problems), which moves their sum by far less than
    the signs do.
    """
    moved = [difference for difference in differences if abs(difference) > _NEAR]
    if not moved:
        return 1.0
    steps = _as_steps(moved)
    if steps is None:
        steps = _rounded(moved)
    sizes = np.sort(np.abs(steps))
    total, reach = int(sizes.sum()), 0
    chance = np.zeros(total + 1)  # of the sum of the differences that come out positive
    chance[0] = 1.0
    for size in sizes:
        half = chance[: reach + 1] / 2
        chance[: reach + 1] = half
        chance[size : reach + size + 1] += half
        reach += int(size)
    distance = np.abs(2 * np.arange(total + 1) - total)
    return min(1.0, float(chance[distance >= abs(int(steps.sum()))].sum()))


def _as_steps(differences: Sequence[float]) -> np.ndarray | None:
    """Return the differences as multiples of one step, None where there would be too many."""
    parts = [Fraction(difference).limit_denominator(1000) for difference in differences]
    if any(abs(float(p) - d) > _NEAR for p, d in zip(parts, differences, strict=True)):
        return None
    scale = math.lcm(*(part.denominator for part in parts))
    steps = [int(part * scale) for part in parts]
    if sum(map(abs, steps)) > _STEPS:
        return None
    return np.array(steps)


def _rounded(differences: Sequence[float]) -> np.ndarray:
    values = np.asarray(differences, dtype=float)
    sizes = np.abs(values)
    return np.rint(values * min(_GRID / sizes.max(), _STEPS / sizes.sum())).astype(int)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p values, in the order given; NaN stays NaN.

    Rejecting where the adjusted value is at most alpha keeps the chance of any false rejection
    among them at most alpha, however the tests depend on each other.
    """
    known = [i for i, p in enumerate(p_values) if not math.isnan(p)]
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(known, key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(known) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted

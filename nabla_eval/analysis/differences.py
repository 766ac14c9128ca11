"""Paired differences of two proportions: accuracies, rejection rates, runs at equal cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    effective_wilson,
    kish,
    ratio_errors,
    unknown,
)


def won_minus_lost(
    differences: Sequence[float] | np.ndarray, least: float, most: float, level: float = LEVEL
) -> Estimate:
    """Mean of paired differences in [-1, 1], one per problem.

    The mean is the share won (of the positive parts) less the share lost. Each has
    `effective_wilson`'s interval, and their distances to the bounds are joined with the
    correlation of the two (Zou and Donner's MOVER, as in Newcombe 1998 for independent shares).
    So where no problem differs the interval reaches as far as unseen differences might.
    """
    apart = np.asarray(differences, dtype=float)
    n = len(apart)
    if n == 0:
        return unknown(level=level)
    value = float(apart.mean())
    if n == 1:
        return Estimate(value, math.nan, -1.0, 1.0, 1, level)
    parts = np.maximum(apart, 0.0), np.maximum(-apart, 0.0)
    won, lost = (
        effective_wilson(
            min(1.0, float(part.mean())), float(part.std(ddof=1)) / math.sqrt(n), n, least, most,
            level,
        )
        for part in parts
    )  # fmt: skip
    rho = _correlation(*parts)
    down = _joined(won.value - won.low, lost.high - lost.value, rho)
    up = _joined(won.high - won.value, lost.value - lost.low, rho)
    se = float(apart.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, se, max(-1.0, value - down), min(1.0, value + up), n, level)


def _joined(a: float, b: float, rho: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * rho * a * b + b * b))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, 0 where either does not vary."""
    spread = float(a.std() * b.std())
    return float(((a - a.mean()) * (b - b.mean())).mean()) / spread if spread > 0 else 0.0


def rate_difference(table: np.ndarray, level: float = LEVEL) -> Estimate:
    """Pooled rate of a minus that of b, problems as clusters.

    `table` is `[problems, 4]`: hits and trials of a, hits and trials of b. The interval is
    `won_minus_lost`'s, of the difference plus each problem's first-order part of its error.
    """
    table = np.asarray(table, dtype=float).reshape(-1, 4)
    table = table[(table[:, 1] > 0) | (table[:, 3] > 0)]
    hits_a, trials_a, hits_b, trials_b = table.T
    if not trials_a.sum() or not trials_b.sum():
        return unknown(len(table), level)
    value = hits_a.sum() / trials_a.sum() - hits_b.sum() / trials_b.sum()
    errors = ratio_errors(hits_a, trials_a) - ratio_errors(hits_b, trials_b)
    least = min(kish(trials_a), kish(trials_b))
    most = min(trials_a.sum(), trials_b.sum())
    return won_minus_lost(value + len(table) * errors, least, most, level)

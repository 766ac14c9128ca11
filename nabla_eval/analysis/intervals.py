"""Estimates with intervals. The unit that is independent is the problem, never the candidate.

Three tools: a t interval of problem means (accuracy, cost, paired differences), a bootstrap that
resamples problems (ratios such as the rejection rate), and Wilson's interval for plain proportions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from nabla_eval.errors import DataError
from nabla_eval.randomness import Key

LEVEL = 0.95
RESAMPLES = 10_000
_KEY = Key.root(0) / "bootstrap"
_BLOCK = 1 << 21  # random numbers held at once


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error and its interval; NaN where the data cannot say."""

    value: float
    se: float
    low: float
    high: float
    clusters: int  # independent problems it rests on
    level: float = LEVEL

    def excludes(self, number: float = 0.0) -> bool:
        """Whether the interval lies wholly on one side of a number."""
        return self.low > number or self.high < number

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


def unknown(clusters: int = 0, level: float = LEVEL) -> Estimate:
    """The estimate of something about which there are no data."""
    return Estimate(math.nan, math.nan, math.nan, math.nan, clusters, level)


def mean(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of independent numbers with Student's t interval; no interval from a single one."""
    n = len(values)
    if n == 0:
        return unknown(level=level)
    array = np.asarray(values, dtype=float)
    value = float(array.mean())
    if n == 1:
        return Estimate(value, math.nan, math.nan, math.nan, 1, level)
    se = float(array.std(ddof=1)) / math.sqrt(n)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * se
    return Estimate(value, se, value - half, value + half, n, level)


def clustered_mean(groups: Mapping[str, Sequence[float]], level: float = LEVEL) -> Estimate:
    """avg@k: mean over problems of the mean over a problem's k runs, with a t interval.

    Runs of one problem are correlated, so the standard error is that of the problem means,
    sd / sqrt(problems): for equal k the clustered standard error with its P/(P - 1) correction.
    """
    return mean([sum(group) / len(group) for group in groups.values() if len(group)], level)


def paired(a: Mapping[str, float], b: Mapping[str, float], level: float = LEVEL) -> Estimate:
    """Mean of a - b over problems, with a t interval of the differences.

    Raises `DataError` when the two do not hold the same problems.
    """
    same_problems(a, b)
    return mean([a[problem] - b[problem] for problem in sorted(a)], level)


def same_problems(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    """Raise `DataError` unless both have the same problems: only then can they be paired."""
    odd = sorted(a.keys() ^ b.keys())
    if odd:
        raise DataError(
            f"The two runs differ in {len(odd)} problems (first: {odd[0]!r}), so they cannot be "
            "paired. Run both with the same tasks and the same --limit."
        )


def wilson(successes: float, trials: float, level: float = LEVEL) -> Estimate:
    """Wilson's (1927) score interval of a proportion of independent trials.

    `se` is the trials' standard deviation (n - 1, as lm-eval has it) over sqrt(trials).
    """
    if trials <= 0:
        return unknown(level=level)
    p = successes / trials
    z2 = float(ndtri((1 + level) / 2)) ** 2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    se = math.sqrt(p * (1 - p) / (trials - 1)) if trials > 1 else math.nan
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding is not
    high = 1.0 if successes == trials else centre + half
    return Estimate(p, se, low, high, int(trials), level)


def bootstrap(
    table: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    key: Key = _KEY,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Interval of a function of column totals, by resampling rows (problems) with replacement.

    `table` is `[problems, columns]`; `statistic` maps totals `[B, columns]` to `[B]`. Percentile
    interval, with the tail probability widened to what Student's t has instead of the normal
    (Hesterberg 2015's expanded percentile interval), because percentiles alone are too narrow for
    few problems. Resamples in which the statistic is undefined (0/0) are left out.
    """
    table = np.asarray(table, dtype=float)
    n = len(table)
    if n == 0:
        return unknown(level=level)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(table.sum(axis=0, keepdims=True))[0])
        if n == 1:
            return Estimate(value, math.nan, math.nan, math.nan, 1, level)
        draws = statistic(_resampled_totals(table, key, resamples))
    return from_resamples(value, draws, n, level)


def from_resamples(value: float, draws: np.ndarray, n: int, level: float = LEVEL) -> Estimate:
    """The expanded percentile interval of a statistic's resampled values; see `bootstrap`."""
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or n < 2:
        return Estimate(value, math.nan, math.nan, math.nan, n, level)
    tail = float(ndtr(math.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2)))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Estimate(value, float(draws.std(ddof=1)), float(low), float(high), n, level)


def resampled_weights(n: int, key: Key = _KEY, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """How often each of n rows is in each resample: blocks of `[B, n]` whole numbers."""
    block = max(1, _BLOCK // n)
    raw = np.random.Philox(key=int.from_bytes(key.digest, "little")).random_raw
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        picks = ((raw(rows * n) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)
        places = picks.astype(np.intp).reshape(rows, n) + n * np.arange(rows)[:, None]
        yield np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n)


def _resampled_totals(table: np.ndarray, key: Key, resamples: int) -> np.ndarray:
    """Column totals of resampled rows, `[resamples, columns]`."""
    blocks = resampled_weights(len(table), key, resamples)
    return np.concatenate([weights.astype(float) @ table for weights in blocks])


def ratio(
    numerators: Mapping[str, float],
    denominators: Mapping[str, float],
    key: Key = _KEY,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Total over total, resampling the problems whose denominator is not zero."""
    problems = sorted(problem for problem, total in denominators.items() if total)
    table = np.array([[numerators[p], denominators[p]] for p in problems]).reshape(-1, 2)
    return bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], key, resamples, level)


def share(
    hits: Mapping[str, float],
    trials: Mapping[str, float],
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Total hits of total trials, both by problem, with an interval over problems.

    With at most one trial a problem it is Wilson's: the trials are independent. A share of 0 or 1
    has no spread to resample: then Wilson's too, with as many trials as there are problems, as if
    the trials of a problem were one.
    """
    total, count = sum(hits.values()), sum(trials.values())
    if all(trial <= 1 for trial in trials.values()):
        return wilson(total, count, level)
    if 0 < total < count:
        return ratio(hits, trials, resamples=resamples, level=level)
    problems = sum(trial > 0 for trial in trials.values())
    return wilson(problems if total else 0, problems, level)

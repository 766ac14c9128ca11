"""Estimates and paired differences with intervals.

The unit that is independent is the problem, never the candidate.

Every estimate is a mean over problems, or to first order one (`ratio_errors`). Proportions
(accuracy, rejection, failures, pass@k, AUC) have Wilson's interval with an effective sample size,
differences of two of them the interval made of two such; neither has zero width at 0 or 100 %.
Means and ratios of costs have a bootstrap-t interval, means of anything else Student's t.
`reports/coverage.md` says how often each covers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit

from nabla_eval.errors import DataError
from nabla_eval.randomness import Key

Floats: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
_RESAMPLES = 2000
_KEY = Key.root(0) / "bootstrap"
_BLOCK = 1 << 20  # random numbers held at once
_EQUAL = 1e-12  # a standard error below this is the rounding of equal numbers


@dataclass(frozen=True)
class Estimate:
    """A number, its standard error and its interval; NaN where the data cannot say."""

    value: float
    se: float
    low: float
    high: float
    clusters: int  # independent problems it rests on

    def excludes(self, number: float = 0.0) -> bool:
        """Return whether the interval lies wholly on one side of a number."""
        return self.low > number or self.high < number

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


def unknown(clusters: int = 0) -> Estimate:
    """Return the estimate of something about which there are no data."""
    return Estimate(math.nan, math.nan, math.nan, math.nan, clusters)


def same_problems(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    """Raise `DataError` unless both have the same problems: only then can they be paired."""
    odd = sorted(a.keys() ^ b.keys())
    if odd:
        raise DataError(
            f"The two runs differ in {len(odd)} problems (first: {odd[0]!r}), so they cannot be "
            "paired. Run both with the same tasks and the same --limit."
        )


# --- means: of anything, of costs, of total over total ---


def mean(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of one number per problem with Student's t interval.

    A single number has no interval. Unknown where one of them is not finite. With the means of each
    problem's k runs this is avg@k, and `se` the standard error clustered by problem.
    """
    numbers = np.asarray(values, dtype=float)
    n = len(numbers)
    if n == 0 or not np.isfinite(numbers).all():
        return unknown(n)
    value = float(numbers.mean())
    if n == 1:
        return Estimate(value, math.nan, math.nan, math.nan, 1)
    se = float(numbers.std(ddof=1)) / math.sqrt(n)
    half = _quantile(level, n - 1) * se
    return Estimate(value, se, value - half, value + half, n)


def skewed_means(columns: Mapping[str, ArrayLike], level: float = LEVEL) -> dict[str, Estimate]:
    """Return the means of numbers that may be skewed (costs), by name; problems are rows.

    Each end of the interval is the further one of Student's t and of the bootstrap-t, in which
    problems are resampled and each resample is studentised. The t interval alone covers .84 of
    lognormal costs (sigma = 1) at 10 problems, this one .91; see `reports/coverage.md`.
    """
    found = {name: mean(values, level) for name, values in columns.items()}
    n = min((estimate.clusters for estimate in found.values()), default=0)
    if n < 2:
        return found
    errors = np.array([np.asarray(values, dtype=float) for values in columns.values()]).T
    errors -= errors.mean(axis=0)
    scale = np.maximum(np.abs(errors).max(axis=0), np.finfo(float).tiny)
    errors /= scale  # so that squares of FLOPs neither overflow nor cancel
    powers = np.concatenate([errors, errors**2], axis=1)
    drawn = np.concatenate([weights @ powers for weights in _resampled_weights(n)]) / n
    shift, squares = np.split(drawn, 2, axis=1)
    variance = (squares - shift**2) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        studentised = np.where(variance > _EQUAL, shift / np.sqrt(variance), np.nan)
    for (name, estimate), values in zip(found.items(), studentised.T, strict=True):
        known = values[np.isfinite(values)]
        if len(known) and estimate.se > 0:
            low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            found[name] = replace(
                estimate,
                low=min(estimate.low, estimate.value - float(high) * estimate.se),
                high=max(estimate.high, estimate.value - float(low) * estimate.se),
            )
    return found


def _resampled_weights(n: int) -> Iterator[Floats]:
    """Yield how often each of n rows is in each resample, in blocks of `[B, n]`."""
    block = max(1, _BLOCK // n)
    raw = np.random.Philox(key=int.from_bytes(_KEY.digest, "little")).random_raw
    for start in range(0, _RESAMPLES, block):
        rows = min(block, _RESAMPLES - start)
        picks = ((raw(rows * n) >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)
        places = picks.astype(np.intp).reshape(rows, n) + n * np.arange(rows)[:, None]
        yield np.bincount(places.ravel(), minlength=rows * n).reshape(rows, n).astype(float)


def skewed_mean(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of one number per problem with the interval of `skewed_means`."""
    return skewed_means({"": values}, level)[""]


def ratio(parts: ArrayLike, wholes: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return total over total of amounts by problem; problems where both are zero do not count.

    To first order the ratio is a mean over problems (`ratio_errors`), and has the interval of
    `skewed_means`, which ends at zero where no part is negative.
    """
    part, whole = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    used = (part != 0) | (whole != 0)
    part, whole = part[used], whole[used]
    n, total = len(part), whole.sum()
    if not total:
        return unknown(n)
    value = float(part.sum() / total)
    found = replace(skewed_mean(value + n * ratio_errors(part, whole), level), value=value)
    return replace(found, low=float(np.maximum(found.low, 0))) if (part >= 0).all() else found


def ratio_errors(parts: Floats, wholes: Floats) -> Floats:
    """Return each problem's part of the error of sum(parts) / sum(wholes), first order; `[P]`."""
    total = wholes.sum()
    errors: Floats = (parts - wholes * (parts.sum() / total)) / total
    return errors


def _where_tried(parts: ArrayLike, wholes: ArrayLike) -> tuple[Floats, Floats]:
    part, whole = np.asarray(parts, dtype=float), np.asarray(wholes, dtype=float)
    return part[whole != 0], whole[whole != 0]


# --- proportions ---


def wilson(
    successes: float, trials: float, level: float = LEVEL, freedom: float = math.inf
) -> Estimate:
    """Return Wilson's (1927) score interval of a proportion of independent trials.

    `freedom`: with finite degrees of freedom, Student's t quantile in place of the normal one.
    `se` is the trials' standard deviation (n - 1, as lm-eval has it) over sqrt(trials).
    """
    if trials <= 0:
        return unknown()
    p = successes / trials
    se = math.sqrt(p * (1 - p) / (trials - 1)) if trials > 1 else math.nan
    if freedom < 1:  # a single problem says nothing about others
        return Estimate(p, se, 0.0, 1.0, int(trials))
    z2 = _quantile(level, freedom) ** 2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding is not
    high = 1.0 if successes == trials else centre + half
    return Estimate(p, se, low, high, int(trials))


def _quantile(level: float, freedom: float) -> float:
    """Return the two-sided quantile of Student's t; the normal one where `freedom` is inf."""
    return float(stdtrit(freedom, (1 + level) / 2))


def effective_wilson(
    p: float, errors: Floats, least: float, most: float, level: float = LEVEL
) -> Estimate:
    """Return Wilson's interval of a proportion whose trials come in clusters, the problems.

    `errors` are the problems' first-order parts of the error of p, `[P]`, whose sum is zero; from
    them comes the standard error. The effective sample size is p (1 - p) / se^2, clipped to
    [least, most]; it is `least` where the problems do not differ. The quantile is Student's for
    P - 1 degrees of freedom, because se is estimated. A standard error of 0 or NaN is no knowledge:
    the interval's half width over the normal quantile stands in for it (over Student's it would
    look small where there are few problems).
    """
    n = len(errors)
    se = math.sqrt(n / (n - 1) * float((errors**2).sum())) if n > 1 else math.nan
    equal = not se > _EQUAL
    size = least if equal else min(max(p * (1 - p) / se**2, least), most)
    found = wilson(p * size, size, level, n - 1)
    if equal and n > 1:
        se = (found.high - found.low) / 2 / _quantile(level, math.inf)
    return replace(found, value=p, se=se, clusters=n)


def in_unit_interval(scores: Iterable[float]) -> bool:
    """Return whether all scores lie in [0, 1], so that their mean is a proportion; NaN does not."""
    return all(0.0 <= score <= 1.0 for score in scores)


def proportion(groups: Iterable[Sequence[float]], level: float = LEVEL) -> Estimate:
    """Return avg@k of scores in [0, 1], one group per problem, with `effective_wilson`'s interval.

    The effective sample size lies between the number of problems n (runs of a problem all alike)
    and n k (runs independent); for unequal k, k is their harmonic mean, which is what independent
    runs would be worth to a mean of means.
    """
    groups = [group for group in groups if len(group)]
    sizes = [len(group) for group in groups]
    return mean_share([sum(group) / len(group) for group in groups], sizes, level)


def mean_share(shares: ArrayLike, sizes: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of the shares of problems, each over a number of runs; see `proportion`."""
    each, n = np.asarray(shares, dtype=float), len(np.asarray(sizes))
    if not n:
        return unknown()
    value = min(1.0, max(0.0, float(each.mean())))
    return effective_wilson(value, (each - each.mean()) / n, n, runs_worth(sizes), level)


def runs_worth(sizes: ArrayLike) -> float:
    """Return how many independent runs a mean of means is worth: n times the harmonic mean k."""
    each = np.asarray(sizes, dtype=float)
    return float(len(each) ** 2 / (1 / each).sum())


def share(hits: ArrayLike, trials: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return all hits of all trials, both by problem, with `effective_wilson`'s interval.

    Problems without trials do not count. The standard error is the ratio estimator's, clustered by
    problem. The effective sample size lies between T^2 / sum t^2 (Kish: the trials of a problem all
    alike; the number of problems where all have equally many) and the T trials.
    """
    hit, count = _where_tried(hits, trials)
    if not len(count):
        return unknown()
    p, least, most = float(hit.sum() / count.sum()), kish(count), float(count.sum())
    return effective_wilson(p, ratio_errors(hit, count), min(least, most), max(least, most), level)


def mean_probability(sums: ArrayLike, counts: ArrayLike, level: float = LEVEL) -> Estimate:
    """Return the mean of probabilities that were calculated: their sums and numbers, by problem.

    As `share`, but they vary less than trials, so nothing bounds the effective sample size above.
    """
    part, count = _where_tried(sums, counts)
    if not len(count):
        return unknown()
    p = min(1.0, float(part.sum() / count.sum()))
    return effective_wilson(p, ratio_errors(part, count), kish(count), math.inf, level)


def kish(weights: Floats) -> float:
    """Return Kish's effective number of clusters of unequal weight: (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


# --- differences of proportions ---


def won_minus_lost(differences: ArrayLike, least: float, most: float) -> Estimate:
    """Return the mean of paired differences in [-1, 1], one per problem.

    The mean is the share won (of the positive parts) less the share lost. Each has
    `effective_wilson`'s interval, and their distances to the bounds are joined with the
    correlation of the two (Zou and Donner's MOVER, as in Newcombe 1998 for independent shares).
    So where no problem differs the interval reaches as far as unseen differences might.
    """
    apart = np.asarray(differences, dtype=float)
    n = len(apart)
    if n == 0:
        return unknown()
    value = float(apart.mean())
    if n == 1:
        return Estimate(value, math.nan, -1.0, 1.0, 1)
    parts = np.maximum(apart, 0.0), np.maximum(-apart, 0.0)
    errors = [part - part.mean() for part in parts]
    won, lost = (
        effective_wilson(min(1.0, float(part.mean())), error / n, least, most)
        for part, error in zip(parts, errors, strict=True)
    )
    spread = float(parts[0].std() * parts[1].std())
    rho = float((errors[0] * errors[1]).mean()) / spread if spread > 0 else 0.0  # Pearson's

    def joined(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * rho * a * b + b * b))

    down = joined(won.value - won.low, lost.high - lost.value)
    up = joined(won.high - won.value, lost.value - lost.low)
    se = float(apart.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, se, max(-1.0, value - down), min(1.0, value + up), n)


def rate_difference(table: ArrayLike) -> Estimate:
    """Return the pooled rate of a minus that of b, problems as clusters.

    `table` is `[problems, 4]`: hits and trials of a, hits and trials of b. The interval is
    `won_minus_lost`'s, of the difference plus each problem's first-order part of its error.
    """
    counts = np.asarray(table, dtype=float).reshape(-1, 4)
    counts = counts[(counts[:, 1] > 0) | (counts[:, 3] > 0)]
    hits_a, trials_a, hits_b, trials_b = counts.T
    if not trials_a.sum() or not trials_b.sum():
        return unknown(len(counts))
    value = hits_a.sum() / trials_a.sum() - hits_b.sum() / trials_b.sum()
    errors = ratio_errors(hits_a, trials_a) - ratio_errors(hits_b, trials_b)
    least = min(kish(trials_a), kish(trials_b))
    most = min(trials_a.sum(), trials_b.sum())
    return won_minus_lost(value + len(counts) * errors, least, most)

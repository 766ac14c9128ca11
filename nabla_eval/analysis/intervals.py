"""Estimates and paired differences with intervals.

The unit that is independent is the problem, never the candidate.

Every proportion (accuracy, rejection, failures, pass@k) has Wilson's interval with an effective
sample size, and every difference of two of them the interval made of two such; neither has zero
width at 0 or 100 %. Means of costs have a bootstrap-t interval, ratios of costs a percentile
bootstrap, both over problems; means of anything else Student's t. `reports/coverage.md` says how
often each covers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, stdtrit

from nabla_eval.errors import DataError
from nabla_eval.randomness import Key

LEVEL = 0.95
RESAMPLES = 10_000
_STUDENTISED = 2000  # resamples of a bootstrap-t
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
    level: float = LEVEL

    def excludes(self, number: float = 0.0) -> bool:
        """Return whether the interval lies wholly on one side of a number."""
        return self.low > number or self.high < number

    @property
    def interval(self) -> tuple[float, float]:
        """(low, high)."""
        return self.low, self.high


def unknown(clusters: int = 0, level: float = LEVEL) -> Estimate:
    """The estimate of something about which there are no data."""
    return Estimate(math.nan, math.nan, math.nan, math.nan, clusters, level)


def mean(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of independent numbers with Student's t interval; no interval from a single one.

    Unknown where one of them is no finite number.
    """
    n = len(values)
    array = np.asarray(values, dtype=float)
    if n == 0 or not np.isfinite(array).all():
        return unknown(n, level)
    value = float(array.mean())
    if n == 1:
        return Estimate(value, math.nan, math.nan, math.nan, 1, level)
    se = float(array.std(ddof=1)) / math.sqrt(n)
    half = _quantile(level, n - 1) * se
    return Estimate(value, se, value - half, value + half, n, level)


def clustered_mean(groups: Mapping[str, Sequence[float]], level: float = LEVEL) -> Estimate:
    """avg@k: mean over problems of the mean over a problem's k runs, with a t interval.

    Runs of one problem are correlated, so the standard error is that of the problem means,
    sd / sqrt(problems): for equal k the clustered standard error with its P/(P - 1) correction.
    """
    return mean([sum(group) / len(group) for group in groups.values() if len(group)], level)


def paired(a: Mapping[str, float], b: Mapping[str, float], level: float = LEVEL) -> Estimate:
    """Mean of a - b over problems (of costs, which may be skewed), with `skewed_means`' interval.

    Raises `DataError` when the two do not hold the same problems.
    """
    same_problems(a, b)
    apart = {"a - b": [a[problem] - b[problem] for problem in sorted(a)]}
    return skewed_means(apart, level=level)["a - b"]


def same_problems(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    """Raise `DataError` unless both have the same problems: only then can they be paired."""
    odd = sorted(a.keys() ^ b.keys())
    if odd:
        raise DataError(
            f"The two runs differ in {len(odd)} problems (first: {odd[0]!r}), so they cannot be "
            "paired. Run both with the same tasks and the same --limit."
        )


def wilson(
    successes: float, trials: float, level: float = LEVEL, freedom: float = math.inf
) -> Estimate:
    """Wilson's (1927) score interval of a proportion of independent trials.

    `freedom`: with finite degrees of freedom, Student's t quantile in place of the normal one.
    `se` is the trials' standard deviation (n - 1, as lm-eval has it) over sqrt(trials).
    """
    if trials <= 0:
        return unknown(level=level)
    p = successes / trials
    se = math.sqrt(p * (1 - p) / (trials - 1)) if trials > 1 else math.nan
    if freedom < 1:  # a single problem says nothing about others
        return Estimate(p, se, 0.0, 1.0, int(trials), level)
    z2 = _quantile(level, freedom) ** 2
    centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    low = 0.0 if successes == 0 else centre - half  # exact at the ends, where rounding is not
    high = 1.0 if successes == trials else centre + half
    return Estimate(p, se, low, high, int(trials), level)


def _quantile(level: float, freedom: float) -> float:
    """The two-sided quantile of Student's t; of the normal distribution where `freedom` is inf."""
    return float(stdtrit(freedom, (1 + level) / 2))


def effective_wilson(
    p: float, se: float, clusters: int, least: float, most: float, level: float = LEVEL
) -> Estimate:
    """Wilson's interval of a proportion whose trials come in clusters.

    The effective sample size is p (1 - p) / se^2, clipped to [least, most]; it is `least` where the
    clusters do not differ. The quantile is Student's for clusters - 1 degrees of freedom, because
    se is estimated. A standard error of 0 or NaN is no knowledge: the interval's half width over
    the quantile stands in for it.
    """
    equal = not se > _EQUAL
    size = least if equal else min(max(p * (1 - p) / se**2, least), most)
    found = wilson(p * size, size, level, clusters - 1)
    if equal and clusters > 1:
        se = (found.high - found.low) / 2 / _quantile(level, clusters - 1)
    return replace(found, value=p, se=se if clusters > 1 else math.nan, clusters=clusters)


def in_unit_interval(scores: Iterable[float]) -> bool:
    """Return whether all scores lie in [0, 1], so that their mean is a proportion; NaN does not."""
    return all(0.0 <= score <= 1.0 for score in scores)


def proportion(groups: Iterable[Sequence[float]], level: float = LEVEL) -> Estimate:
    """avg@k of scores in [0, 1], one group per problem, with `effective_wilson`'s interval.

    The effective sample size lies between the number of problems n (runs of a problem all alike)
    and n k (runs independent); for unequal k, k is their harmonic mean, which is what independent
    runs would be worth to a mean of means.
    """
    groups = [group for group in groups if len(group)]
    if not groups:
        return unknown(level=level)
    means = np.array([sum(group) / len(group) for group in groups], dtype=float)
    n, most = len(means), runs_worth(groups)
    se = float(means.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    value = min(1.0, max(0.0, float(means.mean())))
    return effective_wilson(value, se, n, n, most, level)


def runs_worth(groups: Iterable[Sequence[float]]) -> float:
    """n times the harmonic mean of the k: how many independent runs a mean of means is worth."""
    sizes = [len(group) for group in groups]
    return len(sizes) ** 2 / sum(1 / size for size in sizes)


def share(hits: Mapping[str, float], trials: Mapping[str, float], level: float = LEVEL) -> Estimate:
    """Total hits of total trials, both by problem, with `effective_wilson`'s interval.

    Problems without trials do not count. The standard error is the ratio estimator's, clustered by
    problem. The effective sample size lies between T^2 / sum t^2 (Kish: the trials of a problem all
    alike; the number of problems where all have equally many) and the T trials.
    """
    problems = sorted(problem for problem, count in trials.items() if count > 0)
    if not problems:
        return unknown(level=level)
    hit, count = (np.array([float(of[p]) for p in problems]) for of in (hits, trials))
    p, n = float(hit.sum() / count.sum()), len(problems)
    squares = float((ratio_errors(hit, count) ** 2).sum())
    se = math.sqrt(n / (n - 1) * squares) if n > 1 else math.nan
    least, most = kish(count), float(count.sum())
    return effective_wilson(p, se, n, min(least, most), max(least, most), level)


def ratio_errors(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """Return each problem's part of the error of sum(parts) / sum(wholes), first order; `[P]`."""
    total = wholes.sum()
    errors: np.ndarray = (parts - wholes * (parts.sum() / total)) / total
    return errors


def kish(weights: np.ndarray) -> float:
    """Kish's effective number of clusters of unequal weight: (sum w)^2 / sum w^2."""
    return float(weights.sum() ** 2 / (weights**2).sum())


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
        blocks = resampled_weights(n, key, resamples)
        totals = np.concatenate([weights.astype(float) @ table for weights in blocks])
        return from_resamples(value, statistic(totals), n, level)


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


def skewed_means(
    columns: Mapping[str, Sequence[float]], key: Key = _KEY, level: float = LEVEL
) -> dict[str, Estimate]:
    """Means of independent numbers that may be skewed (costs), by name; problems are rows.

    Each end of the interval is the further one of Student's t and of the bootstrap-t, in which
    problems are resampled and each resample is studentised. The t interval alone covers .84 of
    lognormal costs (sigma = 1) at 10 problems, this one .91; see `reports/coverage.md`.
    """
    found = {name: mean(values, level) for name, values in columns.items()}
    n = min((estimate.clusters for estimate in found.values()), default=0)
    if n < 2:
        return found
    table = np.array(list(columns.values()), dtype=float).T
    errors = table - table.mean(axis=0)
    scale = np.maximum(np.abs(errors).max(axis=0), np.finfo(float).tiny)
    errors /= scale  # so that squares of FLOPs neither overflow nor cancel
    drawn_means = [
        (weights @ errors / n, weights @ errors**2 / n)
        for weights in resampled_weights(n, key, _STUDENTISED)
    ]  # block by block: all weights of 4,000 problems at once would take 64 MB
    shift, squares = (np.concatenate(part) for part in zip(*drawn_means, strict=True))
    variance = (squares - shift**2) / (n - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        studentised = np.where(variance > _EQUAL, shift / np.sqrt(variance), np.nan)
    for (name, estimate), drawn in zip(found.items(), studentised.T, strict=True):
        known = drawn[np.isfinite(drawn)]
        if len(known) and estimate.se > 0:
            low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
            found[name] = replace(
                estimate,
                low=min(estimate.low, estimate.value - float(high) * estimate.se),
                high=max(estimate.high, estimate.value - float(low) * estimate.se),
            )
    return found


def ratio(
    numerators: Mapping[str, float],
    denominators: Mapping[str, float],
    key: Key = _KEY,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Estimate:
    """Return total over total, resampling the problems whose denominator is not zero."""
    problems = sorted(problem for problem, total in denominators.items() if total)
    table = np.array([[numerators[p], denominators[p]] for p in problems]).reshape(-1, 2)
    return bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], key, resamples, level)


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
    spread = float(parts[0].std() * parts[1].std())
    both = float(((parts[0] - parts[0].mean()) * (parts[1] - parts[1].mean())).mean())
    rho = both / spread if spread > 0 else 0.0  # Pearson's

    def joined(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * rho * a * b + b * b))

    down = joined(won.value - won.low, lost.high - lost.value)
    up = joined(won.high - won.value, lost.value - lost.low)
    se = float(apart.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, se, max(-1.0, value - down), min(1.0, value + up), n, level)


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

"""Can a printed percentage be right? GRIM, standard errors, and which differences exceed noise.

GRIM (Brown and Heathers 2017): the mean of n x k right-or-wrong answers is a whole number of
n k-ths, so only some percentages can be printed. All arithmetic is exact.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from functools import cache

from scipy.special import ndtr

from nabla_eval.analysis.significance import sign_test
from nabla_eval.errors import DataError

ALPHA = 0.05
DECIMALS = 3  # more than any table prints


@dataclass(frozen=True)
class Grim:
    """How a printed percentage could have come from n problems x k runs, if at all."""

    printed: str
    problems: int
    runs: int
    rounded: tuple[int, ...]  # numbers of right answers that round to it (halves either way)
    cut: tuple[int, ...]  # numbers whose further digits would have to be cut off
    run_means: bool  # whether k runs, each rounded as printed, can have this mean (k > 1)
    below: Fraction  # nearest possible percentages
    above: Fraction

    @property
    def possible(self) -> bool:
        """Whether correct rounding of the pooled answers explains it."""
        return bool(self.rounded)

    @property
    def verdict(self) -> str:
        """In words: possible, or what would have to have happened."""
        if self.rounded:
            return f"{' or '.join(map(str, self.rounded))} of {self.problems * self.runs}"
        ways = []
        if self.cut:
            ways.append(f"{self.cut[0]} of {self.problems * self.runs} cut off")
        if self.run_means:
            ways.append("a mean of rounded runs")
        return f"only as {' or '.join(ways)}" if ways else "not possible"


def grim(printed: str, problems: int, runs: int = 1) -> Grim:
    """Whether a percentage, as printed, can be the mean of n x k right-or-wrong answers.

    Raises `DataError` for what is no percentage, or without problems or runs.
    """
    value, step = _read(printed)
    if problems < 1 or runs < 1:
        raise DataError(
            f"{problems} problems x {runs} runs: both have to be at least 1. Give both."
        )
    total = problems * runs
    scale = Fraction(total, 100)
    low, high = value - step / 2, value + step / 2
    rounded = [c for c in _counts(low, high, scale) if 0 <= c <= total]
    cut = [c for c in _counts(value, value + step, scale) if 0 <= c <= total]
    cut = [c for c in cut if value <= c / scale < value + step]
    nearest = math.floor(value * scale)
    return Grim(
        printed=printed,
        problems=problems,
        runs=runs,
        rounded=tuple(rounded),
        cut=tuple(cut),
        run_means=runs > 1 and _mean_of_rounded(value, step, problems, runs),
        below=Fraction(max(0, nearest)) / scale,
        above=Fraction(min(total, math.ceil(value * scale))) / scale,
    )


def chance_fit(printed: str, problems: int, runs: int = 1) -> Fraction:
    """The share of all percentages with as many decimals that are possible: a fit by luck.

    What GRIM finds possible says little where this is large: a third of all one-decimal
    percentages are possible for 83 x 4 answers, and all of them for 1000. Raises as `grim` does.
    """
    found = grim(printed, problems, runs)
    return _chance_fit(_read(printed)[1], found.problems * found.runs)


@cache
def _chance_fit(step: Fraction, total: int) -> Fraction:
    exact = [Fraction(100 * count, total) / step for count in range(total + 1)]
    half = Fraction(1, 2)  # rounded either way
    possible = {rounded for x in exact for rounded in (math.floor(x + half), math.ceil(x - half))}
    return Fraction(len(possible), int(100 / step) + 1)


def as_many_by_luck(chances: Sequence[float], possible: int) -> float:
    """The probability that at least so many of independent fits succeed, by these chances."""
    counts = [1.0]  # of 0, 1, ... successes
    for chance in chances:
        without, with_one = [*counts, 0.0], [0.0, *counts]
        counts = [a * (1 - chance) + b * chance for a, b in zip(without, with_one, strict=True)]
    return min(1.0, sum(counts[possible:]))


def _read(printed: str) -> tuple[Fraction, Fraction]:
    """A percentage and the step of its last digit."""
    try:
        number = Decimal(printed.strip().rstrip("%").strip())
        exponent = number.as_tuple().exponent
    except InvalidOperation:
        exponent = None
    if not isinstance(exponent, int) or not 0 <= number <= 100 or exponent < -DECIMALS:
        raise DataError(f"{printed!r} is no percentage from 0 to 100. Write it as printed: '71.0'.")
    return Fraction(number), Fraction(10) ** min(exponent, 0)


def _counts(low: Fraction, high: Fraction, scale: Fraction) -> range:
    """Whole numbers of right answers whose percentages lie in [low, high]."""
    return range(math.ceil(low * scale), math.floor(high * scale) + 1)


def _mean_of_rounded(value: Fraction, step: Fraction, problems: int, runs: int) -> bool:
    """Whether k percentages of n problems, each rounded to a step, can have a mean that rounds so.

    Halves are rounded to even or up: whichever fits.
    """
    target = value / step * runs
    reach = Fraction(runs, 2)
    low, high = max(0, math.ceil(target - reach)), math.floor(target + reach)
    return bool(_rounded_sums(step, problems, runs) >> low & (1 << (high - low + 1)) - 1)


@cache
def _rounded_sums(step: Fraction, problems: int, runs: int) -> int:
    """Sums that k percentages of n problems can have, in steps, each rounded to a step.

    A set of bits: bit s is set where s can be the sum. Sets of that size are slow as Python's sets.
    """
    single = set()
    for right in range(problems + 1):
        exact = Fraction(100 * right, problems) / step
        single |= {math.floor(exact + Fraction(1, 2)), round(exact)}
    sums = 1
    for _ in range(runs):
        sums = functools.reduce(operator.or_, (sums << one for one in single))
    return sums


def standard_errors(share: float, problems: int, runs: int = 1) -> tuple[float, float]:
    """Standard errors of avg@k: runs independent over equally hard problems, and runs all alike.

    The truth lies between in practice: problems differ in difficulty, which makes the runs of one
    problem alike. For a single run both are sqrt(p (1 - p) / (n - 1)).
    """
    if problems < 2:
        return math.nan, math.nan
    alike = math.sqrt(share * (1 - share) / (problems - 1))
    if runs == 1:
        return alike, alike
    return math.sqrt(share * (1 - share) / (problems * runs)), alike


@dataclass(frozen=True)
class Noise:
    """What can be said of a difference between two printed percentages on the same problems."""

    points: float  # a - b
    answers: int  # the same, in answers of n x k
    p_unpaired: float  # two-sided, as if all n x k answers of each were independent
    p_alike: float  # the same, as if the k runs of a problem were alike: n answers of each
    p_at_best: float  # exact, if every answer on which they differ went to the higher one
    losses_allowed: int | None  # answers that the lower one may win alone, for p < 0.05; None: none

    @property
    def verdict(self) -> str:
        """In words, for this difference alone."""
        return self.verdict_at(self.p_alike)

    def verdict_at(self, p: float) -> str:
        """In words; `p` is `p_alike` corrected for all the differences of a table."""
        if self.p_at_best >= ALPHA:
            return "noise, however the answers pair"
        if p < ALPHA:
            return "exceeds noise"
        if self.p_unpaired < ALPHA:
            alike = self.p_alike >= ALPHA
            return f"open: not {'if runs are alike' if alike else 'after the correction'}"
        return f"open: only if {self.losses_allowed} or fewer were lost"


def noise(a: str, b: str, problems: int, runs: int = 1) -> Noise:
    """Whether a difference of printed percentages could be chance, without the single answers.

    `p_unpaired` treats all n x k answers as independent, which is generous to the difference where
    runs repeat. `p_alike` takes the k runs of a problem as alike, as greedy's are, and the standard
    error of both under one common accuracy: their design effect 1 + (k - 1) ICC with ICC = 1 leaves
    n answers of the n x k. Nothing printed tells the true ICC, so this decides what exceeds noise.
    `p_at_best` and `losses_allowed` are exact McNemar bounds over all pairings of n x k answers.
    """
    first, second = float(_read(a)[0]) / 100, float(_read(b)[0]) / 100
    total = problems * runs
    gap = round(abs(first - second) * total)
    variance = (first * (1 - first) + second * (1 - second)) / total
    z = abs(first - second) / math.sqrt(variance) if variance else math.inf
    alike = math.sqrt(2) * standard_errors((first + second) / 2, problems, runs)[1]
    lost = 0
    while gap and lost + gap <= total and sign_test(lost + gap, lost) < ALPHA:
        lost += 1
    return Noise(
        points=100 * (first - second),
        answers=gap if first >= second else -gap,
        p_unpaired=1.0 if first == second else min(1.0, 2 * float(ndtr(-z))),
        p_alike=2 * float(ndtr(-abs(first - second) / alike)) if alike > 0 else 1.0,
        p_at_best=sign_test(gap, 0),
        losses_allowed=lost - 1 if lost else None,
    )

"""Rejection rates (the paper's Table 4) and everything they must be compared with (DESIGN 8).

A candidate is a draw that differed from its token and was judged; it is rejected unless its reward
is strictly higher, so ties are rejections, and are counted apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import TypeAlias

import numpy as np

from nabla_eval.analysis.intervals import LEVEL, Estimate, rate_difference, share, unknown
from nabla_eval.analysis.runs import Run
from nabla_eval.errors import ConfigError, DataError
from nabla_eval.outcome import Verdict

Verdicts: TypeAlias = Iterable[tuple[str, Sequence[Verdict]]]  # (problem, one run's verdicts)
Rewards: TypeAlias = Iterable[tuple[str, Sequence[float]]]  # (problem, one run's draft rewards)


@dataclass(frozen=True)
class Rate:
    """A rejection rate: rejected (ties included) of judged candidates."""

    judged: int
    rejected: int
    ties: int
    estimate: Estimate


@dataclass(frozen=True)
class Rejection:
    """Rejection of a run: over all candidates, and over the k-th candidate of each problem."""

    overall: Rate
    by_index: tuple[Rate, ...]

    @property
    def first(self) -> Rate:
        """Rate of the first candidates, which separates methods best (DESIGN 3.7)."""
        return self.by_index[0] if self.by_index else Rate(0, 0, 0, unknown())


@dataclass(frozen=True)
class Process:
    """The best-of-N process measured on drafts: a draft is accepted iff above all before it."""

    with_first: Rate  # the first draft counted, as accepted: to compare with 1 - H_N/N
    challengers: Rate  # from the second draft on: to compare with 1 - (H_N - 1)/(N - 1)


def harmonic(n: int) -> Fraction:
    """H_N = 1 + 1/2 + ... + 1/N."""
    return sum((Fraction(1, k) for k in range(1, n + 1)), Fraction(0))


def first_accepted_baseline(n: int) -> Fraction:
    """1 - H_N/N: expected rejection of N i.i.d. draws, the first counted as accepted.

    The k-th of continuous i.i.d. rewards is the highest so far with probability 1/k.
    """
    if n < 1:
        raise ConfigError(f"n={n} draws have no rejection rate. Give n >= 1.")
    return 1 - harmonic(n) / n


def challengers_baseline(n: int) -> Fraction:
    """1 - (H_N - 1)/(N - 1): the same without the first draw, which nothing could reject."""
    if n < 2:
        raise ConfigError(f"n={n} draws hold no challenger. Give n >= 2.")
    return 1 - (harmonic(n) - 1) / (n - 1)


def verdicts(run: Run) -> list[tuple[str, list[Verdict]]]:
    """Return the problem of each answer that judged candidates, with their verdicts."""
    found: dict[str, tuple[str, list[Verdict]]] = {}
    columns = (run.candidates[name] for name in ("answer", "problem", "verdict"))
    for answer, problem, verdict in zip(*columns, strict=True):
        found.setdefault(answer, (problem, []))[1].append(verdict)
    return list(found.values())


def draft_rewards(run: Run) -> list[tuple[str, list[float]]]:
    """Return the problem of each answer with its drafts' rewards.

    Raises `DataError` where a draft was never scored.
    """
    found = list(zip(run.answers["problem"], run.answers["draft_rewards"], strict=True))
    for problem, rewards in found:
        if None in rewards:
            raise DataError(
                f"{problem}: {run.method} did not score its drafts, so they have no best-of-N "
                "process. Use a run of best_of_n."
            )
    return found


def rejection(runs: Verdicts, level: float = LEVEL) -> Rejection:
    """Rejection rates of (problem, verdicts) pairs, with intervals over problems."""
    runs = list(runs)
    ranks = zip_longest(*(sequence for _, sequence in runs))
    by_index = tuple(
        _rate(
            [(name, [v]) for (name, _), v in zip(runs, rank, strict=True) if v is not None], level
        )
        for rank in ranks
    )
    return Rejection(_rate(runs, level), by_index)


def best_of_n_process(runs: Rewards, level: float = LEVEL) -> Process:
    """Return what i.i.d. draws do under the acceptance rule, measured on (problem, draft
    rewards).
    """
    judged = [(problem, draft_verdicts(rewards)) for problem, rewards in runs]
    return Process(
        _rate(judged, level), _rate([(problem, found[1:]) for problem, found in judged], level)
    )


def draft_verdicts(rewards: Sequence[float]) -> list[Verdict]:
    """Verdict on each draft against the highest reward before it; the first is accepted."""
    found: list[Verdict] = []
    for i, reward in enumerate(rewards):
        bar = max(rewards[:i], default=None)
        if bar is None or reward > bar:
            found.append("accepted")
        else:
            found.append("tie" if reward == bar else "rejected")
    return found


def rejection_difference(a: Verdicts, b: Verdicts, level: float = LEVEL) -> Estimate:
    """Rejection rate of a minus that of b, paired by problem."""
    counts_a, counts_b = _counts(a), _counts(b)
    problems = sorted(counts_a.keys() | counts_b.keys())
    rows = [[*counts_a.get(p, (0, 0))[:2], *counts_b.get(p, (0, 0))[:2]] for p in problems]
    return rate_difference(np.array(rows, dtype=float), level)


def _rate(runs: Verdicts, level: float) -> Rate:
    """Rate of pooled candidates with an interval over problems."""
    counts = _counts(runs)
    rejected = {problem: count[0] for problem, count in counts.items()}
    judged = {problem: count[1] for problem, count in counts.items()}
    return Rate(
        judged=sum(judged.values()),
        rejected=sum(rejected.values()),
        ties=sum(count[2] for count in counts.values()),
        estimate=share(rejected, judged, level=level),
    )


def _counts(runs: Verdicts) -> Mapping[str, tuple[int, int, int]]:
    """(rejected, judged, ties) by problem."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for problem, sequence in runs:
        for verdict in sequence:
            totals[problem][0] += verdict != "accepted"
            totals[problem][1] += 1
            totals[problem][2] += verdict == "tie"
    return {problem: (r, j, t) for problem, (r, j, t) in totals.items()}

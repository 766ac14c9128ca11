"""The fate of candidates: rejection rates with their baselines, acceptance by feature, gains.

A candidate is a draw that differed from its token and was judged; it is rejected unless its reward
is strictly higher, so ties are rejections, and are counted apart (the paper's Table 4, DESIGN 8).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from nabla_eval.analysis.frames import share_of, totals
from nabla_eval.analysis.intervals import (
    Estimate,
    mean,
    mean_share,
    rate_difference,
    unknown,
)
from nabla_eval.analysis.runs import Run
from nabla_eval.errors import ConfigError, DataError
from nabla_eval.outcome import Verdict

if TYPE_CHECKING:
    from pandas import DataFrame, Series

FEATURES = ("position", "entropy", "gradient_norm", "sweep")


@dataclass(frozen=True)
class Rate:
    """A rejection rate: rejected (ties included) of judged candidates."""

    judged: int
    rejected: int
    ties: int
    estimate: Estimate


@dataclass(frozen=True)
class Rejection:
    """Rejection over all candidates, and over the k-th candidates of all answers."""

    overall: Rate
    by_index: tuple[Rate, ...]

    @property
    def first(self) -> Rate:
        """Rate of the first candidates, which separates methods best (DESIGN 3.7)."""
        return self.by_index[0] if self.by_index else Rate(0, 0, 0, unknown())


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


def judged(sequences: Iterable[tuple[str, Iterable[Verdict]]]) -> DataFrame:
    """Return (problem, verdicts of one answer) pairs as a frame like `Run.candidates`."""
    from pandas import DataFrame

    rows = [
        (problem, nth, verdict)
        for problem, verdicts in sequences
        for nth, verdict in enumerate(verdicts, start=1)
    ]
    return DataFrame(rows, columns=["problem", "nth", "verdict"])


def rejection(candidates: DataFrame) -> Rejection:
    """Return rejection rates with intervals over problems; see `frames` for the columns."""
    nth = candidates["nth"]
    most = int(nth.max()) if len(candidates) else 0
    by_index = (rate(candidates[nth == k]) for k in range(1, most + 1))
    return Rejection(rate(candidates), tuple(by_index))


def rate(candidates: DataFrame) -> Rate:
    """Return the rejection rate of pooled candidates, problems as clusters."""
    rejected = candidates["verdict"] != "accepted"
    return Rate(
        judged=len(candidates),
        rejected=int(rejected.sum()),
        ties=int((candidates["verdict"] == "tie").sum()),
        estimate=share_of(candidates, rejected),
    )


def rejection_difference(a: DataFrame, b: DataFrame) -> Estimate:
    """Return the rejection rate of a minus that of b, paired by problem."""
    from pandas import concat

    of_a = np.repeat([True, False], [len(a), len(b)])
    both = concat([a, b])
    rejected = both["verdict"] != "accepted"
    table = totals(both, rejected & of_a, of_a, rejected & ~of_a, ~of_a)
    return rate_difference(np.stack(table, axis=1))


def iid_process(runs: Iterable[tuple[str, Sequence[float | None]]]) -> DataFrame:
    """Return what best-of-N's drafts do under the acceptance rule, from (problem, draft rewards).

    A draft is accepted if and only if its reward is above all before it, the first one always: all
    compare with 1 - H_N/N, those with `nth` above 1 with 1 - (H_N - 1)/(N - 1). Raises `DataError`
    where a draft was never scored.
    """
    found = []
    for problem, rewards in runs:
        if None in rewards:
            raise DataError(
                f"{problem}: its drafts were not all scored, so they have no best-of-N process. "
                "Use a run of best_of_n."
            )
        found.append((problem, draft_verdicts([r for r in rewards if r is not None])))
    return judged(found)


def draft_verdicts(rewards: Sequence[float]) -> list[Verdict]:
    """Return the verdict on each draft against the highest reward before it."""
    found: list[Verdict] = []
    for i, reward in enumerate(rewards):
        bar = max(rewards[:i], default=None)
        if bar is None or reward > bar:
            found.append("accepted")
        else:
            found.append("tie" if reward == bar else "rejected")
    return found


@dataclass(frozen=True)
class Bin:
    """Rows whose number lies in [low, high) (the last bin: [low, high])."""

    low: float
    high: float
    rows: int
    hits: int
    share: Estimate


def bin_edges(frames: Iterable[DataFrame], name: str, bins: int) -> list[float]:
    """Return edges that part the rows of all frames into about equally many per bin.

    The same edges serve all of them, so that their bins can be compared. Fewer bins where many rows
    share a number; no edges without rows.
    """
    values = np.concatenate([frame[name].dropna().to_numpy(float) for frame in frames])
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1), method="higher"))
    return [float(edge) for edge in edges] if len(edges) > 1 else [float(edges[0])] * 2


def in_bins(frame: DataFrame, name: str, hits: Series[bool], edges: Sequence[float]) -> list[Bin]:
    """Return the share of hits among the rows of each bin, problems as clusters."""
    values = frame[name].to_numpy(float)
    places = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
    places[np.isnan(values)] = -1
    found = []
    for place, (low, high) in enumerate(pairwise(edges)):
        own, hit = frame[places == place], hits[places == place]
        found.append(Bin(low, high, len(own), int(hit.sum()), share_of(own, hit)))
    return found


@dataclass(frozen=True)
class Gain:
    """Reward of the candidate minus that of what it would replace."""

    candidates: int
    mean: Estimate  # of all candidates, averaged within problems first
    accepted: Estimate  # of the accepted ones
    positive: Estimate  # share of problems' candidates that gain
    final: Estimate  # reward of the answer minus that of the first draft, all problems


def gains(candidates: DataFrame) -> DataFrame:
    """Return the candidates with a column `gain`: their reward minus that of the response."""
    return candidates.assign(gain=candidates["new_reward"] - candidates["old_reward"])


def gain(run: Run) -> Gain:
    """Return the reward gain per candidate and per problem, problems as clusters."""
    every = gains(run.candidates)
    own = every.groupby("problem")["gain"]
    positive = (every["gain"] > 0).groupby(every["problem"]).mean()
    won = every[every["verdict"] == "accepted"].groupby("problem")["gain"]
    final = run.answers.assign(gain=run.answers["reward"] - run.answers["first_reward"])
    return Gain(
        candidates=len(every),
        mean=mean(own.mean()),
        accepted=mean(won.mean()),
        positive=mean_share(positive, own.size()),
        final=mean(final.dropna(subset="gain").groupby("problem")["gain"].mean()),
    )

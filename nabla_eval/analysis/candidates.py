"""The fate of candidates: acceptance by position, entropy and gradient norm; reward gain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from nabla_eval.analysis.frames import by_problem, sums
from nabla_eval.analysis.intervals import LEVEL, Estimate, clustered_mean, proportion, share
from nabla_eval.analysis.runs import Run

if TYPE_CHECKING:
    from pandas import DataFrame

Feature: TypeAlias = Literal["position", "entropy", "gradient_norm", "sweep"]
FEATURES: tuple[Feature, ...] = ("position", "entropy", "gradient_norm", "sweep")


@dataclass(frozen=True)
class Bin:
    """Candidates whose feature lies in [low, high) (the last bin: [low, high])."""

    low: float
    high: float
    candidates: int
    accepted: int
    acceptance: Estimate


def bin_edges(candidates: Iterable[DataFrame], name: Feature, bins: int = 5) -> list[float]:
    """Return edges that part the candidates of all runs into about equally many per bin.

    The same edges serve all runs, so that their bins can be compared. Fewer bins where many
    candidates share a value; no edges without candidates.
    """
    values = np.concatenate([frame[name].dropna().to_numpy(float) for frame in candidates])
    return quantile_edges(values, bins)


def quantile_edges(values: np.ndarray, bins: int) -> list[float]:
    """Return the edges of bins with about equally many values; at least one bin, if any value."""
    if not len(values):
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1), method="higher"))
    return [float(edge) for edge in edges] if len(edges) > 1 else [float(edges[0])] * 2


def bin_places(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Return the bin that each value lies in."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def acceptance(
    candidates: DataFrame, name: Feature, edges: Sequence[float], level: float = LEVEL
) -> list[Bin]:
    """Return the share of accepted candidates in each bin of a feature, problems as clusters."""
    known = candidates[candidates[name].notna()]
    places = bin_places(known[name].to_numpy(float), edges)
    found = []
    for place, (low, high) in enumerate(pairwise(edges)):
        own = known[places == place]
        accepted = sums(own, own["verdict"] == "accepted")
        judged = sums(own, [1.0] * len(own))
        count = int(sum(accepted.values()))
        found.append(Bin(low, high, len(own), count, share(accepted, judged, level)))
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


def gain(run: Run, level: float = LEVEL) -> Gain:
    """Return the reward gain per candidate and per problem, problems as clusters."""
    judged = gains(run.candidates)
    every = by_problem(judged, "gain")
    won = by_problem(judged[judged["verdict"] == "accepted"], "gain")
    signs = [[float(value > 0) for value in group] for group in every.values()]
    final = run.answers.assign(gain=run.answers["reward"] - run.answers["first_reward"])
    return Gain(
        candidates=len(judged),
        mean=clustered_mean(every, level),
        accepted=clustered_mean(won, level),
        positive=proportion(signs, level),
        final=clustered_mean(by_problem(final[final["gain"].notna()], "gain"), level),
    )

"""What becomes of candidates: acceptance by position, entropy and gradient norm; reward gain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from nabla_eval.analysis.intervals import LEVEL, Estimate, clustered_mean, proportion, share
from nabla_eval.traces.schema import CandidateRecord, Record, document

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


def feature(candidate: CandidateRecord, name: Feature) -> float | None:
    """A feature's value; None where the run took no gradient."""
    value = candidate[name]
    return None if value is None else float(value)


def bin_edges(runs: Iterable[Iterable[Record]], name: Feature, bins: int = 5) -> list[float]:
    """Edges that part the candidates of all runs into about equally many per bin.

    The same edges serve all runs, so that their bins can be compared. Fewer bins where many
    candidates share a value; no edges without candidates.
    """
    values = [
        value
        for records in runs
        for record in records
        for candidate in record["candidates"]
        if (value := feature(candidate, name)) is not None
    ]
    if not values:
        return []
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1), method="higher"))
    return [float(edge) for edge in edges] if len(edges) > 1 else [float(edges[0])] * 2


def acceptance(
    records: Iterable[Record], name: Feature, edges: Sequence[float], level: float = LEVEL
) -> list[Bin]:
    """Share of accepted candidates in each bin of a feature, problems as clusters."""
    accepted: list[dict[str, int]] = [defaultdict(int) for _ in edges[1:]]
    judged: list[dict[str, int]] = [defaultdict(int) for _ in edges[1:]]
    for record in records:
        problem = document(record["id"])
        for candidate in record["candidates"]:
            value = feature(candidate, name)
            if value is None:
                continue
            place = min(int(np.searchsorted(edges, value, side="right")) - 1, len(judged) - 1)
            judged[place][problem] += 1
            accepted[place][problem] += candidate["verdict"] == "accepted"
    return [
        Bin(low, high, sum(j.values()), sum(a.values()), share(a, j, level))
        for (low, high), a, j in zip(pairwise(edges), accepted, judged, strict=True)
    ]


@dataclass(frozen=True)
class Gain:
    """Reward of the candidate minus that of what it would replace."""

    candidates: int
    mean: Estimate  # of all candidates, averaged within problems first
    accepted: Estimate  # of the accepted ones
    positive: Estimate  # share of problems' candidates that gain
    final: Estimate  # reward of the answer minus that of the first draft, all problems
    gains: tuple[float, ...]  # one per candidate, for a histogram


def gain(records: Sequence[Record], level: float = LEVEL) -> Gain:
    """Reward gain per candidate and per problem, problems as clusters."""
    gains = _gains(records, lambda candidate: True)
    won = _gains(records, lambda candidate: candidate["verdict"] == "accepted")
    signs = {p: [float(value > 0) for value in group] for p, group in gains.items()}
    final: dict[str, list[float]] = defaultdict(list)
    for record in records:
        first = record["drafts"][0]["reward"] if record["drafts"] else None
        last = record["outcome"]["reward"]
        if first is not None and last is not None:
            final[document(record["id"])].append(last - first)
    return Gain(
        candidates=sum(map(len, gains.values())),
        mean=clustered_mean(gains, level),
        accepted=clustered_mean(won, level),
        positive=proportion(signs.values(), level),
        final=clustered_mean(final, level),
        gains=tuple(value for group in gains.values() for value in group),
    )


def _gains(
    records: Iterable[Record], wanted: Callable[[CandidateRecord], bool]
) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        for candidate in record["candidates"]:
            if wanted(candidate):
                change = candidate["new_reward"] - candidate["old_reward"]
                found[document(record["id"])].append(change)
    return dict(found)

"""What a run cost per problem, and what a correct answer cost (the paper's Fig. 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from nabla_eval.analysis.accuracy import Scores, accuracy
from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    bootstrap,
    same_problems,
    skewed_means,
)
from nabla_eval.traces.schema import Record, document

COSTS = (
    "model_calls",
    "generated_tokens",
    "gradient_passes",
    "scorings",
    "prefix_scorings",
    "prefix_gradients",
    "flops",
    "seconds",
)
_LATER = {"prefix_scorings", "prefix_gradients"}  # which older traces have none of


def by_problem(records: Iterable[Record], cost: str) -> dict[str, list[float]]:
    """One of `COSTS` (or any entry of the ledger) for every run of every problem."""
    found: dict[str, list[float]] = defaultdict(list)
    for record in records:
        ledger = {**dict.fromkeys(_LATER, 0.0), **record["ledger"]}
        value = record["seconds"] if cost == "seconds" else ledger[cost]
        found[document(record["id"])].append(float(value))
    return dict(found)


def costs(records: Sequence[Record], level: float = LEVEL) -> dict[str, Estimate]:
    """Mean per problem of each of `COSTS`, with `skewed_means`' interval over problems."""
    return skewed_means({cost: list(_means(records, cost).values()) for cost in COSTS}, level=level)


def correct_per_cost(
    scores: Scores, records: Sequence[Record], cost: str = "model_calls", level: float = LEVEL
) -> Estimate:
    """Expected correct answers per unit of cost: accuracy over mean cost, problems resampled.

    Where no problem's score differs there is no spread of accuracy to resample: then the bounds are
    accuracy's over those of the mean cost. Raises `DataError` when scores and records do not hold
    the same problems.
    """
    spent = _means(records, cost)
    same_problems(scores, spent)
    right = {problem: sum(group) / len(group) for problem, group in scores.items()}
    table = np.array([[right[p], spent[p]] for p in sorted(scores)], dtype=float).reshape(-1, 2)
    found = bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], level=level)
    if len(set(right.values())) != 1 or min(spent.values()) <= 0:
        return found
    share, price = accuracy(scores, level), skewed_means({cost: list(spent.values())}, level=level)
    least = max(min(spent.values()), price[cost].low)  # t's lower end may lie below every cost
    return replace(found, low=share.low / price[cost].high, high=share.high / least)


def _means(records: Iterable[Record], cost: str) -> dict[str, float]:
    """One of `COSTS` by problem, as the mean of its runs."""
    return {p: sum(group) / len(group) for p, group in by_problem(records, cost).items()}


def cost_ratio(
    a: Sequence[Record], b: Sequence[Record], cost: str = "model_calls", level: float = LEVEL
) -> Estimate:
    """Mean cost of a over mean cost of b on the same problems, which are resampled together.

    Raises `DataError` when the two do not hold the same problems.
    """
    ours, theirs = _means(a, cost), _means(b, cost)
    same_problems(ours, theirs)
    table = np.array([[ours[p], theirs[p]] for p in sorted(ours)], dtype=float).reshape(-1, 2)
    return bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], level=level)

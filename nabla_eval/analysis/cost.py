"""What a run cost per problem, and what a correct answer cost (the paper's Fig. 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from nabla_eval.analysis.accuracy import Scores
from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    bootstrap,
    clustered_mean,
    same_problems,
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
    """Mean per problem of each of `COSTS`, with a t interval over problems."""
    return {cost: clustered_mean(by_problem(records, cost), level) for cost in COSTS}


def correct_per_cost(
    scores: Scores, records: Sequence[Record], cost: str = "model_calls", level: float = LEVEL
) -> Estimate:
    """Expected correct answers per unit of cost: accuracy over mean cost, problems resampled.

    Raises `DataError` when scores and records do not hold the same problems.
    """
    spent = by_problem(records, cost)
    same_problems(scores, spent)
    rows = [
        [sum(scores[p]) / len(scores[p]), sum(spent[p]) / len(spent[p])] for p in sorted(scores)
    ]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], level=level)


def cost_ratio(
    a: Sequence[Record], b: Sequence[Record], cost: str = "model_calls", level: float = LEVEL
) -> Estimate:
    """Mean cost of a over mean cost of b on the same problems, which are resampled together.

    Raises `DataError` when the two do not hold the same problems.
    """
    ours, theirs = by_problem(a, cost), by_problem(b, cost)
    same_problems(ours, theirs)
    rows = [[sum(ours[p]) / len(ours[p]), sum(theirs[p]) / len(theirs[p])] for p in sorted(ours)]
    table = np.array(rows, dtype=float).reshape(-1, 2)
    return bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], level=level)

"""Accuracy, and paired differences in accuracy on the same problems."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    clustered_mean,
    paired,
    same_problems,
    wilson,
)
from nabla_eval.errors import DataError

Scores: TypeAlias = Mapping[str, Sequence[float]]  # problem -> the score of each of its runs


@dataclass(frozen=True)
class Difference:
    """a - b, paired by problem."""

    estimate: Estimate
    wins: int  # problems on which a scored higher
    losses: int
    ties: int


def scores_of(
    task: str, samples: Iterable[Mapping[str, Any]], metric: str = "exact_match"
) -> dict[str, list[float]]:
    """Scores by problem (task/document) of lm-eval's logged samples of one task.

    Where the task has several filters, the first one's scores are taken. Raises `DataError` where
    a sample lacks the metric.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    first = None
    for sample in samples:
        if metric not in sample:
            raise DataError(
                f"A sample of {task} has no metric {metric!r}; it has "
                f"{', '.join(map(str, sample.get('metrics', sample)))}. Name one of these."
            )
        first = sample.get("filter") if first is None else first
        if sample.get("filter") == first:
            scores[f"{task}/{sample['doc_id']}"].append(float(sample[metric]))
    return dict(scores)


def accuracy(scores: Scores, level: float = LEVEL) -> Estimate:
    """avg@k with its clustered standard error.

    The interval is Student's t over problems; with one right-or-wrong run per problem it is
    Wilson's, which stays honest for few problems and near 0 and 1.
    """
    runs = [run for group in scores.values() for run in group]
    if all(len(group) == 1 for group in scores.values()) and set(runs) <= {0.0, 1.0}:
        return wilson(sum(runs), len(runs), level)
    return clustered_mean(scores, level)


def difference(a: Scores, b: Scores, level: float = LEVEL) -> Difference:
    """Accuracy of a minus accuracy of b on the same problems, with a t interval of differences.

    Where no problem differs at all the t interval would have no width; then it is plus and minus
    Wilson's upper bound on the share of problems that could differ.
    """
    same_problems(a, b)
    mean_a = {problem: sum(group) / len(group) for problem, group in a.items()}
    mean_b = {problem: sum(group) / len(group) for problem, group in b.items()}
    estimate = paired(mean_a, mean_b, level)
    wins = sum(mean_a[p] > mean_b[p] for p in mean_a)
    losses = sum(mean_a[p] < mean_b[p] for p in mean_a)
    if not wins and not losses:
        bound = wilson(0, len(mean_a), level).high
        estimate = replace(estimate, low=-bound, high=bound)
    return Difference(estimate, wins, losses, len(mean_a) - wins - losses)

"""Accuracy, and paired differences in accuracy on the same problems."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
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
from nabla_eval.analysis.significance import sign_flip_test
from nabla_eval.errors import DataError

Scores: TypeAlias = Mapping[str, Sequence[float]]  # problem -> the score of each of its runs


@dataclass(frozen=True)
class Difference:
    """a - b, paired by problem."""

    estimate: Estimate
    wins: int  # problems on which a scored higher
    losses: int
    ties: int
    p: float  # exact sign-flip test, McNemar's for one right-or-wrong run per problem


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
            scores[f"{task}/{sample['doc_id']}"].append(_number(task, metric, sample))
    return dict(scores)


def _number(task: str, metric: str, sample: Mapping[str, Any]) -> float:
    value = sample[metric]
    if not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(
            f"Sample {sample['doc_id']} of {task} has {metric}={value!r}, which is no finite "
            "number. Choose another --metric."
        )
    return float(value)


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
    p = sign_flip_test([mean_a[problem] - mean_b[problem] for problem in sorted(mean_a)])
    return Difference(estimate, wins, losses, len(mean_a) - wins - losses, p)


def pass_at_k(right: int, answers: int, k: int) -> float:
    """Probability that one of k of the answers is right: 1 - C(n - c, k)/C(n, k).

    Unbiased for k fresh answers (Chen et al. 2021, Eq. 1). Raises `DataError` for fewer than k.
    """
    if answers < k or k < 1:
        raise DataError(f"pass@{k} needs {k} answers to each problem, got {answers}. Run more.")
    return 1 - math.comb(answers - right, k) / math.comb(answers, k)


def pass_at(scores: Scores, repeats: int, k: int, level: float = LEVEL) -> Estimate:
    """pass@k over problems, with a t interval, from the scores of `repeats` answers to each.

    Raises `DataError` where the answers are not right or wrong, or fewer than k.
    """
    values = []
    for problem, group in scores.items():
        right = sum(group) / len(group) * repeats  # a score may be the mean of several answers
        if abs(right - round(right)) > 1e-6:
            raise DataError(
                f"{problem} is graded in parts, and pass@{k} needs right or wrong. Choose another "
                "--metric."
            )
        values.append(pass_at_k(round(right), repeats, k))
    return _proportion(values, level)


def majority(votes: Sequence[tuple[Hashable | None, float]]) -> float:
    """Score of the most frequent answer among (answer, score) pairs; None does not vote.

    Among equally frequent answers one is chosen at random: the value is the expectation.
    """
    counts = Counter(answer for answer, _ in votes if answer is not None)
    if not counts:
        return sum(score for _, score in votes) / len(votes) if votes else math.nan
    most = max(counts.values())
    # Tied groups have one size, so that the mean over groups is the mean over their members.
    winners = [score for answer, score in votes if answer is not None and counts[answer] == most]
    return math.fsum(winners) / len(winners)


def _proportion(values: Sequence[float], level: float) -> Estimate:
    return accuracy({str(i): [value] for i, value in enumerate(values)}, level)

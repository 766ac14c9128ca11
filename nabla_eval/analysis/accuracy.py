"""Accuracy, majority votes, and paired differences in accuracy on the same problems."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from nabla_eval.analysis.frames import means
from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    in_unit_interval,
    mean,
    proportion,
    runs_worth,
    same_problems,
    won_minus_lost,
)
from nabla_eval.analysis.runs import Run, Scores
from nabla_eval.analysis.significance import sign_flip_test
from nabla_eval.errors import DataError
from nabla_eval.grading import cluster, extract
from nabla_eval.thought import answered


@dataclass(frozen=True)
class Difference:
    """a - b, paired by problem."""

    estimate: Estimate
    wins: int | None  # problems on which a scored higher; None where a side is a mixture of runs
    losses: int | None
    p: float  # exact sign-flip test, McNemar's for one right-or-wrong run per problem


class MeanInterval(NamedTuple):
    """A mean of scores with its interval over problems."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[Sequence[float]], level: float = LEVEL) -> MeanInterval:
    """Mean score over problems with an interval that is honest for few problems and at 0 and 1.

    `values` holds one list per problem: the scores of its runs, each in [0, 1]. Lists may differ in
    length; the mean is that of the problems' means (avg@k), the interval `proportion`'s. A single
    problem gives [0, 1]. Raises `DataError` for no problems, no scores or others than these.
    """
    checked = [_checked(place, group) for place, group in enumerate(values)]
    if not checked:
        raise DataError("There are no values. Give one list of scores per problem: [[1, 0], [1]].")
    found = proportion(checked, level)
    return MeanInterval(found.value, found.low, found.high)


def _checked(place: int, group: Sequence[float]) -> list[float]:
    try:
        scores = [float(score) for score in group]
    except (TypeError, ValueError):
        scores = []
    if not scores or not in_unit_interval(scores):
        raise DataError(
            f"values[{place}] is {group!r}. Give each problem a list of one or more scores from 0 "
            "to 1: [[1, 0], [1]]."
        )
    return scores


def accuracy(scores: Scores) -> Estimate:
    """avg@k with its clustered standard error.

    The interval is that of a proportion, which stays honest for few problems and near 0 and 1;
    scores of another scale than [0, 1] have a t interval over problems.
    """
    if all(in_unit_interval(group) for group in scores.values()):
        return proportion(scores.values())
    return mean(list(means(scores).values()))


def difference(a: Scores, b: Scores) -> Difference:
    """Accuracy of a minus accuracy of b on the same problems, with the interval of a difference.

    Scores of another scale than [0, 1] have a t interval of the problems' differences.
    """
    same_problems(a, b)
    ours, theirs = means(a), means(b)
    apart = [ours[problem] - theirs[problem] for problem in sorted(a)]
    shares = all(in_unit_interval(group) for side in (a, b) for group in side.values())
    most = (
        min(runs_worth([*map(len, side.values())]) for side in (a, b)) if shares and apart else 0.0
    )
    wins, losses = sum(gap > 0 for gap in apart), sum(gap < 0 for gap in apart)
    return Difference(
        estimate=won_minus_lost(apart, len(apart), most) if shares else mean(apart),
        wins=wins,
        losses=losses,
        p=sign_flip_test(apart),
    )


def pass_at_k(right: int, answers: int, k: int) -> float:
    """Probability that one of k of the answers is right: 1 - C(n - c, k)/C(n, k).

    Unbiased for k fresh answers (Chen et al. 2021, Eq. 1). Raises `DataError` for fewer than k.
    """
    if answers < k or k < 1:
        raise DataError(f"pass@{k} needs {k} answers to each problem, got {answers}. Run more.")
    return 1 - math.comb(answers - right, k) / math.comb(answers, k)


def pass_at(scores: Scores, k: int) -> Estimate:
    """pass@k over problems, a proportion, from the scores of the answers to each.

    Answers that were graded together may each have their mean.

    Raises `DataError` where the answers are not right or wrong, or fewer than k.
    """
    values = []
    for problem, group in scores.items():
        right = sum(group)
        if abs(right - round(right)) > 1e-6:
            raise DataError(
                f"{problem} is graded in parts, and pass@{k} needs right or wrong. Choose another "
                "--metric."
            )
        # The overlapping sets of k answers are worth at most as many as do not overlap.
        values.append([pass_at_k(round(right), len(group), k)] * max(1, len(group) // k))
    return proportion(values)


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


def majority_accuracy(run: Run) -> Estimate | None:
    """Return maj@k: accuracy of the most frequent of a problem's k answers.

    The task's own figure where it reports one for all of them. None with a single answer a problem,
    and where the single scores are not known.
    """
    if run.repeats < 2:
        return None
    reported = run.metrics.get(f"maj@{run.repeats}")
    if reported is not None and len(run.seeds) <= 1:
        return accuracy(reported)
    if run.answers["score"].isna().any():
        return None
    given = defaultdict(list)
    columns = (run.answers[name] for name in ("problem", "prompt", "text", "score"))
    for problem, prompt, text, score in zip(*columns, strict=True):
        given[problem].append((extract(answered(prompt, text)), score))
    values = {}
    for problem, pairs in given.items():
        groups = cluster([answer for answer, _ in pairs])
        names = [None if number < 0 else number for number in groups]
        values[problem] = [majority([(n, s) for n, (_, s) in zip(names, pairs, strict=True)])]
    return accuracy(values)

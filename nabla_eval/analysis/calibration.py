"""Does the reward know what is right? AUC over all answers, and within each question.

A reward model may only have learned how hard a question is: then the pooled AUC is high, the
within-question AUC is 0.5, and best-of-N gains nothing (DESIGN 10).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from nabla_eval.analysis.candidates import Bin, bin_edges, in_bins
from nabla_eval.analysis.frames import grouped
from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    effective_wilson,
    resampled_weights,
    share,
    unknown,
)
from nabla_eval.analysis.runs import Run
from nabla_eval.thought import answered
from nabla_eval.traces.keep import whole

Answer: TypeAlias = tuple[str, float, bool]  # problem, reward, right
# (lm-eval's doc and target, response) -> is it right?
Grade: TypeAlias = Callable[[Mapping[str, Any], str], bool]
_RESAMPLES = 2000


def final_answers(run: Run) -> list[Answer]:
    """Return (problem, reward, right) of every answer whose reward and score are known."""
    answers = run.answers
    if answers["score"].isna().any():
        return []
    known = answers[answers["reward"].notna()]
    return list(zip(known["problem"], known["reward"], known["score"] >= 0.5, strict=True))


def drafted_answers(run: Run, grade: Grade) -> list[Answer]:
    """Return (problem, reward, right) of every scored draft, graded now, each text once."""
    known: dict[tuple[str, str], bool] = {}
    found = []
    for problem, rows in grouped(run.answers, "prompt", "record").items():
        for prompt, record in rows:
            for draft in whole(record)["drafts"]:
                if draft["reward"] is None:
                    continue
                text = (problem, draft["text"])
                if text not in known:
                    known[text] = grade(run.docs[problem], answered(prompt, draft["text"]))
                found.append((problem, draft["reward"], known[text]))
    return found


@dataclass(frozen=True)
class Calibration:
    """How well rewards tell right answers from wrong ones; chance is 0.5 for both AUCs."""

    problems: int
    answers: int
    right: int
    pooled: Estimate  # over all pairs of a right and a wrong answer
    within: Estimate  # over the pairs that answer the same question
    pairs: int  # of the latter


def calibration(answers: Iterable[Answer], level: float = LEVEL) -> Calibration:
    """Return both AUCs with intervals over problems; equal rewards count half.

    An AUC is the share of pairs in which the right answer has the higher reward, so its interval is
    a proportion's, which an AUC of 1 on few problems needs. The effective sample size is at most
    the number of pairs. At the least it is, within questions, the number of questions with pairs
    (Kish's, which weighs them); pooled, the number of problems that have the rarer verdict.
    """
    found = list(answers)
    groups: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for problem, reward, right in found:
        groups[problem].append((reward, right))
    pairs = {problem: _pairs(group) for problem, group in groups.items()}
    return Calibration(
        problems=len(groups),
        answers=len(found),
        right=sum(right for _, _, right in found),
        pooled=_pooled_auc(groups, level),
        within=share(
            {problem: concordant for problem, (concordant, _) in pairs.items()},
            {problem: count for problem, (_, count) in pairs.items()},
            level,
        ),
        pairs=sum(count for _, count in pairs.values()),
    )


def auc(rewards: Sequence[float], right: Sequence[bool]) -> float:
    """Probability that a right answer has the higher reward; NaN without both kinds."""
    concordant, count = _pairs(list(zip(rewards, right, strict=True)))
    return concordant / count if count else float("nan")


def _pairs(group: Sequence[tuple[float, bool]]) -> tuple[float, int]:
    """(pairs in which the right answer has the higher reward, all pairs of right and wrong)."""
    good = np.array([reward for reward, right in group if right])
    bad = np.sort([reward for reward, right in group if not right])
    below = np.searchsorted(bad, good, side="left")
    level = np.searchsorted(bad, good, side="right") - below
    return float(below.sum() + level.sum() / 2), len(good) * len(bad)


def _pooled_auc(groups: dict[str, list[tuple[float, bool]]], level: float) -> Estimate:
    rows = [(r, right, i) for i, p in enumerate(sorted(groups)) for r, right in groups[p]]
    rewards = np.array([row[0] for row in rows])
    right = np.array([row[1] for row in rows], dtype=float)
    problem = np.array([row[2] for row in rows], dtype=np.intp)
    if not 0 < right.sum() < len(right):
        return unknown(len(groups), level)
    _, place = np.unique(rewards, return_inverse=True)
    order = np.argsort(place, kind="stable")
    starts = np.flatnonzero(np.diff(place[order], prepend=-1))

    def weighted(weights: np.ndarray) -> np.ndarray:
        """AUCs of answers that count as often as their problem was drawn; `[B, answers]`."""
        good = np.add.reduceat((weights * right)[:, order], starts, axis=1)
        bad = np.add.reduceat((weights * (1 - right))[:, order], starts, axis=1)
        before = np.cumsum(bad, axis=1) - bad
        with np.errstate(invalid="ignore"):
            share: np.ndarray = (good * (before + bad / 2)).sum(1) / (good.sum(1) * bad.sum(1))
        return share

    value = float(weighted(np.ones((1, len(rows))))[0])
    draws = [
        weighted(block[:, problem].astype(float))
        for whole in resampled_weights(len(groups), resamples=_RESAMPLES)
        for block in np.array_split(whole, max(1, whole.shape[0] * len(rows) >> 21))
    ]
    drawn = np.concatenate(draws)
    drawn = drawn[np.isfinite(drawn)]  # a resample may lack right or wrong answers
    se = float(drawn.std(ddof=1)) if len(groups) > 1 and len(drawn) > 1 else math.nan
    least = min(len(np.unique(problem[right == verdict])) for verdict in (0, 1))
    pairs = float(right.sum() * (1 - right).sum())
    return effective_wilson(value, se, len(groups), least, pairs, level)


def reliability(answers: Iterable[Answer], bins: int = 8, level: float = LEVEL) -> list[Bin]:
    """Return the share of right answers by reward, in bins of about equally many answers."""
    from pandas import DataFrame

    frame = DataFrame(list(answers), columns=["problem", "reward", "right"])
    edges = bin_edges([frame], "reward", bins)
    return in_bins(frame, "reward", frame["right"], edges, level)

"""Reward: does the reward model know what is right, and for how long does choosing by it pay?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pandas import DataFrame

from nabla_eval.analysis.calibration import calibration, reliability
from nabla_eval.analysis.intervals import mean, proportion
from nabla_eval.probing.room import powers_of_two, said

UNGRADED = (
    "Answers are not known, or the task does not say which are right: rewards are compared with "
    "nothing. Give answers (nabla_eval.probe) or a task with exact_match."
)


def summary(problems: Sequence[Mapping[str, Any]], drafts: int) -> dict[str, Any]:
    """Return AUCs, the share of right drafts by reward, and best-of-k's reward and correctness.

    AUC and calibration are None where answers are not known, and `note` says so.
    """
    rows = [
        (str(i), draft["reward"], draft["right"])
        for i, each in enumerate(problems)
        for draft in each["drafts"]
    ]
    frame = DataFrame(rows, columns=["problem", "reward", "right"])
    graded = not frame["right"].isna().any()
    best = [_best_of(problems, drafts, k, graded) for k in powers_of_two(drafts)]
    if not graded:
        nothing = {"auc_within": None, "auc": None, "calibration": None, "over_optimised": None}
        return {**nothing, "best_of": best, "note": UNGRADED}
    found = calibration(frame.astype({"right": bool}))
    bins = reliability(frame.astype({"right": bool}))
    return {
        "auc_within": said(found.within),
        "auc": said(found.pooled),
        "pairs": found.pairs,
        "calibration": [
            {"low": own.low, "high": own.high, "answers": own.rows, "right": said(own.share)}
            for own in bins
        ],
        "over_optimised": said(_lost(problems, drafts)),
        "best_of": best,
        "note": None,
    }


def best_of(rewards: Sequence[float], values: Sequence[float], k: int) -> float:
    """Return the mean value of the best of k drafts over all sets of k; the first of equals is it.

    The draft of rank i (from 0, best first) of n is the best of C(n - 1 - i, k - 1) sets.
    """
    order = sorted(range(len(rewards)), key=lambda i: (-rewards[i], i))
    n = len(order)
    chances = [math.comb(n - 1 - i, k - 1) / math.comb(n, k) for i in range(n)]
    return math.fsum(chance * values[i] for chance, i in zip(chances, order, strict=True))


def _columns(problem: Mapping[str, Any], key: str) -> list[float]:
    return [float(draft[key]) for draft in problem["drafts"]]


def _best_of(
    problems: Sequence[Mapping[str, Any]], drafts: int, k: int, graded: bool
) -> dict[str, Any]:
    rewards = [_columns(each, "reward") for each in problems]
    row = {"k": k, "reward": said(mean([best_of(own, own, k) for own in rewards])), "right": None}
    if graded:
        right = [
            best_of(r, _columns(p, "right"), k) for r, p in zip(rewards, problems, strict=True)
        ]
        row["right"] = said(proportion([[value] * (drafts // k) for value in right]))
    return row


def _lost(problems: Sequence[Mapping[str, Any]], drafts: int) -> Any:
    """Return the correctness of the best of all drafts minus that of the best of half as many."""
    half = max(1, drafts // 2)
    apart = []
    for each in problems:
        rewards, right = _columns(each, "reward"), _columns(each, "right")
        apart.append(best_of(rewards, right, drafts) - best_of(rewards, right, half))
    return mean(apart)

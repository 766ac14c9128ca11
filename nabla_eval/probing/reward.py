"""Reward: does the reward model know what is right, and for how long does choosing by it pay?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from nabla_eval.analysis.calibration import calibration, reliability
from nabla_eval.analysis.intervals import mean, mean_share, won_minus_lost
from nabla_eval.probing.room import powers_of_two

UNGRADED = (
    "Answers are not known, or the task does not say which are right: rewards are compared with "
    "nothing. Give answers (nabla_eval.probe) or a task with exact_match."
)


def summary(problems: Sequence[Mapping[str, Any]], drafts: int) -> dict[str, Any]:
    """Return AUCs, the share of right drafts by reward, and best-of-k's reward and correctness.

    AUC and calibration are None where answers are not known, and `note` says so.
    """
    rewards, right = (
        [[draft[name] for draft in each["drafts"]] for each in problems]
        for name in ("reward", "right")
    )
    graded = not any(value is None for own in right for value in own)

    def best(values: Sequence[Sequence[float]], k: int) -> NDArray[np.float64]:
        return np.array([best_of(r, own, k) for r, own in zip(rewards, values, strict=True)])

    chosen = [
        {
            "k": k,
            "reward": mean(best(rewards, k)),
            "right": mean_share(best(right, k), [drafts // k] * len(right)) if graded else None,
        }
        for k in powers_of_two(drafts)
    ]
    if not graded:
        nothing = dict.fromkeys(("auc_within", "auc", "calibration", "over_optimised"))
        return {**nothing, "best_of": chosen, "note": UNGRADED}
    frame = DataFrame(
        [(i, *own) for i, both in enumerate(zip(rewards, right, strict=True))
         for own in zip(*both, strict=True)],
        columns=["problem", "reward", "right"],
    )  # fmt: skip
    found = calibration(frame)
    return {
        "auc_within": found.within,
        "auc": found.pooled,
        "pairs": found.pairs,
        "calibration": [
            {"low": own.low, "high": own.high, "answers": own.rows, "right": own.share}
            for own in reliability(frame)
        ],
        "over_optimised": won_minus_lost(
            best(right, drafts) - best(right, max(1, drafts // 2)), len(right), math.inf
        ),
        "best_of": chosen,
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

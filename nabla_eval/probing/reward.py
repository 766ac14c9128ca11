"""Reward: does the reward model know what is right, and for how long does choosing by it pay?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame

from nabla_eval.analysis.calibration import calibration, reliability
from nabla_eval.analysis.intervals import mean, mean_share, won_minus_lost
from nabla_eval.probing.grades import Problems, known
from nabla_eval.probing.room import powers_of_two

UNGRADED = (
    "Answers are not known, or in no two problems the grade of every response: rewards are "
    "compared with nothing. Give answers (nabla_eval.probe) or a task with exact_match."
)
UNTOLD = (
    "{} of {} problems are left out of all that is about right answers: not every response to them "
    "could be graded."
)


def summary(problems: Problems, drafts: int) -> dict[str, Any]:
    """Return AUCs, the share of right drafts by reward, and best-of-k's reward and correctness.

    What is about right answers is over the problems that are graded: `note` counts the others, and
    says so where there are none, which leaves AUC and calibration None.
    """
    told = known(problems)

    def best(among: Problems, name: str, k: int) -> NDArray[np.float64]:
        columns = [[[d[n] for d in each["drafts"]] for n in ("reward", name)] for each in among]
        return np.array([best_of(rewards, values, k) for rewards, values in columns])

    chosen = [
        {
            "k": k,
            "reward": mean(best(problems, "reward", k)),
            "right": mean_share(best(told, "right", k), [drafts // k] * len(told))
            if told
            else None,
        }
        for k in powers_of_two(drafts)
    ]
    if not told:
        nothing = dict.fromkeys(("auc_within", "auc", "calibration", "over_optimised"))
        return {**nothing, "best_of": chosen, "note": UNGRADED}
    frame = DataFrame(
        [(i, draft["reward"], draft["right"])
         for i, each in enumerate(told) for draft in each["drafts"]],
        columns=["problem", "reward", "right"],
    )  # fmt: skip
    left_out = len(problems) - len(told)
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
            best(told, "right", drafts) - best(told, "right", max(1, drafts // 2)),
            len(told),
            math.inf,
        ),
        "best_of": chosen,
        "note": UNTOLD.format(left_out, len(problems)) if left_out else None,
    }


def best_of(rewards: Sequence[float], values: Sequence[float], k: int) -> float:
    """Return the mean value of the best of k drafts over all sets of k; the first of equals is it.

    The draft of rank i (from 0, best first) of n is the best of C(n - 1 - i, k - 1) sets.
    """
    order = sorted(range(len(rewards)), key=lambda i: (-rewards[i], i))
    n = len(order)
    chances = [math.comb(n - 1 - i, k - 1) / math.comb(n, k) for i in range(n)]
    return math.fsum(chance * values[i] for chance, i in zip(chances, order, strict=True))

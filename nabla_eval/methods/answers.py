"""Answers in responses: which responses agree, and weighted votes over them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence


def agreement(texts: Sequence[str]) -> dict[int, int]:
    """Group of each text that has an answer: equal exactly where the answers are."""
    from nabla_eval.grading import cluster, extract

    answers = {i: answer for i, text in enumerate(texts) if (answer := extract(text)) is not None}
    if not answers:
        return {}
    return dict(zip(answers, cluster(list(answers.values())), strict=True))


def vote(texts: Sequence[str], weights: Sequence[float]) -> list[int]:
    """Indices of the texts whose answer has the greatest sum of weights, in order.

    Texts without an answer do not vote; among equal sums the answer seen first wins. Without any
    answer, all indices.
    """
    groups = agreement(texts)
    sums: dict[int, float] = defaultdict(float)
    for i, group in groups.items():
        sums[group] += weights[i]
    if not sums:
        return list(range(len(texts)))
    winner = max(sums, key=sums.__getitem__)
    return [i for i, group in groups.items() if group == winner]


def majority(texts: Sequence[str]) -> int:
    """Index of the first text whose answer is the most frequent one (0 when none has any)."""
    return vote(texts, [1.0] * len(texts))[0]


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

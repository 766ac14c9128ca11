"""Answers in responses: which responses agree, and weighted votes over them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
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

    Texts without an answer do not vote. Which answers are one does not depend on the order of the
    texts; among equal sums the answer seen first wins, which is a fair lot, since samples are drawn
    independently and keyed by their index. Without any answer, all indices.
    """
    groups = agreement(texts)
    cast: dict[int, list[float]] = defaultdict(list)
    for i, group in groups.items():
        cast[group].append(weights[i])
    if not cast:
        return list(range(len(texts)))
    # `fsum` rounds once, so that no sum depends on the order of its terms.
    winner = max(cast, key=lambda group: math.fsum(cast[group]))
    return [i for i, group in groups.items() if group == winner]


def majority(texts: Sequence[str]) -> int:
    """Index of a text with the most frequent answer (0 when none has any).

    Answers of one group may be spelt differently and, since equality is not transitive, even differ
    (10 inches, 10): the first text with the group's most frequent spelling stands for it.
    """
    from nabla_eval.grading import extract

    winners = vote(texts, [1.0] * len(texts))
    spelling = {i: extract(texts[i]) for i in winners}
    count = Counter(spelling.values())
    return max(winners, key=lambda i: count[spelling[i]])


def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x)), without overflow."""
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

"""What the model card reports: the pair, measured on held-out test problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pair_tokenizer import token_strings
from plain_sampling import (
    COUNTDOWN,
    Coding,
    prefix_scores,
    response_text,
    sample,
    token_logits,
)
from prefix_oracle import prefix_labels

from nabla_eval.analysis import calibration
from nabla_eval.embedded import countdown

Floats = NDArray[np.float64]
Numbers = dict[str, Any]
Prefixes: TypeAlias = Callable[
    [Sequence[Any], Sequence[list[int]], Sequence[torch.Tensor]], Numbers
]  # (questions, responses, prefix scores)

DRAWS = 8
UNCERTAIN = 0.25  # nats, the paper's entropy threshold (DESIGN 3.5)


@dataclass(frozen=True)
class Bench:
    """What measuring asks of a task."""

    coding: Coding
    verify: Callable[[Any, str], bool]
    answer: Callable[[str], str]  # that a response arrives at
    prefixes: Prefixes
    temperatures: tuple[float, ...]


def measure(policy: Any, reward: Any, questions: Sequence[Any], bench: Bench) -> Numbers:
    """The card's `measured` block on test problems, 8 samples each."""
    seed = 0
    generator = torch.Generator().manual_seed(seed)
    repeated = [question for question in questions for _ in range(DRAWS)]

    def sampled(temperature: float) -> Numbers:
        drawn = sample(
            policy,
            repeated,
            temperature=temperature,
            generator=generator,
            coding=bench.coding,
            mixed=True,
        )
        return describe(policy, reward, questions, drawn, bench)

    return {
        "problems": len(questions),
        "draws": DRAWS,
        "seed": seed,
        "greedy_accuracy": mean_and_error(greedy_right(policy, questions, bench)),
        "sampled": {f"T={temperature}": sampled(temperature) for temperature in bench.temperatures},
    }


def greedy_right(policy: Any, questions: Sequence[Any], bench: Bench) -> Floats:
    """1 where the greedy response is right, else 0."""
    responses = sample(
        policy,
        questions,
        temperature=0,
        generator=torch.Generator(),
        coding=bench.coding,
        mixed=True,
    )
    return _right(questions, responses, bench)


def describe(
    policy: Any,
    reward: Any,
    questions: Sequence[Any],
    responses: Sequence[list[int]],
    bench: Bench,
) -> Numbers:
    """How good `DRAWS` responses per question are, one question after the other, and how well
    the reward model tells the right ones."""
    repeated = [question for question in questions for _ in range(DRAWS)]
    shape = (len(questions), DRAWS)
    right = _right(repeated, responses, bench).reshape(shape)
    scores = prefix_scores(reward, repeated, responses, bench.coding)
    final = np.array([row[-1].item() for row in scores]).reshape(shape)
    best = np.take_along_axis(right, final.argmax(axis=1)[:, None], axis=1)[:, 0]
    texts = [response_text(response, bench.coding) for response in responses]
    uncertain = _uncertain_tokens(policy, repeated, responses, bench.coding)
    return {
        "accuracy": mean_and_error(right.mean(axis=1)),
        "pass@8": mean_and_error(right.max(axis=1)),
        "best_of_8_accuracy": mean_and_error(best),
        "best_of_8_gain": mean_and_error(best - right.mean(axis=1)),
        "distinct_responses_of_8": mean_and_error(_distinct(texts)),
        "distinct_results_of_8": mean_and_error(_distinct([bench.answer(text) for text in texts])),
        "uncertain_tokens": mean_and_error(uncertain),
        "reward_auc": {
            "pooled": auc(final[right == 1], final[right == 0]),
            "within_question": within_auc(final, right),
            "questions_with_both": int(((right.max(1) == 1) & (right.min(1) == 0)).sum()),
        },
        "prefix_auc": bench.prefixes(repeated, responses, scores),
    }


def _right(questions: Sequence[Any], responses: Sequence[list[int]], bench: Bench) -> Floats:
    pairs = zip(questions, responses, strict=True)
    found = [bench.verify(question, response_text(ids, bench.coding)) for question, ids in pairs]
    return np.array(found, dtype=np.float64)


def _distinct(texts: Sequence[str]) -> Floats:
    groups = [texts[start : start + DRAWS] for start in range(0, len(texts), DRAWS)]
    return np.array([float(len(set(group))) for group in groups])


def _uncertain_tokens(
    policy: Any, questions: Sequence[Any], responses: Sequence[list[int]], coding: Coding
) -> Floats:
    """Per problem, the mean number of tokens whose distribution (T = 1) has over 0.25 nats."""
    counts = []
    for logits in token_logits(policy, questions, responses, coding):
        entropy = torch.distributions.Categorical(logits=logits).entropy()
        counts.append(float((entropy > UNCERTAIN).sum()))
    return np.array(counts).reshape(-1, DRAWS).mean(axis=1)


def _reachable_auc(
    questions: Sequence[countdown.Puzzle],
    responses: Sequence[list[int]],
    scores: Sequence[torch.Tensor],
) -> Numbers:
    """AUC of prefix scores for "the target is still reachable", the closing token left out.

    Pooled over all prefixes, and at each place of the response where both labels occur.
    """
    places: dict[int, tuple[list[float], list[bool]]] = {}
    for question, response, row in zip(questions, responses, scores, strict=True):
        labels = prefix_labels(question, token_strings(response))
        for place in range(min(len(response), question.response_tokens - 1)):
            values, alive = places.setdefault(place + 1, ([], []))
            values.append(row[place].item())
            alive.append(labels[place])
    split = {
        place: (np.array(values)[np.array(alive)], np.array(values)[~np.array(alive)])
        for place, (values, alive) in sorted(places.items())
    }
    pooled = [np.concatenate(side) for side in zip(*split.values(), strict=True)]
    by_place = {str(p): auc(*pair) for p, pair in split.items() if all(map(len, pair))}
    return {"pooled": auc(*pooled), "by_token": by_place}


NUMBERS = Bench(
    coding=COUNTDOWN,
    verify=countdown.verify,
    answer=lambda text: text.rpartition("=")[2],
    prefixes=_reachable_auc,
    temperatures=(0.7, 1.0),
)

# --- statistics ---------------------------------------------------------------------------------


def mean_and_error(per_problem: Floats) -> Numbers:
    """Mean and standard error over problems: they, not their draws, are the independent units."""
    values = np.asarray(per_problem, dtype=np.float64)
    return {
        "value": round(float(values.mean()), 4),
        "standard_error": round(float(values.std(ddof=1) / np.sqrt(len(values))), 4),
    }


def auc(positive: Floats, negative: Floats) -> float | None:
    """Probability that a positive scores above a negative, ties half; None without pairs."""
    labels = [True] * len(positive) + [False] * len(negative)
    value = calibration.auc([*positive, *negative], labels)
    return None if math.isnan(value) else round(value, 4)


def within_auc(scores: Floats, right: Floats) -> float | None:
    """Mean over the questions with right and wrong responses of the AUC inside the question."""
    found = []
    for row, labels in zip(scores, right, strict=True):
        value = auc(row[labels == 1], row[labels == 0])
        if value is not None:
            found.append(value)
    return round(float(np.mean(found)), 4) if found else None

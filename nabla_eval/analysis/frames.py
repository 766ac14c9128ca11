"""Trace records as two pandas DataFrames: one row per answer, one per judged candidate.

Every table and figure of `nabla-eval report` is made from these two. `nabla_eval.frame` gives them
to notebooks, and its docstring lists the columns and their units.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nabla_eval.analysis.intervals import Estimate, Floats, share
from nabla_eval.traces.index import length, light
from nabla_eval.traces.schema import Record, document

if TYPE_CHECKING:
    from pandas import DataFrame

_JUDGED = ("sweep", "position", "entropy", "gradient_norm", "old_reward", "new_reward", "verdict")
_CANDIDATE = ("problem", "answer", "nth", *_JUDGED, "tokens")
_LATER = ("prefix_scorings", "prefix_gradients")  # counts that older traces do not have
_OBJECTS = {"problem", "answer", "prompt", "text", "stop", "ended", "verdict"}
_OBJECTS |= {"draft_rewards", "record"}


class Frames(NamedTuple):
    """The answers of runs, and the candidates that were judged on the way to them."""

    answers: DataFrame
    candidates: DataFrame


def frames_of(
    records: Iterable[Record], scores: Mapping[str, Sequence[float]], seed: int | None = None,
    graded: int | None = None,
) -> Frames:  # fmt: skip
    """Return the frames of a run with one seed; `scores` has the scores of each problem.

    A score is the mean over the first `graded` of its answers; None: over all.
    """
    answers: list[dict[str, Any]] = []
    candidates: dict[str, list[Any]] = {name: [] for name in _CANDIDATE}
    for record in records:
        answers.append(_answer(record, seed))
        for nth, judged in enumerate(record["candidates"], start=1):
            shared = answers[-1]["problem"], answers[-1]["answer"], nth
            known: Mapping[str, Any] = judged
            values = (*shared, *(known[name] for name in _JUDGED), length(judged))
            for name, value in zip(_CANDIDATE, values, strict=True):
                candidates[name].append(value)
    _add_scores(answers, scores, graded)
    names = dict.fromkeys(name for row in answers for name in row)
    columns = {name: [row.get(name) for row in answers] for name in names}
    return Frames(_frame(columns), _frame(candidates))


def means(groups: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return the mean for each problem."""
    return {problem: sum(group) / len(group) for problem, group in groups.items()}


def graded_answers(answers: DataFrame) -> dict[str, list[float]]:
    """Return the scores of the answers that were graded, by problem.

    Of answers that were graded together each has their mean, so that sums are right. A problem
    without a graded answer is absent.
    """
    known = answers[["problem", "mean_score"]].dropna()
    return {problem: list(own) for problem, own in known.groupby("problem")["mean_score"]}


def totals(frame: DataFrame, *values: Any) -> list[Floats]:
    """Return the total for each problem of each of some values, `[P]`, in one order of problems.

    A value is a column's worth of numbers, or one number that every row has.
    """
    from pandas import factorize

    places, problems = factorize(frame["problem"])
    columns = [np.broadcast_to(np.asarray(value, dtype=float), len(frame)) for value in values]
    return [
        np.bincount(places, column, minlength=len(problems)).astype(float) for column in columns
    ]


def share_of(frame: DataFrame, hits: Any) -> Estimate:
    """Return the share of rows that are hits, problems as clusters."""
    hit, rows = totals(frame, hits, 1)
    return share(hit, rows)


def _answer(record: Record, seed: int | None) -> dict[str, Any]:
    outcome, drafts = record["outcome"], record["drafts"]
    rewards = tuple(draft["reward"] for draft in drafts)
    reused, afresh = _tokens_saved(record)
    return {
        "problem": document(record["id"]),
        "answer": record["id"],
        "seed": seed,
        "prompt": record["prompt"],
        "text": outcome["text"],
        "stop": outcome["stop"],
        "ended": outcome["ended"],
        "score": None,
        "mean_score": None,
        "reward": outcome["reward"],
        "first_reward": rewards[0] if rewards else None,
        "draft_rewards": rewards,
        "tokens": length(outcome),
        "positions": outcome["positions"],
        "visited": outcome["visited"],
        "certified": outcome.get("certified"),
        "candidates": len(record["candidates"]),
        "reused_tokens": reused,
        "tokens_afresh": afresh,
        **dict.fromkeys(_LATER, 0.0),
        **{name: float(count) for name, count in record["ledger"].items()},
        "seconds": record["seconds"],
        "record": light(record),
    }


def _tokens_saved(record: Record) -> tuple[int, int]:
    """Return the tokens that were not drawn again, and those that rolling out afresh would draw.

    The first: tokens of the current response behind each judged position. The second: a draft, and
    one response from the prompt for each visited position. A trace does not say how long the
    response was at every visit, so the shortest is taken.
    """
    if not record["drafts"]:
        return 0, 0
    current = shortest = length(record["drafts"][0])
    draft, reused = current, 0
    for candidate in record["candidates"]:
        reused += current - candidate["position"]
        if candidate["verdict"] == "accepted":
            current = length(candidate)
            shortest = min(shortest, current)
    return reused, draft + int(record["outcome"]["visited"]) * shortest


def _add_scores(
    answers: Sequence[dict[str, Any]], scores: Mapping[str, Sequence[float]], graded: int | None
) -> None:
    """Give each answer that was graded its score where it is known, and the mean it is part of.

    lm-eval keeps the mean over the repeats that it grades: 0 and 1 tell every score, another mean
    does not say which answers were right.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for answer in answers:
        groups[answer["problem"]].append(answer)
    for problem, group in groups.items():
        share = len(group) // len(scores[problem])
        behind = share if graded is None else min(graded, share)  # answers behind each score
        each = [(score, i < behind) for score in scores[problem] for i in range(share)]
        for answer, (score, known) in zip(group, each, strict=True):
            if known:
                answer["mean_score"] = score
                answer["score"] = score if behind == 1 or score in (0.0, 1.0) else None


def _frame(columns: Mapping[str, list[Any]]) -> DataFrame:
    """Return columns as a frame; texts stay Python objects, which may be shared and hold anything.

    (pandas 3 would copy them to Arrow, which refuses lone surrogates.)
    """
    from pandas import DataFrame, Series

    def series(name: str, values: list[Any]) -> Series:
        if name in _OBJECTS:
            return Series(values, dtype=object)
        return Series(values, dtype="float64" if None in values or not values else None)

    return DataFrame({name: series(name, values) for name, values in columns.items()})

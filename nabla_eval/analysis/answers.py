"""Single answers with their score and reward: final ones of repeats, and graded drafts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from nabla_eval.analysis.accuracy import accuracy, majority
from nabla_eval.analysis.calibration import Answer
from nabla_eval.analysis.intervals import LEVEL, Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.grading import cluster, extract
from nabla_eval.thought import answered
from nabla_eval.traces.keep import whole
from nabla_eval.traces.schema import Record, document

# (lm-eval's doc and target, response) -> is it right?
Grade: TypeAlias = Callable[[Mapping[str, Any], str], bool]


def scored(run: Run) -> dict[str, list[tuple[Record, float]]] | None:
    """Each problem's records with the score of each; None where lm-eval kept only their mean.

    A mean of 0 or 1 over repeats tells every score; another one does not say which were right.
    """
    records: dict[str, list[Record]] = defaultdict(list)
    for record in run.records:
        records[document(record["id"])].append(record)
    found = {}
    for problem, group in records.items():
        scores = run.scores[problem]
        share = len(group) // len(scores)
        if share > 1 and any(score not in (0.0, 1.0) for score in scores):
            return None
        each = [score for score in scores for _ in range(share)]
        found[problem] = list(zip(group, each, strict=True))
    return found


def majority_accuracy(run: Run, level: float = LEVEL) -> Estimate | None:
    """maj@k: accuracy of the most frequent of a problem's k answers.

    The task's own figure where it reports one for all of them. None with a single answer a problem,
    and where the single scores are not known.
    """
    if run.repeats < 2:
        return None
    reported = run.metrics.get(f"maj@{run.repeats}")
    if reported is not None and len(run.seeds) <= 1:
        return accuracy(reported, level)
    known = scored(run)
    if known is None:
        return None
    values = {}
    for problem, group in known.items():
        texts = [answered(record["prompt"], record["outcome"]["text"]) for record, _ in group]
        groups = cluster([extract(text) for text in texts])
        names = [None if number < 0 else number for number in groups]
        values[problem] = [majority(list(zip(names, (s for _, s in group), strict=True)))]
    return accuracy(values, level)


def final_answers(run: Run) -> list[Answer]:
    """(problem, reward, right) of every returned answer whose reward and score are known."""
    return [
        (problem, reward, score >= 0.5)
        for problem, group in (scored(run) or {}).items()
        for record, score in group
        if (reward := record["outcome"]["reward"]) is not None
    ]


def drafted_answers(run: Run, grade: Grade) -> list[Answer]:
    """(problem, reward, right) of every scored draft, graded now; each text of a problem once."""
    known: dict[tuple[str, str], bool] = {}
    found = []
    for record in run.records:
        problem = document(record["id"])
        for draft in whole(record)["drafts"]:
            if draft["reward"] is None:
                continue
            text = (problem, draft["text"])
            if text not in known:
                said = answered(record["prompt"], draft["text"])
                known[text] = grade(run.docs[problem], said)
            found.append((problem, draft["reward"], known[text]))
    return found

"""Single answers with their score and reward: final ones of repeats, and graded drafts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from nabla_eval.analysis.accuracy import accuracy, majority
from nabla_eval.analysis.calibration import Answer
from nabla_eval.analysis.frames import grouped
from nabla_eval.analysis.intervals import LEVEL, Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.grading import cluster, extract
from nabla_eval.thought import answered
from nabla_eval.traces.keep import whole

# (lm-eval's doc and target, response) -> is it right?
Grade: TypeAlias = Callable[[Mapping[str, Any], str], bool]


def majority_accuracy(run: Run, level: float = LEVEL) -> Estimate | None:
    """Return maj@k: accuracy of the most frequent of a problem's k answers.

    The task's own figure where it reports one for all of them. None with a single answer a problem,
    and where the single scores are not known.
    """
    if run.repeats < 2:
        return None
    reported = run.metrics.get(f"maj@{run.repeats}")
    if reported is not None and len(run.seeds) <= 1:
        return accuracy(reported, level)
    if run.answers["score"].isna().any():
        return None
    values = {}
    for problem, rows in grouped(run.answers, "prompt", "text", "score").items():
        groups = cluster([extract(answered(prompt, text)) for prompt, text, _ in rows])
        names = [None if number < 0 else number for number in groups]
        scores = [score for *_, score in rows]
        values[problem] = [majority(list(zip(names, scores, strict=True)))]
    return accuracy(values, level)


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

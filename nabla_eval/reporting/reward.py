"""`report reward`: reward models side by side (Table 3), calibration, and gain per candidate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.calibration import (
    Grade,
    calibration,
    drafted_answers,
    final_answers,
    reliability,
)
from nabla_eval.analysis.candidates import gain
from nabla_eval.analysis.runs import Run, identity, model_name
from nabla_eval.reporting.rows import (
    INTERVAL,
    accuracy_difference,
    difference_table,
    holm_corrected,
    of_run,
    run_table,
    with_interval,
    worded,
)
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import MISSING, count, number, percent

if TYPE_CHECKING:
    from pandas import DataFrame


def reward_report(
    runs: Sequence[Run],
    grade_for: Callable[[str], Grade | None] = lambda task: None,
) -> Report:
    """Report calibration, selection, reward models against each other, and gains.

    `grade_for(task)` gives a function that grades single drafts, or None where there is none.
    """
    calibrations, selections, bins, gains = [], [], [], []
    for run in runs:
        kind, answers = _answers(run, grade_for(run.task))
        if len(answers):
            calibrations.append(_calibration_row(run, kind, answers))
            bins += [
                {
                    **of_run(run), "low": found.low, "high": found.high, "answers": found.rows,
                    **with_interval("right", found.share, "ci95"),
                }
                for found in reliability(answers)
            ]  # fmt: skip
            # Every answer was chosen from the same number of graded drafts.
            if kind == "drafts" and run.answers["draft_rewards"].map(len).nunique() == 1:
                selections.append(_selection_row(run, answers))
        if len(run.candidates):
            gains.append(_gain_row(run))
    models = _models_compared(runs)
    tables = [
        _calibration_table(calibrations),
        _selection_table(selections),
        difference_table("models", "Reward models against each other", models),
        _reliability_table(bins),
        _gain_table(gains),
    ]
    return Report("reward", "Reward", tables, worded(models))


def _answers(run: Run, grade: Grade | None) -> tuple[str, DataFrame]:
    """Return drafts where a run scored several and they can be graded, else what it returned."""
    if grade is not None and run.docs and (run.answers["draft_rewards"].map(len) > 1).any():
        drafts = drafted_answers(run, grade)
        if len(drafts):
            return "drafts", drafts
    return "final answers", final_answers(run)


def _reward_name(run: Run) -> str:
    return model_name(run.models.get("reward", "none"))


def _calibration_row(run: Run, kind: str, answers: DataFrame) -> Row:
    """Return how well a reward model tells right answers from wrong ones; chance is 0.5.

    `auc` is over all answers, `auc_within` over the `pairs` of answers to the same question.
    """
    found = calibration(answers)
    return {
        **of_run(run),
        "reward": _reward_name(run),
        "answers_are": kind,
        "problems": found.problems,
        "answers": found.answers,
        "right": found.right / found.answers,
        **with_interval("auc", found.pooled),
        **with_interval("auc_within", found.within),
        "pairs": found.pairs,
    }


def _selection_row(run: Run, answers: DataFrame) -> Row:
    """Return what choosing by reward makes of a best-of-N run's drafts.

    `mean` is the accuracy of a draft drawn at random, `selected` of the one with the highest
    reward, `oracle` the share of problems with any right draft, `recovered` the part of the way
    from the first to the last.
    """
    drafts = answers.assign(right=answers["right"].astype(float))
    best = drafts.groupby(["problem", "answer"])["right"].max()
    mean = float(drafts.groupby("problem")["right"].mean().mean())
    oracle = float(best.groupby("problem").mean().mean())
    selected, gap = accuracy(run.scores).value, oracle - mean
    return {
        **of_run(run),
        "reward": _reward_name(run),
        "n": run.n,
        "mean": mean,
        "selected": selected,
        "oracle": oracle,
        "recovered": (selected - mean) / gap if gap else float("nan"),
    }


def _models_compared(runs: Sequence[Run]) -> list[Row]:
    """Compare runs that differ in nothing but the reward model, in accuracy, each pair once."""
    rows = []
    for a, b in combinations(runs, 2):
        same = (a.task, a.method, a.config) == (b.task, b.method, b.config)
        ours, theirs = identity(a.models), identity(b.models)
        if same and ours.get("policy") == theirs.get("policy") and "reward" in ours:
            rows.append(accuracy_difference(a, b, "reward model"))
    return holm_corrected(rows)


def _gain_row(run: Run) -> Row:
    found = gain(run)
    return {
        **of_run(run),
        "candidates": found.candidates,
        **with_interval("gain", found.mean),
        **with_interval("gain_accepted", found.accepted),
        "positive": found.positive.value,
        **with_interval("final", found.final),
    }


def _range(key: str, digits: int) -> Column:
    def word(interval: tuple[float, float]) -> str:
        ends = (number(end, digits) for end in interval)
        return MISSING if math.isnan(interval[0]) else " to ".join(ends)

    return Column("95 % CI", key, word)


def _calibration_table(rows: Sequence[Row]) -> Table:
    columns = [
        text("Of", "answers_are"),
        Column("Answers", "answers", count),
        Column("Right", "right", percent),
        Column("AUC", "auc", number, 3),
        _range("auc_ci95", 3),
        Column("Within", "auc_within", number, 3),
        _range("auc_within_ci95", 3),
    ]
    return run_table(
        "calibration", "Does the reward know what is right?", rows, columns,
        "AUC: how often a right answer has the higher reward than a wrong one, over all answers; "
        "chance is 0.5. Within: the same for answers to one question (none where each has a single "
        "answer); a reward model that only knows how hard a question is has 0.5 there. Final "
        "answers were chosen by the reward, which lowers both.",
    )  # fmt: skip


def _selection_table(rows: Sequence[Row]) -> Table:
    columns = [
        text("Reward model", "reward"),
        Column("Any draft", "mean", percent),
        Column("Chosen", "selected", percent),
        Column("Oracle", "oracle", percent),
        Column("Recovered", "recovered", percent),
    ]
    note = (
        "Any draft: accuracy of one drawn at random. Oracle: problems with at least one right "
        "draft. Recovered: the part of the way from the first to the second."
    )
    title = "What choosing by reward makes of the drafts"
    return run_table("selection", title, rows, columns, note)


def _reliability_table(rows: Sequence[Row]) -> Table:
    columns = [
        Column("Reward from", "low", number, 2),
        Column("to", "high", number, 2),
        Column("Answers", "answers", count),
        Column("Right", "right", percent),
        INTERVAL,
    ]
    note = "Bins part a run's answers by reward into about equally many; a useful reward rises."
    return run_table("reliability", "Right answers by reward", rows, columns, note)


def _gain_table(rows: Sequence[Row]) -> Table:
    columns = [
        Column("Judged", "candidates", count),
        Column("Gain", "gain", number, 2),
        _range("gain_ci95", 2),
        Column("Accepted", "gain_accepted", number, 2),
        Column("Positive", "positive", percent),
        Column("Answer", "final", number, 2),
        _range("final_ci95", 2),
    ]
    return run_table(
        "gain", "Gain in reward", rows, columns,
        "Gain: reward of a candidate minus that of what it would replace; Accepted: of the "
        "accepted ones. Answer: reward of the answer minus that of the first draft. Means of "
        "problem means.",
    )  # fmt: skip

"""`report reward`: reward models side by side (Table 3), calibration, and gain per candidate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nabla_eval.analysis.answers import Grade, drafted_answers, final_answers
from nabla_eval.analysis.calibration import Answer, calibration, reliability
from nabla_eval.analysis.candidates import gain
from nabla_eval.analysis.intervals import clustered_mean
from nabla_eval.analysis.naming import model_name
from nabla_eval.analysis.runs import Run, identity
from nabla_eval.reporting.report import Report
from nabla_eval.reporting.rows import DifferenceRow, holm_corrected
from nabla_eval.reporting.sections.columns import count, difference_table, task_column
from nabla_eval.reporting.summary import verdict
from nabla_eval.reporting.tables import Column, Table
from nabla_eval.reporting.text import number, percent, percent_range

Range = tuple[float, float]


@dataclass(frozen=True)
class CalibrationRow:
    """How well a reward model tells right answers from wrong ones; chance is 0.5."""

    run: str
    task: str
    reward: str
    answers_are: str  # "drafts" (graded for this report) or "final answers"
    problems: int
    answers: int
    right: float  # share
    auc: float
    auc_ci95: Range
    auc_within: float  # among answers to the same question
    auc_within_ci95: Range
    pairs: int  # of a right and a wrong answer to the same question


@dataclass(frozen=True)
class SelectionRow:
    """What choosing by reward makes of a best-of-N run's drafts."""

    run: str
    task: str
    reward: str
    n: int | None
    mean: float  # accuracy of a draft drawn at random
    selected: float  # of the draft with the highest reward
    oracle: float  # share of problems with any right draft: pass@N of these very drafts
    recovered: float  # (selected - mean) / (oracle - mean)


@dataclass(frozen=True)
class ReliabilityRow:
    """Share of right answers among those with a reward in a range."""

    run: str
    task: str
    low: float
    high: float
    answers: int
    right: float
    ci95: Range


@dataclass(frozen=True)
class GainRow:
    """Reward of candidates minus that of what they would replace, and of answers minus drafts."""

    run: str
    task: str
    candidates: int
    gain: float
    gain_ci95: Range
    gain_accepted: float
    gain_accepted_ci95: Range
    positive: float  # share of candidates with a gain, problems weighted equally
    final: float  # reward of the answer minus that of the first draft
    final_ci95: Range


def reward_report(
    runs: Sequence[Run],
    grade_for: Callable[[str], Grade | None] = lambda task: None,
    progress: Callable[[Sequence[Run]], Iterable[Run]] = iter,
) -> Report:
    """Calibration, selection, reward models against each other, and gains.

    `grade_for(task)` gives a function that grades single drafts, or None where there is none.
    """
    calibrations: list[CalibrationRow] = []
    selections: list[SelectionRow] = []
    bins: list[ReliabilityRow] = []
    gains: list[GainRow] = []
    for run in progress(runs):
        kind, answers = _answers(run, grade_for(run.task))
        if answers:
            calibrations.append(_calibration(run, kind, answers))
            bins += _reliability(run, answers)
        if answers and _whole(run, kind):
            selections.append(_selection(run, answers))
        if any(record["candidates"] for record in run.records):
            gains.append(_gain(run))
    models = _models_compared(runs)
    tables: list[Table[Any]] = [
        calibration_table(calibrations),
        selection_table(selections),
        difference_table("models", "Reward models against each other", models),
        reliability_table(bins),
        gain_table(gains),
    ]
    return Report("reward", "Reward", tables, [verdict(row) for row in models])


def _answers(run: Run, grade: Grade | None) -> tuple[str, list[Answer]]:
    """Drafts where a run scored several and they can be graded, else what it returned."""
    several = any(len(record["drafts"]) > 1 for record in run.records)
    if several and grade is not None and run.docs:
        drafts = drafted_answers(run, grade)
        if drafts:
            return "drafts", drafts
    return "final answers", final_answers(run)


def _whole(run: Run, kind: str) -> bool:
    """Whether every answer was chosen from the same number of graded drafts."""
    return kind == "drafts" and len({len(record["drafts"]) for record in run.records}) == 1


def _reward_name(run: Run) -> str:
    return model_name(run.models.get("reward", "none"))


def _calibration(run: Run, kind: str, answers: Sequence[Answer]) -> CalibrationRow:
    found = calibration(answers)
    return CalibrationRow(
        run=run.name,
        task=run.task,
        reward=_reward_name(run),
        answers_are=kind,
        problems=found.problems,
        answers=found.answers,
        right=found.right / found.answers,
        auc=found.pooled.value,
        auc_ci95=found.pooled.interval,
        auc_within=found.within.value,
        auc_within_ci95=found.within.interval,
        pairs=found.pairs,
    )


def _selection(run: Run, answers: Sequence[Answer]) -> SelectionRow:
    groups: dict[str, list[float]] = {}
    for problem, _, right in answers:
        groups.setdefault(problem, []).append(float(right))
    mean = clustered_mean(groups).value
    selected = clustered_mean(run.scores).value
    size = max(1, len(next(iter(groups.values()))) // run.repeats)  # drafts of one answer
    chunks = {
        problem: [max(group[i : i + size]) for i in range(0, len(group), size)]
        for problem, group in groups.items()
    }
    oracle = clustered_mean(chunks).value
    gap = oracle - mean
    return SelectionRow(
        run=run.name,
        task=run.task,
        reward=_reward_name(run),
        n=run.n,
        mean=mean,
        selected=selected,
        oracle=oracle,
        recovered=(selected - mean) / gap if gap else float("nan"),
    )


def _models_compared(runs: Sequence[Run]) -> list[DifferenceRow]:
    """Runs that differ in nothing but the reward model, in accuracy, each pair once."""
    rows = []
    for i, a in enumerate(runs):
        for b in runs[i + 1 :]:
            same = (a.task, a.method, a.config) == (b.task, b.method, b.config)
            ours, theirs = identity(a.models), identity(b.models)
            if same and ours.get("policy") == theirs.get("policy") and "reward" in ours:
                rows.append(DifferenceRow.accuracy(a, b, "reward model"))
    return holm_corrected(rows)


def _reliability(run: Run, answers: Sequence[Answer]) -> list[ReliabilityRow]:
    return [
        ReliabilityRow(
            run.name, run.task, b.low, b.high, b.answers, b.right.value, b.right.interval
        )
        for b in reliability(answers)
    ]


def _gain(run: Run) -> GainRow:
    found = gain(run.records)
    return GainRow(
        run=run.name,
        task=run.task,
        candidates=found.candidates,
        gain=found.mean.value,
        gain_ci95=found.mean.interval,
        gain_accepted=found.accepted.value,
        gain_accepted_ci95=found.accepted.interval,
        positive=found.positive.value,
        final=found.final.value,
        final_ci95=found.final.interval,
    )


def calibration_table(rows: Sequence[CalibrationRow]) -> Table[CalibrationRow]:
    """Pooled and within-question AUC."""
    columns = [
        *task_column(rows),
        Column[CalibrationRow]("Run", lambda row: row.run, "left"),
        Column[CalibrationRow]("Of", lambda row: row.answers_are, "left"),
        Column[CalibrationRow]("Answers", lambda row: count(row.answers)),
        Column[CalibrationRow]("Right", lambda row: percent(row.right)),
        Column[CalibrationRow]("AUC", lambda row: number(row.auc, 3)),
        Column[CalibrationRow]("95 % CI", lambda row: _range(row.auc_ci95, 3)),
        Column[CalibrationRow]("Within", lambda row: number(row.auc_within, 3)),
        Column[CalibrationRow]("95 % CI", lambda row: _range(row.auc_within_ci95, 3)),
    ]
    notes = [
        "AUC: how often a right answer has the higher reward than a wrong one, over all answers "
        "and within a question; chance is 0.5. A reward model that only knows how hard a question "
        "is has 0.5 within. Final answers were chosen by the reward, which lowers both."
    ]
    return Table("calibration", "Does the reward know what is right?", columns, rows, notes)


def selection_table(rows: Sequence[SelectionRow]) -> Table[SelectionRow]:
    """Chance, choice and oracle."""
    columns = [
        *task_column(rows),
        Column[SelectionRow]("Run", lambda row: row.run, "left"),
        Column[SelectionRow]("Reward model", lambda row: row.reward, "left"),
        Column[SelectionRow]("Any draft", lambda row: percent(row.mean)),
        Column[SelectionRow]("Chosen", lambda row: percent(row.selected)),
        Column[SelectionRow]("Oracle", lambda row: percent(row.oracle)),
        Column[SelectionRow]("Recovered", lambda row: percent(row.recovered)),
    ]
    notes = ["Recovered: the part of the way from a random draft to the oracle."]
    return Table("selection", "What choosing by reward makes of the drafts", columns, rows, notes)


def reliability_table(rows: Sequence[ReliabilityRow]) -> Table[ReliabilityRow]:
    """Correctness by reward."""
    columns = [
        *task_column(rows),
        Column[ReliabilityRow]("Run", lambda row: row.run, "left"),
        Column[ReliabilityRow]("Reward from", lambda row: number(row.low, 2)),
        Column[ReliabilityRow]("to", lambda row: number(row.high, 2)),
        Column[ReliabilityRow]("Answers", lambda row: count(row.answers)),
        Column[ReliabilityRow]("Right", lambda row: percent(row.right)),
        Column[ReliabilityRow]("95 % CI", lambda row: percent_range(row.ci95)),
    ]
    return Table("reliability", "Right answers by reward", columns, rows)


def gain_table(rows: Sequence[GainRow]) -> Table[GainRow]:
    """Gains in reward."""
    columns = [
        *task_column(rows),
        Column[GainRow]("Run", lambda row: row.run, "left"),
        Column[GainRow]("Judged", lambda row: count(row.candidates)),
        Column[GainRow]("Gain", lambda row: number(row.gain, 2)),
        Column[GainRow]("95 % CI", lambda row: _range(row.gain_ci95, 2)),
        Column[GainRow]("Accepted", lambda row: number(row.gain_accepted, 2)),
        Column[GainRow]("Positive", lambda row: percent(row.positive)),
        Column[GainRow]("Answer", lambda row: number(row.final, 2)),
        Column[GainRow]("95 % CI", lambda row: _range(row.final_ci95, 2)),
    ]
    notes = [
        "Gain: reward of a candidate minus that of what it would replace; Accepted: of the "
        "accepted ones. Answer: reward of the answer minus that of the first draft. Means of "
        "problem means."
    ]
    return Table("gain", "Gain in reward", columns, rows, notes)


def _range(interval: Range, digits: int) -> str:
    return f"{number(interval[0], digits)} to {number(interval[1], digits)}"

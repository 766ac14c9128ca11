"""`report problems`: one row per answer, across runs, each with its place in the trace viewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from nabla_eval.analysis.frames import means
from nabla_eval.analysis.runs import Run
from nabla_eval.grading import extract
from nabla_eval.reporting.rows import CALLS, of_run, task_column
from nabla_eval.reporting.tables import Column, Report, Row, Table, text
from nabla_eval.reporting.text import MISSING, count, number
from nabla_eval.thought import answered

SHORT = 24  # characters of an answer that a table shows
# Columns of `Run.answers` that are the same in a row here.
_KEPT = (
    "problem", "seed", "prompt", "score", "reward", "first_reward", "candidates", "model_calls",
    "generated_tokens", "gradient_passes", "scorings", "tokens", "stop", "ended", "seconds",
)  # fmt: skip


def problems_report(runs: Sequence[Run]) -> Report:
    """Report every answer of every run, those to problems on which runs differ first."""
    return Report("problems", "Problems", [problems_table(problem_rows(runs), most=20)])


def problem_rows(runs: Sequence[Run], pages: Mapping[Path, str] | None = None) -> list[Row]:
    """Return one row per answer, the runs of a problem below each other.

    `id` (task/document/repeat) is the answer's in the traces, and its document is the `doc_id` of
    lm-eval's samples. `gold` is lm-eval's target. `answer` is what reads like the final answer of
    the response, None where nothing does; right or wrong is `score`, which the task gives. `trace`
    links to the answer where `pages` has the viewer's page of its run folder.
    """
    rows: dict[tuple[str, str], list[Row]] = {}
    scores: dict[tuple[str, str], set[float]] = {}
    for run in runs:
        for problem, mean in means(run.scores).items():
            scores.setdefault((run.task, problem), set()).add(mean)
        for values in run.answers.to_dict("records"):
            row = _row(run, values, pages or {})
            rows.setdefault((run.task, values["problem"]), []).append(row)
    ordered = sorted(rows, key=lambda of: len(scores[of]) == 1)  # stable: else as in the runs
    return [row for of in ordered for row in rows[of]]


def _row(run: Run, values: Mapping[str, Any], pages: Mapping[Path, str]) -> Row:
    record = values["record"]
    page = pages.get(record["place"][1].file.parent) if pages else None
    return {
        **of_run(run),
        "id": record["id"],
        **{name: values[name] for name in _KEPT},
        "drafts": len(values["draft_rewards"]),
        "gold": run.docs.get(values["problem"], {}).get("target"),
        "answer": extract(answered(values["prompt"], values["text"])),
        "response": values["text"],
        "trace": None if page is None else f"{page}#problem={quote(record['id'], safe='')}",
    }


def problems_table(rows: Sequence[Row], most: int | None = None) -> Table:
    """Tabulate answers; at most so many of them."""
    columns = [
        *task_column(rows),
        Column(
            "Problem", lambda row: row["id"].partition("/")[2], str, justify="left", link="trace"
        ),
        text("Run", "run"),
        Column("Score", "score", _score),
        text("Gold", _short("gold")),
        text("Answer", _short("answer")),
        Column("Drafts", "drafts", count),
        Column("Judged", "candidates", count),
        CALLS,
        Column("Reward", "reward", number, 2),
        text("Ended", "ended"),
    ]
    notes = (
        "One row per answer; problems on which runs differ come first. Problem: document/repeat of "
        "the trace. Gold: the task's target. Answer: the final answer as read out of the "
        "response; the score is the task's and may ask for more. Judged: candidates that were "
        "rolled out and compared. Ended: done (nothing was left to try), budget (the N rollouts "
        "were used), reward (a response reached stop_reward), malformed (the method could not use "
        "what the policy wrote), max_... (that limit).",
    )
    return Table("problems", "Answers to each problem", columns, rows, notes, most)


def _score(value: float | None) -> str:
    """Word a score; a whole one without decimals."""
    return f"{value:.0f}" if value in (0, 1) else number(value, 2)


def _short(key: str) -> Any:
    def cell(row: Row) -> str:
        said = MISSING if row[key] in (None, "") else str(row[key])
        return said if len(said) <= SHORT else f"{said[: SHORT - 2]} …"

    return cell

"""A run folder in one line per task: how right, at what cost. For the end of `run` and `sweep`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.folders import files_of, read_samples
from nabla_eval.analysis.runs import Scores, task_of
from nabla_eval.errors import DataError
from nabla_eval.reporting.rows import task_column
from nabla_eval.reporting.tables import Column, Row, Table, text
from nabla_eval.reporting.text import MISSING, number, percent
from nabla_eval.traces.index import kept

PREFERRED = ("exact_match", "acc")  # shown in per cent


@dataclass(frozen=True)
class Measured:
    """The content of one run folder about one task, as far as an overview needs it."""

    task: str
    metric: str
    scores: Scores  # by document
    responses: int
    model_calls: float  # of all responses
    candidates: int
    rejected: int
    seconds: float | None
    failed: tuple[str, ...] = ()  # documents without a score


def measure(folder: str | Path, seconds: float | None = None) -> list[Measured]:
    """Read a finished run folder: one entry per task.

    Raises `DataError` for files that are missing or damaged.
    """
    folder = Path(folder)
    results = sorted(files_of(folder, "results_*.json"), key=lambda path: path.name)
    if not results:
        raise DataError(f"{folder} holds no results_*.json. Finish the run first.")
    date = results[-1].stem.removeprefix("results_")  # its samples have it too
    records = {record["id"]: record for record in kept(folder)}
    found = []
    for task in sorted({task_of(name) for name in records}):
        samples = read_samples(results[-1].parent / f"samples_{task}_{date}.jsonl")
        own = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        metric = next(filter(None, map(_primary, own)), "none")
        calls, verdicts = [], []
        for name, record in records.items():
            if task_of(name) == task:
                calls.append(record["ledger"]["model_calls"])
                verdicts += [candidate["verdict"] for candidate in record["candidates"]]
        found.append(
            Measured(
                task=task,
                metric=metric,
                scores={str(s["doc_id"]): [float(s[metric])] for s in own if metric in s},
                responses=len(calls),
                model_calls=sum(calls),
                candidates=len(verdicts),
                rejected=sum(verdict != "accepted" for verdict in verdicts),
                seconds=seconds,
                failed=tuple(f"{task}/{s['doc_id']}" for s in own if metric not in s),
            )
        )
    return found


def _primary(sample: Mapping[str, Any]) -> str | None:
    """Return the metric that says how right a sample is: in doubt the first that lm-eval lists.

    None for a document that failed: `failed` is its only metric.
    """
    metrics = [name for name in sample["metrics"] if name != "failed"]
    return next((name for name in PREFERRED if name in metrics), metrics[0] if metrics else None)


def combine(name: str, parts: Sequence[Measured]) -> Row:
    """Return the row of runs of one configuration on one task that differ in their seed only.

    `runs` counts them, `se` is clustered by problem, `model_calls` the mean per response, `seconds`
    the sum (None where one is not known), `failed` the documents without a score, once per run.
    """
    scores: dict[str, list[float]] = defaultdict(list)
    for part in parts:
        for document, runs in part.scores.items():
            scores[document] += runs
    estimate = accuracy(scores)
    seconds = [part.seconds for part in parts if part.seconds is not None]
    candidates, rejected = (sum(p.candidates for p in parts), sum(p.rejected for p in parts))
    return {
        "run": name,
        "task": parts[0].task,
        "runs": len(parts),
        "problems": len(scores),
        "metric": parts[0].metric,
        "value": estimate.value,
        "se": estimate.se,
        "model_calls": sum(p.model_calls for p in parts) / sum(p.responses for p in parts),
        "rejection_rate": rejected / candidates if candidates else None,
        "seconds": sum(seconds) if len(seconds) == len(parts) else None,
        "failed": tuple(name for part in parts for name in part.failed),
    }


def overview_table(rows: Sequence[Row], title: str = "Results") -> Table:
    """Tabulate the rows; the task is named where there are several."""
    shares = all(row["metric"] in PREFERRED for row in rows)
    columns = [
        text("Run", "run"),
        *task_column(rows),
        Column("Problems", _problems, str),
        Column("Accuracy ± se" if shares else "Score ± se", score_text, str),
        Column("Calls", "model_calls"),
        Column("Rejected", "rejection_rate", percent),
        Column("Seconds", "seconds"),
    ]
    notes = [
        "Calls: model calls per response, mean (a token or a scoring is one, a gradient pass "
        "four). Rejected: of all judged candidates together, ties too (lm-eval's rejection_rate is "
        "the mean over problems, another number). Seconds: of generating."
    ]
    for row in rows:
        if names := row["failed"]:
            what = "document that" if len(names) == 1 else "documents that"
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            some = f"({', '.join(names[:5])}{more})"
            notes.append(f"Left out of {row['run']}: {len(names)} {what} failed {some}.")
    return Table("overview", title, columns, rows, notes)


def _problems(row: Row) -> str:
    return f"{row['problems']:,}" if row["runs"] == 1 else f"{row['problems']:,} × {row['runs']}"


def score_text(row: Row) -> str:
    """Word value ± standard error, in per cent where it is a share."""
    value, se = row["value"], row["se"]
    if math.isnan(value):
        return MISSING
    if row["metric"] in PREFERRED:
        return f"{number(100 * value)} ± {percent(se)}"
    return f"{row['metric']} {number(value, 3)} ± {number(se, 3)}"

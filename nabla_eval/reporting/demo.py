"""The output of `nabla-eval demo`: what happened in words, and a few tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.accuracy import accuracy_row
from nabla_eval.reporting.rejection import (
    by_index_columns,
    first_rate,
    iid_rows,
    rejection_row,
    tie_share,
)
from nabla_eval.reporting.rows import (
    ACCURACY,
    CALLS,
    INTERVAL,
    POINTS,
    POINTS_INTERVAL,
    RIGHT_PER_100,
    WON_LOST,
    accuracy_difference,
    rejection_differences,
)
from nabla_eval.reporting.tables import Column, Row, Table, json_text, text, to_json, to_markdown
from nabla_eval.reporting.text import (
    count,
    markdown,
    number,
    percent,
    percent_range,
    printable,
    write_files,
)
from nabla_eval.traces.keep import whole


@dataclass(frozen=True)
class Summary:
    """Everything that a demo prints and writes."""

    title: str
    command: str  # that regenerates it
    sentences: Sequence[str]
    tables: Sequence[Table]
    facts: Mapping[str, Any] = field(default_factory=dict)  # versions, seeds, settings


def write(summary: Summary, folder: str | Path) -> list[Path]:
    """Write `summary.json` and `summary.md` into a folder; returns their paths.

    The JSON has unrounded rows by table, the page the cells that the terminal shows. Raises
    `DataError` where the folder cannot be written.
    """
    stored = {
        "title": summary.title,
        "command": summary.command,
        "summary": list(summary.sentences),
        "facts": dict(summary.facts),
        **{table.name: to_json(table) for table in summary.tables},
    }
    facts = [f"- {markdown(key)}: {markdown(str(value))}" for key, value in summary.facts.items()]
    parts = [
        f"# {markdown(summary.title)}",
        f"Made by `{printable(summary.command)}`.",
        "\n".join(f"- {markdown(sentence)}" for sentence in summary.sentences),
        *map(to_markdown, summary.tables),
        "### How it was made",
        "\n".join(facts),
    ]
    page = "\n\n".join(part for part in parts if part) + "\n"
    return write_files(Path(folder), {"summary.json": json_text(stored), "summary.md": page})


def accuracy_and_cost_table(runs: Iterable[Run]) -> Table:
    """Tabulate accuracy ± standard error, and what it cost."""
    columns = [
        text("Run", "run"),
        ACCURACY,
        CALLS,
        Column("Tokens", "generated_tokens"),
        Column("Grads", "gradient_passes"),
        RIGHT_PER_100,
        Column("Seconds", "seconds"),
    ]
    notes = [
        "Model calls, generated tokens and gradient passes are means per problem (a token or a "
        "scoring is one call, a gradient pass four). Right/100: correct answers per 100 calls. "
        "Seconds: generation, all problems."
    ]
    rows = [accuracy_row(run) for run in runs]
    return Table("accuracy", "Accuracy and cost", columns, rows, notes)


def rates_table(runs: Iterable[Run], drafts: Run) -> Table:
    """Tabulate rejection rates of `runs` above their controls.

    `drafts` is a best-of-N run without stop.
    """
    columns = [
        text("Draws of", "run"),
        Column("Judged", "candidates", count),
        Column("Rejected", "rate", percent, 2),
        INTERVAL,
        Column("Ties", tie_share, percent),
        Column("First", lambda row: first_rate(row)["rate"], percent),
        Column("95 % CI", lambda row: first_rate(row)["ci95"], percent_range),
    ]
    notes = [
        "Ties are rejected; their share of all judged is listed apart. First: the first candidate "
        "of each problem. Intervals: Wilson's, problems as clusters. The last two lines are closed "
        "forms."
    ]
    rows = [*map(rejection_row, runs), *iid_rows(drafts)]
    return Table("rejection", "Rejection rate", columns, rows, notes)


def rates_by_candidate_table(runs: Iterable[Run]) -> Table:
    """Tabulate the rejection rate of the first, second, ... candidates of all problems."""
    rows = [rejection_row(run) for run in runs]
    found = lambda row: [(of["rate"], of["candidates"]) for of in row["by_index"]]  # noqa: E731
    columns = by_index_columns(rows, found, lambda rate: number(100 * rate, 0))
    notes = ["Per cent rejected of all k-th candidates; in brackets, how many there were."]
    title = "Rejection by candidate"
    return Table("rejection_by_index", title, [text("k-th", "run"), *columns], rows, notes)


def against_table(ours: Run, rivals: Sequence[Run], twins: Sequence[Run] = ()) -> Table:
    """Tabulate paired differences of `ours`: accuracy to all rivals, rejection to the twins."""
    rows = [accuracy_difference(ours, rival) for rival in rivals]
    rows += [row for twin in twins for row in rejection_differences(ours, twin)]
    heads = [text(f"{ours.name} minus", "b"), text("in", "measure")]
    notes = ["Paired by problem, one comparison at a time: no correction for several."]
    title = f"{ours.name} against the others"
    columns = [*heads, POINTS, POINTS_INTERVAL, WON_LOST]
    return Table("differences", title, columns, rows, notes)


def revision_table(run: Run, most: int = 3) -> Table:
    """Tabulate a few judged revisions: the first of each verdict, then further accepted ones.

    Not chosen by merit: only the order of the problems decides.
    """
    verdicts = list(run.candidates["verdict"])
    firsts = [verdicts.index(v) for v in ("accepted", "rejected", "tie") if v in verdicts]
    others = [i for i in range(len(verdicts)) if i not in firsts]
    others.sort(key=lambda i: verdicts[i] != "accepted")  # stable: file order within
    records = dict(zip(run.answers["answer"], run.answers["record"], strict=True))
    chosen = run.candidates.iloc[(firsts + others)[:most]]
    rows = [
        _revision_row(answer, records[answer], nth)
        for answer, nth in zip(chosen["answer"], chosen["nth"], strict=True)
    ]
    columns = [
        text("Problem", "prompt"),
        text("Before", "context"),
        text("Token", lambda row: f"{row['old']} → {row['new']}"),
        text("Response", "response"),
        Column(
            "Reward",
            lambda row: f"{number(row['old_reward'], 2)} → {number(row['new_reward'], 2)}",
            str,
        ),
        text("Verdict", "verdict"),
    ]
    title = f"Example revisions of {run.name}"
    notes = ["The first accepted, rejected and tied ones in the order of the problems."]
    return Table("revisions", title, columns, rows, notes)


def _revision_row(answer: str, stored: Any, nth: int) -> Row:
    record = whole(stored)
    candidate = record["candidates"][nth - 1]
    return {
        "problem": answer,
        "prompt": record["prompt"],
        "context": candidate["context"],  # text before the token
        "old": candidate["old_text"],
        "new": candidate["new_text"],
        "old_reward": candidate["old_reward"],
        "new_reward": candidate["new_reward"],
        "verdict": candidate["verdict"],
        "response": candidate["text"],
        "position": candidate["position"],
        "sweep": candidate["sweep"],
    }

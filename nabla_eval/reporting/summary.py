"""The summary of a study: what happened in words, the tables, and the two files of both."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError
from nabla_eval.reporting.rows import DifferenceRow
from nabla_eval.reporting.tables import Table, to_json, to_markdown
from nabla_eval.reporting.text import jsonable, markdown, p_value, points, points_range, printable


@dataclass(frozen=True)
class Summary:
    """Everything that a study prints and writes."""

    title: str
    command: str  # that regenerates it
    sentences: Sequence[str]
    tables: Sequence[Table[Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)  # versions, seeds, settings


def verdict(row: DifferenceRow) -> str:
    """One honest sentence about a paired difference: above or below only where the interval is."""
    measure = row.measure.capitalize()
    if math.isnan(row.difference):
        return f"{measure}: {row.a} and {row.b} cannot be compared, there are no data."
    if math.isnan(row.ci95[0]):
        return f"{measure}: {row.a} and {row.b} cannot be compared, there are too few problems."
    numbers = f"95 % interval {points_range(row.ci95)}, {row.problems} problems"
    if row.wins is not None:
        numbers += f", {row.wins} won and {row.losses} lost"
    if row.p_holm is not None:
        numbers += f", corrected p {p_value(row.p_holm)}"
    if not row.decided:
        difference = f"{points(row.difference)} points, {numbers}"
        return f"{measure}: {row.a} and {row.b} cannot be told apart ({difference})."
    side = "above" if row.difference > 0 else "below"
    distance = points(abs(row.difference)).lstrip("+")
    return f"{measure}: {row.a} is {distance} points {side} {row.b} ({numbers})."


def write(summary: Summary, folder: str | Path) -> list[Path]:
    """Write `summary.json` and `summary.md` into a folder; returns their paths.

    Raises `DataError` where the folder cannot be written.
    """
    folder = Path(folder)
    files = {"summary.json": as_json(summary), "summary.md": as_markdown(summary)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. Choose another --output.") from error
    return [folder / name for name in files]


def as_json(summary: Summary) -> str:
    """The summary as JSON: unrounded rows by table, null where unknown."""
    content = {
        "title": summary.title,
        "command": summary.command,
        "summary": list(summary.sentences),
        "facts": jsonable(dict(summary.facts)),
        **{table.name: to_json(table) for table in summary.tables},
    }
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def as_markdown(summary: Summary) -> str:
    """The summary as a Markdown page, with the cells that the terminal shows."""
    facts = [f"- {markdown(key)}: {markdown(str(value))}" for key, value in summary.facts.items()]
    parts = [
        f"# {markdown(summary.title)}",
        f"Made by `{printable(summary.command)}`.",
        "\n".join(f"- {markdown(sentence)}" for sentence in summary.sentences),
        *map(to_markdown, summary.tables),
        "### How it was made",
        "\n".join(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"

"""A report is a title, sentences, tables and figures; every format is made from this one thing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nabla_eval.errors import DataError, suggest
from nabla_eval.reporting.tables import Table, to_csv, to_json, to_markdown
from nabla_eval.reporting.text import jsonable, markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Plot:
    """A figure that is drawn when somebody wants it, from the rows of a report's tables."""

    name: str  # of its files
    title: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Report:
    """One subject: what the tables say in words, the tables, the figures.

    The names of the tables are keys of the report's JSON.
    """

    name: str
    title: str
    tables: Sequence[Table[Any]]
    sentences: Sequence[str] = ()
    plots: Sequence[Plot] = field(default=())

    def table(self, name: str) -> Table[Any]:
        """A table by its name. Raises `DataError` for one that the report does not have."""
        for table in self.tables:
            if table.name == name:
                return table
        known = [table.name for table in self.tables]
        raise DataError(f"Report {self.name} has no table {name!r}. {suggest(name, known)}")


def report_json(report: Report) -> dict[str, Any]:
    """Unrounded rows by table, null where unknown: the fields of the rows' dataclasses."""
    return {table.name: to_json(table) for table in report.tables}


def json_text(content: Any) -> str:
    """Standard JSON, indented; what it cannot hold is null or �."""
    return json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def report_markdown(report: Report) -> str:
    """A section: its heading, the sentences, the tables."""
    sentences = "\n".join(f"- {markdown(sentence)}" for sentence in report.sentences)
    parts = [f"## {markdown(report.title)}", sentences, *map(to_markdown, report.tables)]
    return "\n\n".join(part for part in parts if part) + "\n"


def report_csv(report: Report) -> dict[str, str]:
    """One CSV text per table, by name."""
    return {table.name: to_csv(table) for table in report.tables}

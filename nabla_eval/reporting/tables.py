"""Tables and reports: rows of plain values, columns that word them, and their renderings.

Every format shows the same cells; JSON and CSV have the unrounded values behind them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import rich.box
import rich.table
from rich.cells import cell_len
from rich.text import Text

from nabla_eval.errors import DataError, suggest
from nabla_eval.reporting.text import jsonable, markdown, number, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row: TypeAlias = dict[str, Any]  # of plain values; its keys are those of the JSON


@dataclass(frozen=True)
class Column:
    """One column: its heading, the value that it shows of a row, and how that is worded."""

    header: str
    value: str | Callable[[Any], Any]  # a key of the row, or what is made of several
    form: Callable[..., str] = number
    digits: int | None = None  # of `form`, where it takes them and has another default
    justify: Literal["left", "right"] = "right"
    wrap: bool = False  # whether a narrow terminal may break a right-aligned cell; left ones it may
    link: str | None = None  # key of the row with the address that its cell links to on a page

    def cell(self, row: Row) -> str:
        """Word this column's value of a row."""
        value = row[self.value] if isinstance(self.value, str) else self.value(row)
        return self.form(value) if self.digits is None else self.form(value, self.digits)


def text(header: str, value: str | Callable[[Any], Any]) -> Column:
    """Return a left-aligned column of words."""
    return Column(header, value, str, justify="left")


@dataclass(frozen=True)
class Table:
    """Rows of plain values, the columns that show them, and notes below.

    Cells may hold model text: every rendering escapes them.
    """

    name: str  # key in JSON
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    most: int | None = None  # rows that are shown; JSON and CSV have all

    @property
    def shown(self) -> Sequence[Row]:
        """Return the rows that are shown."""
        return self.rows[: self.most]

    def cells(self) -> list[list[str]]:
        """Return what every format shows: one string per row and column."""
        return [[column.cell(row) for column in self.columns] for row in self.shown]

    def said(self) -> list[str]:
        """Return the notes, before them how many rows are left out."""
        if len(self.shown) == len(self.rows):
            return list(self.notes)
        some = f"{len(self.shown):,} of {len(self.rows):,} rows are shown; JSON and CSV have all."
        return [some, *self.notes]


@dataclass(frozen=True)
class Plot:
    """A figure that is drawn when somebody wants it, from the rows of a report's tables."""

    name: str  # of its files
    title: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Report:
    """One subject: what the tables say in words, the tables, the figures."""

    name: str
    title: str
    tables: Sequence[Table]
    sentences: Sequence[str] = ()
    plots: Sequence[Plot] = ()

    def table(self, name: str) -> Table:
        """Return a table by its name. Raises `DataError` for one that the report lacks."""
        for table in self.tables:
            if table.name == name:
                return table
        known = [table.name for table in self.tables]
        raise DataError(f"Report {self.name} has no table {name!r}. {suggest(name, known)}")


def to_rich(table: Table, width: int = 0) -> rich.table.Table:
    """Return the table for a terminal of that width; text is never read as rich markup."""
    view = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        collapse_padding=True,  # to fit 80 columns
        pad_edge=False,
        title=Text(table.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(table.said())) if table.said() else None,
        caption_justify="left",
    )
    widths = _widths(table, width)
    fits = not width or _room(widths) <= width  # else numbers go on in a second line
    for column, least in zip(table.columns, widths, strict=True):
        view.add_column(
            Text(column.header), justify=column.justify, overflow="fold",
            no_wrap=fits and _whole(column), min_width=least if fits else None,
        )  # fmt: skip
    for row in table.cells():
        view.add_row(*(Text(printable(cell)) for cell in row))
    return view


def fitting(table: Table, width: int) -> list[Table]:
    """Return the table, as several below each other where a terminal is too narrow for it.

    Then each task has its own, and each begins with the columns that say what a row is, so no
    number is ever cut off and few names are.
    """
    if _room(_widths(table, width)) <= width:
        return [table]
    parts = [part for own in _by_task(table) for part in _by_columns(own, width)]
    return [*parts[:-1], replace(parts[-1], notes=table.said())]


def _by_task(table: Table) -> list[Table]:
    """Return a table without notes for each task, or the one where each task has a single row."""
    tasks = list(dict.fromkeys(row.get("task") for row in table.shown))
    columns = [column for column in table.columns if column.header != "Task"]
    whole = replace(table, rows=table.shown, most=None, notes=())
    if len(columns) == len(table.columns) or len(tasks) == len(table.shown):
        return [whole]
    return [
        replace(
            whole, title=f"{table.title}: {task or 'no task'}", columns=columns,
            rows=[row for row in table.shown if row["task"] == task],
        )
        for task in tasks
    ]  # fmt: skip


def _by_columns(table: Table, width: int) -> list[Table]:
    columns, widths = list(table.columns), _widths(table, width)
    heads = next((i for i, c in enumerate(columns) if c.justify == "right"), len(columns))
    groups: list[list[int]] = [[]]
    for place in range(heads, len(columns)):
        taken = [*range(heads), *groups[-1], place]
        if groups[-1] and _room([widths[i] for i in taken]) > width:
            groups.append([])
        groups[-1].append(place)
    titles = [table.title, *[f"{table.title} (continued)"] * (len(groups) - 1)]
    return [
        replace(table, title=title, columns=[columns[i] for i in (*range(heads), *group)])
        for title, group in zip(titles, groups, strict=True)
    ]


def _room(widths: Sequence[int]) -> int:
    """Return what columns take: two spaces between them, the table's edges together included."""
    return sum(widths) + 2 * len(widths)


def _whole(column: Column) -> bool:
    return column.justify == "right" and not column.wrap


def _widths(table: Table, width: int = 0) -> list[int]:
    """Return the least width of each column: of whole cells, or of words unless very long.

    Words that are broken are longer than 14, and than their share of two fifths of the terminal.
    """
    left = sum(not _whole(column) for column in table.columns)
    word = max(14, 2 * width // 5 // max(1, left))
    found = []
    for place, column in enumerate(table.columns):
        texts = [column.header, *(printable(row[place]) for row in table.cells())]
        pieces = texts if _whole(column) else [part for text in texts for part in text.split()]
        sizes = [cell_len(piece) for piece in pieces]
        longest = max(sizes, default=1)
        found.append(longest if _whole(column) else min(longest, word))
    return found


def to_markdown(table: Table) -> str:
    """Return a heading, a GitHub table and the notes."""
    rule = ["---:" if column.justify == "right" else ":---" for column in table.columns]
    headers = [markdown(column.header) for column in table.columns]
    rows = [[markdown(cell) for cell in row] for row in table.cells()]
    lines = [f"| {' | '.join(row)} |" for row in (headers, rule, *rows)]
    notes = [markdown(note) for note in table.said()]
    return "\n\n".join([f"### {markdown(table.title)}", "\n".join(lines), *notes])


def to_csv(table: Table) -> str:
    """Return the rows' own values, unrounded, one column per key; what is unknown is empty.

    A pair such as `ci95` becomes `ci95_low` and `ci95_high`, other nested values JSON. Text that a
    spreadsheet would run as a formula is kept as text by a leading apostrophe.
    """
    rows = [_flat(row) for row in to_json(table)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    return "".join(map(_csv_line, lines))


def _csv_line(cells: Sequence[Any]) -> str:
    """Return one record, which ends in a line feed.

    csv quotes the characters of the line's end alone, and readers end a record at a bare carriage
    return too.
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(cells)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("ci95"):
            low, high = value or (None, None)
            found |= {f"{name}_low": low, f"{name}_high": high}
        elif isinstance(value, (list, dict)):
            found[name] = json.dumps(value)
        elif isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
            found[name] = f"'{value}"
        else:
            found[name] = value
    return found


def to_json(table: Table) -> list[dict[str, Any]]:
    """Return the rows' own values, unrounded; what is unknown is null."""
    return [jsonable(row) for row in table.rows]


def json_text(content: Any) -> str:
    """Return standard JSON, indented; what it cannot hold is null or �."""
    return json.dumps(jsonable(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def report_json(report: Report) -> dict[str, Any]:
    """Return the rows by the name of their table."""
    return {table.name: to_json(table) for table in report.tables}


def report_csv(report: Report) -> dict[str, str]:
    """Return one CSV text per table, by name."""
    return {table.name: to_csv(table) for table in report.tables}


def report_markdown(report: Report) -> str:
    """Return a section: its heading, the sentences, the tables."""
    sentences = "\n".join(f"- {markdown(sentence)}" for sentence in report.sentences)
    parts = [f"## {markdown(report.title)}", sentences, *map(to_markdown, report.tables)]
    return "\n\n".join(part for part in parts if part) + "\n"

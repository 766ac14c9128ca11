"""A table is rows of numbers and columns that word them; every format renders the same cells."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import rich.box
import rich.table
from rich.cells import cell_len
from rich.text import Text

from nabla_eval.reporting.text import jsonable, markdown, printable

R = TypeVar("R")


@dataclass(frozen=True)
class Column(Generic[R]):
    """One column: what it is called and how it words a row."""

    header: str
    cell: Callable[[R], str]
    justify: Literal["left", "right"] = "right"
    wrap: bool = False  # whether a narrow terminal may break a right-aligned cell; left ones it may


@dataclass(frozen=True)
class Table(Generic[R]):
    """Rows (dataclasses of plain numbers), the columns that show them, and notes below.

    Cells may hold model text: every rendering escapes them.
    """

    name: str  # key in JSON
    title: str
    columns: Sequence[Column[R]]
    rows: Sequence[R]
    notes: Sequence[str] = ()

    def cells(self) -> list[list[str]]:
        """What every format shows: one string per row and column."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]


def to_rich(table: Table[Any]) -> rich.table.Table:
    """For a terminal; text is never read as rich markup."""
    view = rich.table.Table(
        box=rich.box.SIMPLE_HEAD,
        collapse_padding=True,  # to fit 80 columns
        pad_edge=False,
        title=Text(table.title, style="bold"),
        title_justify="left",
        caption=Text("\n".join(table.notes)) if table.notes else None,
        caption_justify="left",
    )
    for column, width in zip(table.columns, _widths(table), strict=True):
        view.add_column(
            Text(column.header), justify=column.justify, overflow="fold", no_wrap=_whole(column),
            min_width=width,
        )  # fmt: skip
    for row in table.cells():
        view.add_row(*(Text(printable(cell)) for cell in row))
    return view


def fitting(table: Table[Any], width: int) -> list[Table[Any]]:
    """The table as several below each other where a terminal is too narrow for all its columns.

    Each begins with the columns that say what a row is, so no number is ever cut off.
    """
    columns, widths = list(table.columns), _widths(table)
    heads = next((i for i, c in enumerate(columns) if c.justify == "right"), len(columns))
    groups: list[list[int]] = [[]]
    for place in range(heads, len(columns)):
        taken = [*range(heads), *groups[-1], place]
        if groups[-1] and sum(widths[i] + _GAP for i in taken) > width:
            groups.append([])
        groups[-1].append(place)
    parts = []
    for number, group in enumerate(groups):
        last = number == len(groups) - 1
        parts.append(
            dataclasses.replace(
                table,
                title=table.title if number == 0 else f"{table.title} (continued)",
                columns=[columns[i] for i in (*range(heads), *group)],
                notes=table.notes if last else (),
            )
        )
    return parts


_GAP = 2  # between the columns of a rich table, its edges together included


def _whole(column: Column[Any]) -> bool:
    return column.justify == "right" and not column.wrap


def _widths(table: Table[Any], word: int = 14) -> list[int]:
    """Least width of each column: of whole cells, or of words unless they are very long."""
    found = []
    for place, column in enumerate(table.columns):
        texts = [column.header, *(printable(row[place]) for row in table.cells())]
        pieces = texts if _whole(column) else [part for text in texts for part in text.split()]
        sizes = [cell_len(piece) for piece in pieces]
        found.append(max((s for s in sizes if _whole(column) or s <= word), default=1))
    return found


def to_markdown(table: Table[Any]) -> str:
    """A heading, a GitHub table and the notes."""
    rule = ["---:" if column.justify == "right" else ":---" for column in table.columns]
    headers = [markdown(column.header) for column in table.columns]
    rows = [[markdown(cell) for cell in row] for row in table.cells()]
    lines = [f"| {' | '.join(row)} |" for row in (headers, rule, *rows)]
    notes = [markdown(note) for note in table.notes]
    return "\n\n".join([f"### {markdown(table.title)}", "\n".join(lines), *notes])


def to_csv(table: Table[Any]) -> str:
    """The rows' own numbers, unrounded, one column per field; what is unknown is empty.

    A pair such as `ci95` becomes `ci95_low` and `ci95_high`, other nested values JSON. Text that a
    spreadsheet would run as a formula is kept as text by a leading apostrophe.
    """
    rows = [_flat(row) for row in to_json(table)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    output = io.StringIO()
    writer = csv.DictWriter(output, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return output.getvalue()


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


def to_json(table: Table[Any]) -> list[dict[str, Any]]:
    """The rows' own numbers, unrounded; what is unknown is null."""
    return [jsonable(dataclasses.asdict(row)) for row in table.rows]

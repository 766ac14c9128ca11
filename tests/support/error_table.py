"""The README's table of errors, held against the errors themselves.

A test that provokes an error hands its message to `documented`, which fails where the README's row
for that cause says something else. `NABLA_WRITE_ERRORS=1 pytest -p no:xdist tests` writes the rows.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- errors:begin -->", "<!-- errors:end -->"
HEAD = "| Cause | Message | Remedy |\n| --- | --- | --- |"

Row = tuple[str, str]  # message, remedy


def documented(cause: str, message: object, remedy: str, **names: object) -> None:
    """Check (or write) the row of a cause.

    `remedy` is how the part of the message begins that says what to try; `names` are words that
    stand for what differs between machines: `FOLDER=tmp_path`.
    """
    text = " ".join(str(message).split())
    for name, value in sorted(names.items(), key=lambda item: -len(str(item[1]))):
        text = text.replace(str(value), name)
    place = text.find(remedy)
    assert place > 0, f"{remedy!r} does not begin a part of: {text}"
    row = (_cell(text[:place]), _cell(text[place:]))
    rows = read()
    if os.environ.get("NABLA_WRITE_ERRORS"):
        rows[cause] = row
        write(rows)
    assert rows.get(cause) == row, (
        f"README.md, errors, {cause!r}: the error says {row}, the table {rows.get(cause)}. "
        "NABLA_WRITE_ERRORS=1 pytest writes it."
    )


def _cell(text: str) -> str:
    """Text as a Markdown table shows it: without what would end the cell, or be a tag."""
    return re.sub(r"([|<*])", r"\\\1", text.strip().rstrip(";:,"))


def read() -> dict[str, Row]:
    """Rows of the table by cause."""
    _, table, _ = _parts()
    rows = {}
    for line in table.strip().splitlines()[2:]:
        cause, message, remedy = re.split(r"(?<!\\)\|", line)[1:4]
        rows[cause.strip()] = (message.strip(), remedy.strip())
    return rows


def write(rows: dict[str, Row]) -> None:
    """Write the table, by cause in alphabetical order."""
    before, _, after = _parts()
    lines = [f"| {cause} | {message} | {remedy} |" for cause, (message, remedy) in rows.items()]
    table = "\n".join([HEAD, *sorted(lines, key=str.casefold)])
    README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _parts() -> tuple[str, str, str]:
    before, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    table, end, after = rest.partition(END)
    assert begin and end, "README.md has lost the markers of its table of errors."
    return before, table, after

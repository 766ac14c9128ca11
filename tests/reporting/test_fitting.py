"""However narrow the terminal, no number of a table is cut off."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nabla_eval.reporting.tables import Column, Table, fitting, text, to_rich


def table(names: list[str], numbers: list[str], columns: int) -> Table:
    rows = [
        {"name": name, "numbers": [f"{n} {i}" for i in range(columns)]}
        for name in names
        for n in numbers
    ]
    cells = [Column(f"Head {i}", lambda row, i=i: row["numbers"][i], str) for i in range(columns)]
    head = text("Run", "name")
    return Table("t", "Title", [head, *cells], rows, ["A note."])


def printed(made: Table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    for part in fitting(made, width):
        console.print(to_rich(part))
    return console.file.getvalue().splitlines()


@given(
    st.lists(st.sampled_from(["nabla n=8 stop_reward=0", "greedy", "a b"]), min_size=1, max_size=3),
    st.lists(st.sampled_from(["1.0", "-10.5 to +3.2", "100.0 %"]), min_size=1, max_size=3),
    st.integers(1, 12),
    st.integers(44, 160),
)
def test_every_cell_and_heading_is_whole(names, numbers, columns, width):
    made = table(names, numbers, columns)
    lines = printed(made, width)
    assert max(map(len, lines)) <= width
    for i in range(columns):
        assert sum(f"Head {i}" in line.split("  ") or f"Head {i}" in line for line in lines) >= 1
        for row in made.rows:
            assert any(row["numbers"][i] in line for line in lines), (row["numbers"][i], lines)


@pytest.mark.parametrize("width", [30, 80])
def test_parts_name_their_rows_and_the_notes_come_last(width):
    made = table(["nabla"], ["-10.5 to +3.2"], 6)
    parts = fitting(made, width)
    assert len(parts) > 1 and fitting(made, 400) == [made]
    assert all(part.columns[0].header == "Run" for part in parts)
    assert [part.title for part in parts[:2]] == ["Title", "Title (continued)"]
    assert [part.notes for part in parts] == [()] * (len(parts) - 1) + [["A note."]]
    assert [c.header for part in parts for c in part.columns[1:]] == [f"Head {i}" for i in range(6)]

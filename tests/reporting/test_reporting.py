"""One source of numbers for every format, and model text that stays text."""

from __future__ import annotations

import io
import json
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from run_folders import as_run, candidate, record

from nabla_eval.analysis.candidates import challengers_baseline, first_accepted_baseline
from nabla_eval.analysis.runs import Run
from nabla_eval.reporting.demo import accuracy_and_cost_table, demo_report
from nabla_eval.reporting.rejection import iid_rows, rejection_report
from nabla_eval.reporting.rows import (
    INTERVAL,
    accuracy_difference,
    decided,
    run_table,
    verdict,
)
from nabla_eval.reporting.tables import Column, Table, fitting, text, to_json, to_markdown, to_rich
from nabla_eval.reporting.text import MISSING, code, markdown, number, percent, points, printable

HOSTILE = "\x1b[2J[red]<script>alert(1)</script>|`*_\u202e\n$&amp; "


def make_run(
    name: str, verdicts: list[list[str]], right: list[int], text="1+2=3", **changes
) -> Run:
    lines = [
        record(i, candidates=[candidate(v, old=-1.0, text=text) for v in found],
               **{"drafts": range(8), **changes})
        for i, found in enumerate(verdicts)
    ]  # fmt: skip
    return as_run(lines, {f"toy/{i}": [float(x)] for i, x in enumerate(right)}, name)


@pytest.fixture
def ours() -> Run:
    return make_run("ours", [["accepted", "tie"], ["rejected"], [], ["accepted"]], [1, 1, 0, 1])


@pytest.fixture
def twin() -> Run:
    return make_run("twin", [["rejected"], ["rejected"], ["tie"], ["accepted"]], [0, 1, 0, 1])


def screen(table) -> str:
    console = Console(file=io.StringIO(), width=250, force_terminal=False)
    console.print(to_rich(table))
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (0.0004, 3, "0.0004"), (0.0006, 3, "0.001"), (-0.00004, 3, "-4e-05"), (0.04, 1, "0.04"),
        (0.0, 3, "0.000"), (-1e-17, 3, "0.000"), (1234.56, 1, "1,234.6"), (math.nan, 1, MISSING),
    ],
)  # fmt: skip
def test_small_numbers_are_not_shown_as_zero(value, digits, shown):
    assert number(value, digits) == shown
    if digits == 1 and abs(value) < 1:
        assert percent(value / 100) == f"{shown} %" and points(value / 100) == f"+{shown}"


def test_terminal_and_markdown_show_the_same_cells(ours, twin):
    for table in demo_report([ours, twin]).tables:
        shown, page = screen(table), to_markdown(table)
        assert len(table.cells()) == len(table.rows) > 0
        for row in table.cells():
            for cell in row:
                assert cell in shown
                assert markdown(cell) in page


def test_json_has_the_unrounded_numbers_behind_the_cells(ours, twin):
    (first, _) = to_json(accuracy_and_cost_table([ours, twin]))
    assert first["accuracy"] == 0.75 and first["problems"] == 4
    assert first["se"] == pytest.approx(0.25)
    assert first["model_calls"] == 10 and first["seconds"] == 1.5
    assert first["correct_per_100_calls"] == pytest.approx(7.5)
    cells = accuracy_and_cost_table([ours]).cells()
    assert cells[0][:3] == ["ours", "75.0 ± 25.0 %", "10.0"]


def test_rejection_stands_beside_its_controls(ours, twin):
    rows = to_json(rejection_report([ours, twin]).table("runs"))
    assert [row["run"] for row in rows] == ["ours", "twin"]
    assert (rows[0]["candidates"], rows[0]["rejected"], rows[0]["ties"]) == (4, 2, 1)
    assert rows[0]["by_index"][0]["candidates"] == 3 and rows[0]["by_index"][0]["index"] == 1
    drafts, challengers, exact, exact_challengers = iid_rows(ours)
    assert (drafts["candidates"], challengers["candidates"]) == (32, 28)
    assert drafts["rejected"] == challengers["rejected"] == 0  # the fixture's drafts all rise
    assert exact["rate"] == rows[0]["baseline_h"] == float(first_accepted_baseline(8))
    assert exact_challengers["rate"] == float(challengers_baseline(8))
    shown = screen(rejection_report([ours]).table("runs"))
    assert "66.0" in shown and "75.5" in shown


def test_rejection_by_index_says_how_many_problems_got_that_far(ours, twin):
    assert rejection_report([ours, twin]).table("by_index").cells() == [
        ["ours", "33 % (3)", "100 % (1)"],
        ["twin", "75 % (4)", MISSING],
    ]


def test_one_draw_has_no_challengers():
    single = make_run("one", [[], []], [1, 0], config={"n": 1}, drafts=[0.0])
    names = [row["run"] for row in iid_rows(single)]
    assert names == ["one drafts", "1 - H_1/1"]


def test_differences_are_worded_as_their_intervals_allow(ours, twin):
    row = accuracy_difference(ours, twin)
    assert (row["difference"], row["wins"], row["losses"], decided(row)) == (0.25, 1, 0, False)
    assert "cannot be told apart" in verdict(row) and "+25.0 points" in verdict(row)
    row |= {"a": "a", "b": "b", "problems": 100}
    better = {**row, "difference": 0.1, "ci95": (0.05, 0.15), "wins": 12, "losses": 2}
    assert verdict(better) == (
        "Accuracy: a is 10.0 points above b "
        "(95 % interval +5.0 to +15.0, 100 problems, 12 won and 2 lost)."
    )
    rate = {**row, "measure": "rejection", "wins": None}
    worse = {**rate, "difference": -0.1, "ci95": (-0.15, -0.05)}
    assert verdict(worse).startswith("Rejection: a is 10.0 points below b (95 % interval -15.0")
    nothing = {**rate, "difference": math.nan, "ci95": (math.nan, math.nan)}
    assert "no data" in verdict(nothing) and not decided(nothing)


def test_model_text_is_inert_everywhere():
    columns = [text("Prompt", "prompt"), text("Response", "text")]
    table = Table("t", "Title", columns, [{"prompt": HOSTILE, "text": HOSTILE}])
    shown, page = screen(table), to_markdown(table)
    assert not {"\x1b", "\u202e"} & {*shown, *page}
    assert "[red]<script>alert(1)</script>" in re.sub(r"\s+", "", shown)
    assert "<script>" not in page
    row = page.splitlines()[-1]
    assert len(re.findall(r"(?<!\\)\|", row)) == len(table.columns) + 1
    (stored,) = to_json(table)
    assert json.loads(json.dumps(stored))["prompt"] == HOSTILE


@given(st.text())
def test_printable_text_has_no_control_and_markdown_no_tag(text):
    assert printable(text).isprintable()
    shown = markdown(text)
    assert shown.isprintable() and "<" not in shown and ">" not in shown
    assert not re.search(r"(?<!\\)(\\\\)*[|`*_\[\]]", shown)


def test_what_is_unknown_is_a_dash_in_words_and_null_in_json():
    assert number(math.nan) == percent(None) == points(math.nan) == MISSING
    unknown = [{"rate": math.nan, "ci95": (math.nan, math.nan)}]
    table = Table("t", "T", [Column("Rate", "rate", percent), INTERVAL], unknown)
    assert table.cells() == [[MISSING, MISSING]]
    assert to_json(table) == [{"rate": None, "ci95": [None, None]}]


@given(st.text("`a \n\x1b", min_size=1))
def test_no_backtick_ends_a_code_span(text):
    span = code(text)
    fence = re.match("`+", span).group()
    assert span.endswith(fence) and "\n" not in span and "\x1b" not in span
    inner = span[len(fence) : -len(fence)]
    assert fence not in re.findall("`+", inner) and not inner.startswith("`")


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
        console.print(to_rich(part, width))
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


def test_long_names_stay_whole_and_each_task_has_a_table_of_its_own():
    tasks = "nabla_aime_2024", "nabla_math_500_conservative"
    names = "nabla n=8 policy=Qwen/Qwen2.5-7B-Instruct", "best_of_n n=8 stop_reward=0.00012"
    rows = [{"run": name, "task": task, "rate": 0.5} for task in tasks for name in names]
    rates = [Column(f"Rejection rate {i}", "rate", percent) for i in range(4)]
    made = run_table("t", "Title", rows, rates, "A note.")
    lines = printed(made, 80)
    for word in [*tasks, *(word for name in names for word in name.split())]:
        assert any(word in line for line in lines), word
    assert max(map(len, lines)) <= 80
    parts = fitting(made, 80)
    assert [part.title for part in parts] == [
        "Title: nabla_aime_2024", "Title: nabla_aime_2024 (continued)",
        "Title: nabla_math_500_conservative", "Title: nabla_math_500_conservative (continued)",
    ]  # fmt: skip
    assert [len(part.rows) for part in parts] == [2] * 4 and parts[-1].notes == ["A note."]
    single = replace(made, rows=rows[::2])  # a table that is about tasks is not taken apart
    assert fitting(single, 80)[0].columns[0].header == "Task"
    cut = fitting(replace(made, most=3), 80)
    assert [len(part.rows) for part in cut] == [2, 2, 1, 1]
    assert cut[-1].notes == ["3 of 4 rows are shown; JSON and CSV have all.", "A note."]

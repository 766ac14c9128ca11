"""The page: hostile text is inert in every format, and cells are the same everywhere."""

from __future__ import annotations

import csv
import html
import io
import math
import re

import pandas
from click.testing import CliRunner
from page_reader import Reader
from run_folders import NABLA, candidate, record, write_run

from nabla_eval.analysis.study import load_pair
from nabla_eval.cli.main import main
from nabla_eval.reporting.accuracy import compare_report
from nabla_eval.reporting.page import Page, page_html, page_markdown
from nabla_eval.reporting.tables import Table, report_csv, report_markdown, to_csv, to_markdown
from nabla_eval.reporting.text import markdown, printable

HOSTILE = "\x1b[31m</td><script>alert(1)</script><img src=x onerror=y>{{7*7}}\u202e|`"


def hostile_report(tmp_path):
    for name, text, right, lr in (("a", HOSTILE, 1.0, 0.1), ("b", "=1+1", 0.0, 0.01)):
        records = [
            record(i, text=text, config={**NABLA, "lr": lr}, candidates=[candidate("rejected")],
                   prompt=HOSTILE)
            for i in range(3)
        ]  # fmt: skip
        write_run(tmp_path / name, records, [right] * 3)
    return compare_report(*load_pair(tmp_path / "a", tmp_path / "b"))


def test_model_text_is_inert_and_cells_are_the_same_in_every_format(tmp_path):
    report = hostile_report(tmp_path)
    page = Page("T <b>", "cmd", [report], ["<i>w"], {"k": "<u>"})
    text = page_html(page, {})
    reader = Reader()
    reader.feed(text)
    assert not reader.tags & {"img", "b", "i", "u", "iframe"} and text.count("<script") == 1
    assert not any(name.startswith("on") for name in reader.names)
    assert "\x1b" not in text and "\u202e" not in text and "{{7*7}}" in html.unescape(text)
    expected = [printable(cell) for table in report.tables for row in table.cells() for cell in row]
    assert reader.cells == expected  # the cells of terminal and Markdown, in the same order
    section = report_markdown(report)
    assert "<script" not in section and "\x1b" not in section
    for table in report.tables:
        for row in table.cells():
            assert " | ".join(map(markdown, row)) in to_markdown(table)
    assert section in page_markdown(page)


def test_a_csv_has_a_record_per_row_whatever_its_texts_hold():
    ends = ["\r", "\n", "\r\n", "\x85", "\u2028", "\x00", "\x1c", "\x0b", '"', ",", "\r\r\n"]
    texts = [f"a{end}b" for end in ends] + [f"a{end}" for end in ends] + ["\ud800", ""]
    table = Table("t", "T", [], [{"text": each, "x": 1, "a\rb": None} for each in texts])
    written = to_csv(table).encode()
    found = pandas.read_csv(io.BytesIO(written), keep_default_na=False)
    assert list(found.columns) == ["text", "x", "a\rb"] and list(found["x"]) == [1] * len(texts)
    assert list(found["text"]) == [each.replace("\ud800", "\ufffd") for each in texts]
    rows = list(csv.reader(io.StringIO(written.decode(), newline="")))
    assert [row[0] for row in rows[1:]] == list(found["text"])


def test_csv_keeps_formulas_as_text(tmp_path):
    rows = list(csv.DictReader(io.StringIO(report_csv(hostile_report(tmp_path))["apart"])))
    assert rows[0]["answer_b"] == "'=1+1" and rows[0]["answer_a"] == HOSTILE


def test_the_page_asks_for_nothing(tmp_path):
    text = page_html(Page("t", "c", [hostile_report(tmp_path)]), {})
    assert "default-src 'none'" in text and "<html lang=" in text
    assert not re.search(r"(src|href)=\"(?!#|data:)", text)


def test_numbers_without_bounds_and_odd_options_are_reported(tmp_path):
    """Traces write infinities, and a damaged shard may hold any option."""
    judged = [
        {**candidate("accepted", old=-math.inf, new=1.0, norm=math.inf), "entropy": math.nan},
        candidate("rejected"),
    ]
    write_run(tmp_path / "a", [record(i, candidates=judged) for i in range(3)], [1.0] * 3)
    odd = [record(i, config={**NABLA, "n": {"a": [1]}}, candidates=judged) for i in range(3)]
    write_run(tmp_path / "b", odd, [1.0] * 3)
    words = ["report", "all", str(tmp_path / "a"), str(tmp_path / "b"), "--output"]
    result = CliRunner().invoke(main, [*words, str(tmp_path / "page")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page" / "report.html").exists()

"""The page is one file that says what the stories say, and in which model text is inert."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from told_runs import HOSTILE, IDS, guided_records, told_records

from nabla_eval.errors import DataError
from nabla_eval.reporting.story import tell_all
from nabla_eval.reporting.viewer import TracePage, page_data, page_html, visible, write_pages


def page(title: str = HOSTILE) -> TracePage:
    return TracePage(title, tell_all(told_records()), {"options": HOSTILE})


def embedded(html: str) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(block)


def test_the_data_come_back_out_of_the_page() -> None:
    data = embedded(page_html(page()))
    assert data == json.loads(json.dumps(page_data(page())))
    assert [problem["id"] for problem in data["problems"]] == list(IDS)
    assert data["problems"][0]["first"][2] == ["12", 1.5, 8.25, None, 0]
    assert data["problems"][0]["final"][2] == ["13", 1.5, None, 1, 1]


def test_nothing_of_a_model_is_markup_script_or_invisible() -> None:
    html = page_html(page())
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert "<img" not in html and "owned" in html
    assert all(c == "\n" or c.isprintable() for c in html)
    assert "<title>&lt;/script&gt;" in html


def test_only_the_pages_own_script_may_run_and_nothing_be_asked_for() -> None:
    html = page_html(page())
    (policy,) = re.findall(r'Content-Security-Policy"\s+content="(.*?)"', html)
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy
    assert "innerHTML" not in script and "://" not in html
    assert not re.findall(r"(?:src|href)=\"(?!#|data:,)", html)


def test_invisible_characters_are_spelled_out_and_line_breaks_kept() -> None:
    assert visible("a\nb\t\x1b\x00\u202e\ud800\u2028") == ("a\nb\t\\x1b\\x00\\u202e\\ud800\\u2028")


def test_pages_are_written_by_name_or_the_folder_is_refused(tmp_path: Path) -> None:
    (path,) = write_pages({"run": page()}, tmp_path / "new")
    assert path == tmp_path / "new" / "run.html" and path.stat().st_size < 60_000
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="Choose another --output"):
        write_pages({"run": page()}, tmp_path / "file")


def test_guided_tokens_are_on_the_page() -> None:
    data = embedded(page_html(TracePage("guided", tell_all(guided_records()))))
    first, second = data["problems"][0]["choices"]
    assert (first["new"], first["gradient"], first["replaced"]) == ("7", [-0.5, 0.75], True)
    assert (second["old"], second["replaced"]) == (visible(HOSTILE), False)

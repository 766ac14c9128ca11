"""The page is one file that says what the stories say, and in which model text is inert."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path

import pytest
from told_runs import HOSTILE, IDS, guided_records, searched_records, told_records

from nabla_eval.errors import DataError
from nabla_eval.reporting import viewer
from nabla_eval.reporting.story import tell
from nabla_eval.reporting.viewer import TracePage, beside, visible, write_pages


def page(title: str = HOSTILE) -> TracePage:
    return TracePage(title, map(tell, told_records()), {"options": HOSTILE})


@pytest.fixture
def html(tmp_path: Path) -> str:
    (path,) = write_pages({"run": page()}, tmp_path)
    return path.read_text(encoding="utf-8")


def embedded(html: str) -> dict:
    (block,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(block)


def data_of(folder: Path, records: list) -> dict:
    (path,) = write_pages({"run": TracePage("r", map(tell, records))}, folder)
    return embedded(path.read_text(encoding="utf-8"))


def test_the_data_come_back_out_of_the_page(html: str) -> None:
    data = embedded(html)
    assert data["facts"] == [["options", visible(HOSTILE)]]
    assert [problem["id"] for problem in data["problems"]] == list(IDS)
    assert data["problems"][0]["first"][2] == ["12", 1.5, 8.25, None, 0]
    assert data["problems"][0]["final"][2] == ["13", 1.5, None, 1, 1]


def test_nothing_of_a_model_is_markup_script_or_invisible(html: str) -> None:
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert "<img" not in html and "owned" in html
    assert all(c == "\n" or c.isprintable() for c in html)
    assert "<title>&lt;/script&gt;" in html


@pytest.mark.parametrize("text", ["a\x7f", "\\\x1b", "\u200b", "plain"])
def test_a_single_invisible_character_is_seen(tmp_path: Path, text: str) -> None:
    (path,) = write_pages({"run": TracePage("r", [], {"options": text})}, tmp_path)
    html = path.read_text(encoding="utf-8")
    assert all(c == "\n" or c.isprintable() for c in html)
    assert embedded(html)["facts"] == [["options", visible(text)]]


def test_only_the_pages_own_script_may_run_and_nothing_be_asked_for(html: str) -> None:
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


def test_guided_tokens_and_moves_of_a_search_are_on_the_page(tmp_path: Path) -> None:
    data = data_of(tmp_path, [*guided_records(), *searched_records()])
    first, second = data["problems"][0]["choices"]
    assert (first["new_text"], first["gradient"], first["replaced"]) == ("7", [-0.5, 0.75], True)
    assert (second["old_text"], second["replaced"]) == (visible(HOSTILE), False)
    moves = data["problems"][1]["moves"]
    assert [move["text"] for move in moves][2:] == ["b;", "c=4"]
    assert moves[1]["note"] == visible(searched_records()[0]["steps"][2]["note"])


def parts_of(path: Path) -> list[list[dict]]:
    """What the parts of a page hold, each the one call that its script may make."""
    found = []
    for number in range(len(list(beside(path).iterdir()))):
        text = (beside(path) / f"part-{number}.js").read_text(encoding="ascii")
        (call,) = re.findall(r"^part\((\d+),(\[.*\])\);\n$", text)
        assert int(call[0]) == number and not set(text) & set("<>&")
        found.append(json.loads(call[1]))
    return found


def test_a_large_run_is_a_page_of_rows_and_parts_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_pages({"run": page()}, tmp_path)
    whole = embedded(path.read_text(encoding="utf-8"))
    monkeypatch.setattr(viewer, "PART", 2000)
    write_pages({"run": page()}, tmp_path)
    data = embedded(path.read_text(encoding="utf-8"))
    parts = parts_of(path)
    assert len(parts) > 1 and [problem for part in parts for problem in part] == whole["problems"]
    assert data["firsts"] == [sum(map(len, parts[:number])) for number in range(len(parts))]
    assert data["folder"] == "run-problems" and data["scales"] == whole["scales"]
    assert [row["id"] for row in data["problems"]] == list(IDS)
    for row, problem in zip(data["problems"], whole["problems"], strict=True):
        assert {**problem, "question": row["question"]} == {**problem, **row}
        assert problem["question"].startswith(row["question"]) and "first" not in row
    assert "script-src 'sha256-" in path.read_text() and "'strict-dynamic';" in path.read_text()


def test_parts_of_a_larger_run_of_that_name_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = write_pages({"run": page()}, tmp_path)
    single = path.read_bytes()
    assert "strict-dynamic" not in path.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(viewer, "PART", 1)
        write_pages({"run": page()}, tmp_path)
        assert len(parts_of(path)) == len(IDS)
    write_pages({"run": page()}, tmp_path)
    assert path.read_bytes() == single and not beside(path).exists()
    beside(path).mkdir()
    (beside(path) / "notes.txt").write_text("mine")
    write_pages({"run": page()}, tmp_path)
    assert [file.name for file in beside(path).iterdir()] == ["notes.txt"]


def test_a_row_is_bounded_whatever_the_prompt(tmp_path: Path) -> None:
    records = [{**told_records()[0], "prompt": "x" * 10**7}]
    (path,) = write_pages({"run": TracePage("r", map(tell, records))}, tmp_path)
    assert path.stat().st_size > 10**7  # one problem is one part
    two = [records[0], {**records[0], "id": "toy/1/0"}]
    write_pages({"run": TracePage("r", map(tell, two))}, tmp_path)
    assert path.stat().st_size < 60_000 and list(map(len, parts_of(path))) == [1, 1]


def test_a_colour_is_full_at_the_largest_hundredth(tmp_path: Path) -> None:
    tokens = [f"t{i}" for i in range(200)]
    entropy = [float(i) for i in range(199)] + [float("nan")]
    lines = told_records()[:1]
    lines[0]["profiles"] = {
        "first": {"tokens": tokens, "entropy": entropy, "gradient_norms": {"3": 2.5}}
    }
    lines[0]["candidates"], lines[0]["outcome"]["text"] = [], "a+12=7"
    lines[0]["outcome"]["tokens"] = lines[0]["drafts"][0]["tokens"]
    assert data_of(tmp_path, lines)["scales"] == [197.0, 2.5]
    assert data_of(tmp_path, [])["scales"] == [0.0, 0.0]

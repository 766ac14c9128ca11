"""The page on which our grader and math-verify stand side by side."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="module")
def compare(root: Path) -> Any:
    spec = importlib.util.spec_from_file_location("compare", root / "reports/grading/compare.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["compare"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["compare"]


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_the_counts_and_the_rows_are_those_of_the_graders(compare: Any, tmp_path: Path) -> None:
    from_others = {"source": "owner/Project:tests/a.py"}
    (tmp_path / "grading_pairs.jsonl").write_text(lines(
        {"gold": "1/2", "pred": r"\frac{1}{2}", "equal": True, **from_others},
        {"gold": "odd", "pred": r"\boxed{ddo}", "equal": False, **from_others},
    ))  # fmt: skip
    (tmp_path / "grading_pairs_policy.jsonl").write_text(lines(
        {"gold": "7", "pred": "7", "equal": True, "reason": "a|b", **from_others}
    ))  # fmt: skip
    asked: dict[str, Any] = {"kind": "k", "expected": False}
    (tmp_path / "reported_inputs.jsonl").write_text(lines(
        {**asked, "input": {"gold": "7", "answer": "8"}},
        {**asked, "input": {"gold": "7", "response": "it is 7"}, "expected": True},
        {**asked, "input": {"method": "greedy"}},  # no pair
        {**asked, "input": {"gold": "7", "answers": ["8"]}},
        {**asked, "input": {"gold": "7", "response": "7"}, "expected": "a warning"},
    ))  # fmt: skip
    sets = {name: compare.graded(tmp_path / f"{name}.jsonl") for name in compare.SETS}
    table = [line.split("|")[2:8] for line in list(compare.counts(sets))[2:]]
    assert [[cell.strip() for cell in row] for row in table] == [
        ["2", "2 (100.0 %)", "1 (50.0 %)", "1", "0", "1"],
        ["1", "1 (100.0 %)", "1 (100.0 %)", "0", "0", "0"],
        ["2", "2 (100.0 %)", "2 (100.0 %)", "0", "0", "0"],
    ]
    page = compare.page(sets)
    row = "<code>odd</code> and <code>&#92;boxed{ddo}</code>: unequal; accepted by math-verify"
    assert f"| Project | 2 | 2 | 1 | {row} |" in page
    assert "a|b" not in page  # nothing to show of rows on which they agree


def test_excerpts_are_short_and_end_no_cell(compare: Any) -> None:
    shown = compare.code("x|y$" * 50)
    assert shown.startswith("<code>… ") and "|" not in shown and "$" not in shown
    assert len(compare.code("a" * 500)) < 80
    assert compare.code("5\u200b") == "<code>5&#92;u200b</code>", "what nobody sees is spelt out"


def test_folders_without_the_pairs_are_refused(
    compare: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["compare.py", str(tmp_path), "--output", "none"])
    with pytest.raises(SystemExit, match=r"has no grading_pairs\.jsonl"):
        compare.main()

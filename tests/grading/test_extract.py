"""Where in a response the answer is, and where none is.

`extracted.tsv` holds a case a line: its kind, the response, in which ⏎ stands for a line break, and
the answer, which is missing where there is none.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from nabla_eval.grading import extract

TABLE = Path(__file__).with_name("extracted.tsv").read_text(encoding="utf-8")
CASES = [line.replace("⏎", "\n").split("\t")[1:] for line in TABLE.rstrip("\n").split("\n")]


@pytest.mark.parametrize(("text", "answer"), CASES)
def test_the_answer_is_found(text: str, answer: str) -> None:
    assert extract(text) == (answer or None)


@pytest.mark.parametrize("nothing", [None, "", "   \n"])
def test_nothing_said_holds_no_answer(nothing: str | None) -> None:
    assert extract(nothing) is None


def test_a_thought_that_the_prompt_opened() -> None:
    assert extract(r"so far \boxed{1}", in_thought=True) is None
    assert extract(r"so far \boxed{1}</think>\boxed{2}", in_thought=True) == "2"

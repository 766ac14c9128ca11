"""The cost of finding an answer grows with the length of the response, and no faster.

Steps are lines of our code that run and characters that slices copy; only of regular expressions,
which count neither, the processor time is taken.
"""

from __future__ import annotations

import sys
import time
from types import FrameType
from typing import Any

import pytest

from nabla_eval.grading.extract import _boxed, extract
from nabla_eval.grading.normalise import normalise
from nabla_eval.thought import Thought

OURS = ("nabla_eval/grading/", "nabla_eval/thought.py")


class Counted(str):
    """Text that counts the characters which are copied out of it."""

    copied = 0

    def __getitem__(self, place: Any) -> str:
        found = super().__getitem__(place)
        Counted.copied += len(found)
        return found


def steps(call: Any, text: str) -> int:
    """Lines of grading that run, and characters that are copied, while a text is read."""
    lines, Counted.copied = 0, 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace if any(part in frame.f_code.co_filename for part in OURS) else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(Counted(text))
    finally:
        sys.settrace(before)
    return lines + Counted.copied


def assert_linear(call: Any, small: str, large: str) -> None:
    assert steps(call, large) <= 2.2 * steps(call, small) + 3000, "one pass, whatever stands there"


NESTED = {
    "boxes in boxes": lambda n: r"\boxed{" * n + "1" + "}" * n,
    "spaced boxes in boxes": lambda n: r"\boxed{ " * n + "1" + " }" * n,
    "boxes in blank boxes": lambda n: r"\boxed{  " * n + "  }" * n,
    "boxes in sums": lambda n: r"\boxed{1+" * n + "1" + "}" * n,
    "denied boxes in boxes": lambda n: r"not \boxed{" * n + "1" + "}" * n,
    "boxes in braces": lambda n: r"{\boxed{" * n + "1" + "}}" * n,
    "a list of boxes": lambda n: r"\boxed{1}, " * n,
    "a list of boxes without braces": lambda n: r"\boxed 1, " * n,
    "boxes apart": lambda n: (r"\boxed{1}" + "\n" * 81) * n,
    "denied boxes": lambda n: r"not \boxed{1} " * n,
    "open boxes": lambda n: r"\boxed{" * n,
    "closed boxes": lambda n: r"\boxed{1" * n + "}",
}


@pytest.mark.parametrize("kind", NESTED)
def test_boxes_are_read_in_one_pass(kind: str) -> None:
    assert_linear(_boxed, NESTED[kind](1000), NESTED[kind](2000))


def test_200_000_nested_boxes() -> None:
    inner = r"\boxed{" * 199_999 + "1" + "}" * 199_999
    assert extract(rf"\boxed{{{inner}}}") == inner


PIECES = [
    "{", "}", "\\", "$", "$1", "$1 ", "$x$ ", "\\(", "\\(x\\) ", "\\frac{", "\\boxed{", "\\\\boxed",
    "\\boxed{1}, ", "\\boxed 1 ", "\\boxed{1}^", "not \\boxed{1} ", "####", "#### ", "#### 1\n",
    "answer ", "answer is ", "the answer is 1. ", "Answer\n", "Answer: 7 is ", "answer: $x$ is ",
    "if the answer ", "<answer>", "</answer>", "答案", "respuesta ", "is ", "is $x$ ", "$x$ is ",
    "because ", " - a", "option A is ", "(A) ", "- ", "\n- ", " \n- ", "\n", "\n\n", "\t", "\xa0",
    " ", ".", ":", "a", "é", "(a ", "and ", "x=", "x_1=", "_1", "0", "1", "9", "1,", "1:2",
    "1/2 ", "(1, ", "1 000 ", "½", "٣", "<b>", "<b ", "<sup>", "<sup>1</sup>", "✅", "**", "**a** ",
    "~~a", "~~a~~", "<think>", "</think>", "<think></think>", "<|channel|>",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("before", ["", "The answer is ", r"\boxed{1} "])
def test_answers_are_looked_for_in_one_pass(before: str, piece: str) -> None:
    # Beyond the 2,000 characters that are read of a sentence.
    small, large = (before + piece * (length // len(piece)) for length in (2500, 5000))
    assert_linear(extract, small, large)
    # Regular expressions run no lines that could be counted. Linear passes over 40,000 characters
    # take a tenth of a second of processor time; a quadratic one would take minutes.
    text = before + piece * (40_000 // len(piece))
    began = time.process_time()
    extract(text)
    extract(text + r"\boxed{1}")
    assert time.process_time() - began < 10


@pytest.mark.parametrize("piece", ["<think>", "</think>", "<think></think>", "a"])
def test_thoughts_are_left_in_one_pass(piece: str) -> None:
    thought = Thought("</think>", "<think>", opened=True)
    assert_linear(thought.answer, piece * 1000, piece * 2000)


@pytest.mark.parametrize("text", ["1", "0.000", "F0", "1, ", "x "])
def test_normalising_looks_at_no_digit_twice(text: str) -> None:
    """Regular expressions run no lines that could be counted: 40,000 digits took a minute."""
    began = time.process_time()
    normalise(text * (40_000 // len(text)))
    assert time.process_time() - began < 5

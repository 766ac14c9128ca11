"""Properties of `equal`, `grade` and `cluster` besides the rows of `kinds.tsv`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nabla_eval.grading import cluster, equal, grade, grade_batch


@pytest.mark.parametrize("answer", ["70,000", "70000", r"\$70{,}000", "70000.00"])
def test_worked_example_of_gsm8k(answer: str) -> None:
    """arXiv 2603.04948, appendix D.3: the profit is 70,000; -10,000 is the rejected answer."""
    assert equal("70,000", answer)
    assert not equal(answer, "-10,000")
    assert grade("70,000", rf"The profit is $\boxed{{{answer}}}$.").equal
    assert not grade("70,000", r"He lost money: \boxed{-10,000}").equal


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_integers_are_equal_when_their_values_are(a: int, b: int) -> None:
    assert equal(f"{a:,}", str(a))
    assert equal(str(a), f"0{a}" if a >= 0 else f"-0{-a}")
    assert equal(str(a), str(b)) == (a == b)


@given(st.integers(-999, 999), st.integers(1, 99), st.integers(-999, 999), st.integers(1, 99))
def test_fractions_are_equal_when_their_values_are(a: int, b: int, c: int, d: int) -> None:
    assert equal(f"{a}/{b}", rf"\dfrac{{{c}}}{{{d}}}") == (a * d == b * c)


def test_cluster_groups_equal_answers() -> None:
    answers = ["1/2", "0.5", None, "x+1", r"\frac12", "1+x", " ", "7", "7.0", "\\text{seven}"]
    assert cluster(answers) == [0, 0, -1, 1, 0, 1, -1, 2, 2, 3]
    assert cluster([]) == []


def test_batch_equals_one_by_one() -> None:
    pairs = [("x+1", "1+x"), ("7", r"\boxed{8}"), ("7", None), (r"\sqrt{8}", r"$2\sqrt{2}$")]
    assert grade_batch(pairs) == [grade(gold, text) for gold, text in pairs]


def test_reasons() -> None:
    assert grade("7", None).reason == "no_answer"
    assert grade("7", "I do not know.").reason == "no_answer"
    assert grade("7", "<think>it is 7").reason == "no_answer"
    assert grade("7", "7" * 5000).reason == "too_long"
    assert grade("7", "8").reason == ""


def test_gold_may_be_a_whole_solution() -> None:
    assert grade("She sells 3 * 6 = 18.\n#### 18", "The answer is 18.").equal
    assert grade(r"Since $x<2$ we get $\boxed{2-2p}$.", "$-2p+2$").equal

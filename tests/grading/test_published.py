"""math-verify as the grader: its own verdicts, in the worker that can be killed."""

from __future__ import annotations

import pytest

from nabla_eval.grading import GRADERS, grade, grade_batch

# gold, response, verdict of ours, of math-verify, and the answer that math-verify read
CASES = [
    ("70,000", "The answer is 70000.", True, True, "70000"),
    (r"\frac{1}{2}", r"so $\boxed{0.5}$", True, True, r"\frac{1}{2}"),  # as it writes it
    (r"x^2+1=0", r"$\boxed{x^2+2=0}$", False, True, "x^2+2=0"),  # no real solutions: "equal"
    ("odd", r"\boxed{ddo}", False, True, "ddo"),  # a product of letters
    ("1e-7", r"\boxed{2e-7}", False, False, "2e-7"),
    (r"12", r"\boxed{13}", False, False, "13"),
]


@pytest.mark.parametrize(("gold", "response", "ours", "theirs", "answer"), CASES)
def test_each_grader_has_its_own_verdict(
    gold: str, response: str, ours: bool, theirs: bool, answer: str
) -> None:
    assert grade(gold, response).equal is ours
    found = grade(gold, response, grader="math_verify")
    assert (found.equal, found.answer, found.reason) == (theirs, answer, "")


def test_it_is_math_verify_itself() -> None:
    """The same verdicts as its own functions give in this process."""
    from math_verify import parse, verify

    pairs = [
        (r"\frac{3}{4}", "I get 0.75"), ("25", r"$\boxed{025}$"), ("10", r"$10\%$"),
        (r"\{1,2\}", r"$\{2,1\}$"), ("(1,2)", "$(1,2)$"), ("5", "5 apples and 6 pears"),
    ]  # fmt: skip
    graded = grade_batch(pairs, grader="math_verify")
    expected = [
        verify(parse(rf"\boxed{{{gold}}}"), parse(response), timeout_seconds=None)
        for gold, response in pairs
    ]
    assert [found.equal for found in graded] == expected and {*expected} == {True, False}


def test_nothing_said_is_no_answer_and_bare_answers_are_mathematics() -> None:
    for response in (None, " ", "I do not know"):
        assert grade("5", response, grader="math_verify").reason == "no_answer"
    assert grade("1/2", r"\frac{1}{2}", extracted=True, grader="math_verify").equal
    assert grade("She sells 3 * 6 = 18.\n#### 18", "It is 18.", grader="math_verify").equal


def test_a_comparison_that_hangs_is_killed() -> None:
    found = grade("2", r"$\boxed{9^{9^{9^{9}}}}$", grader="math_verify", timeout=0.3)
    assert (found.equal, found.timed_out, found.reason) == (False, True, "grader_timeout")
    assert grade("2", "it is 2", grader="math_verify").equal  # by the next worker


def test_the_verdicts_of_two_graders_are_kept_apart() -> None:
    gold, response = "odd", r"\boxed{ddo}"
    verdicts = [grade(gold, response, grader=name).equal for name in (*GRADERS, *GRADERS)]
    assert verdicts == [False, True, False, True]

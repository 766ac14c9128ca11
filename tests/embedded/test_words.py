"""The word problems: their stories, what is right of a response, and the split."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from nabla_eval.embedded.words import (
    LARGEST,
    OPERATORS,
    STEPS,
    Calculation,
    Ref,
    WordProblem,
    combine,
    first_error,
    problems,
    split_of,
    test_problems,
    verify,
)

TOLD = problems(400, "test")
# Ann has 24 apples. Ben has 3 times as many, and sells 7.
TWO = WordProblem(
    ("Ann has 24 apples.", "Ben has 3 times as many apples as Ann.", "Then Ben sells 7 apples."),
    "How many apples does Ben have now?",
    (
        Calculation("×", 24, 3, "Ben", "times", "apples"),
        Calculation("-", Ref(0), 7, "Ben", "loss", "apples"),
    ),
)
RIGHT = "First, Ben has 3 × 24 = 72 apples.\n\nThis leaves 72 - 7 = 65.\n\n\\boxed{65}."


def test_problems_are_what_they_are_meant_to_be() -> None:
    steps = Counter(len(problem.steps) for problem in TOLD)
    assert set(steps) == set(range(STEPS[0], STEPS[1] + 1))
    assert min(steps.values()) > len(TOLD) / 5 / 2  # uniform in their number
    used = Counter(step.operator for problem in TOLD for step in problem.steps)
    assert set(used) == set(OPERATORS) and min(used.values()) > 100
    for problem in TOLD:
        assert all(1 <= result <= LARGEST for result in problem.results)
        given = {side for s in problem.steps for side in (s.left, s.right) if isinstance(side, int)}
        words = {2: "half|twice|double", 3: "third", 4: "quarter", 5: "fifth"}
        for number in given:
            pattern = rf"\b{number}\b|\b({words.get(number, number)})\b"
            assert re.search(pattern, problem.prompt), (number, problem.prompt)


def test_each_step_is_needed_and_follows_what_it_needs() -> None:
    for problem in TOLD:
        needed = {len(problem.steps) - 1}
        for index in reversed(range(len(problem.steps))):
            assert index in needed and all(other < index for other in problem.steps[index].needs)
            needed |= set(problem.steps[index].needs)


def test_the_same_problems_on_every_machine_and_each_once() -> None:
    first, *_ = documents = test_problems(50)
    assert documents == test_problems(50) and documents[:5] == test_problems(5)
    assert first["prompt"].startswith("Yuki starts with 12 lemons. Ali has 9 times as many")
    assert first["target"] == 46 and "12 × 9 = 108" in first["equations"]
    assert len({problem.canonical for problem in TOLD}) == len(TOLD)
    assert test_problems(5, seed=1) != documents[:5]


def test_splits_share_no_structure_with_its_numbers() -> None:
    sets = {name: {p.canonical for p in problems(1000, name)} for name in ("train", "test")}
    assert not sets["train"] & sets["test"]
    assert all(split_of(problem) == "test" for problem in TOLD)
    # What is told otherwise is in the same split: names, objects and words are not in the hash.
    renamed = WordProblem(("x",), "y", TWO.steps)
    assert renamed.canonical == TWO.canonical == "24×3;#0-7"
    assert split_of(renamed) == split_of(TWO)


@pytest.mark.parametrize(
    ("response", "right"),
    [
        (RIGHT, True),
        ("\\boxed{65}", True),
        ("\\boxed{1} no, \\boxed{65}", True),
        ("\\boxed{65} or \\boxed{66}", False),
        ("65", False),
        ("\\boxed{6 5}", False),
        ("\\boxed{__import__('os')}", False),
        ("\\boxed{" + "9" * 5000 + "}", False),
        ("", False),
    ],
)
def test_the_last_box_is_the_answer(response: str, right: bool) -> None:
    assert verify(TWO, response) is right and verify(TWO.document, response) is right


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (RIGHT.replace("= 72 apples", "= 74 apples"), "4 apples"),
        (RIGHT.replace("3 × 24", "3 + 24"), "+ 24"),
        (RIGHT.replace("3 × 24", "5 × 24"), "5 × 24"),
        (RIGHT.replace("72 - 7", "72 - 24"), "24 = 65"),
        (RIGHT.replace("boxed{65}", "boxed{66}"), "6}."),
        (RIGHT.replace("boxed{65}", "boxed{650}"), "0}."),
        ("Ben has 3", None),  # so far it is right
        ("Ben has 3 × 24 = 7", None),
        ("Ben has 3 × 24 = 7 apples", " apples"),
        ("The answer is \\boxed{6", None),
        (RIGHT.replace("First, Ben", "Now Zoe"), None),  # words are not judged
    ],
)
def test_the_first_wrong_character(wrong: str, found: str | None) -> None:
    place = first_error(TWO, wrong)
    assert place is None if found is None else wrong[place:].startswith(found), place


def test_a_step_has_one_value_or_none() -> None:
    found = [combine(8, operator, 2) for operator in (*OPERATORS, "^")]
    assert found == [10, 6, 16, 4, None]
    assert combine(7, "÷", 2) is combine(7, "÷", 0) is combine(2, "-", 2) is None
    assert combine(LARGEST, "+", 1) is None

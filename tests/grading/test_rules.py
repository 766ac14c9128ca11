"""Rules of grading at their edges, with a made-up oracle and pool in place of computer algebra."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest

from nabla_eval.grading import equal as answers_equal
from nabla_eval.grading import grade
from nabla_eval.grading.compare import same
from nabla_eval.grading.equal import reference
from nabla_eval.grading.numbers import parse_number
from nabla_eval.grading.worker import Verdict


@pytest.mark.parametrize("text", ["1/0", r"1\frac{2}{2}", "2 5/3", "1e301", "1e-301"])
def test_what_is_no_number_is_not_read_as_one(text: str) -> None:
    assert parse_number(text) is None  # of the second and third: a sum or a product?


def nothing(gold: str, answer: str) -> bool:
    """An oracle that knows no two expressions to be equal."""
    return False


def some(gold: str, answer: str) -> bool:
    """An oracle that knows these expressions to be equal, and no others."""
    return (gold, answer) in {("p+1", "r+1"), ("p+1", "s+1"), ("q+1", "r+1")}


def silent(gold: str, answer: str) -> None:
    """An oracle that cannot say."""


def yes(gold: str, answer: str) -> bool:
    """An oracle that takes all expressions for equal."""
    return True


@pytest.mark.parametrize(
    ("gold", "answer", "oracle", "verdict"),
    [
        # Items are paired off, also where the first that fits takes another's only one.
        ("p+1,q+1", "r+1,s+1", some, True),
        ("q+1,p+1", "r+1,s+1", some, True),
        ("p+1,q+1", "s+1,t+1", some, False),  # q has no partner left
        ("(p+1,q+1)", "(r+1,s+1)", some, False),  # a point keeps its order
        # Nothing is decided where the oracle says nothing.
        ("p+1,2", "r+1,2", silent, None),
        ("p+1,2", "r+1,3", silent, None),  # p+1 may be 3
        ("(p+1,2)", "(r+1,2)", silent, None),
        ("(p+1,2)", "(r+1,3)", silent, False),
        ("p+1,2", "2,p+1", silent, True),
        # Values of several unknowns keep their order where names are left out.
        ("x=1,y=2", "1,2", nothing, True),
        ("x=1,y=2", "2,1", nothing, False),
        ("x=1,y=2", "y=2,x=1", nothing, True),
        ("1,2", "2,1", nothing, True),
        ("x=1,y=2,x=3", "x=3,y=2,x=1", nothing, False),  # which x goes with the y?
        # Other names are asked about only where both values have unknowns.
        ("x=3", "z=t+2", yes, False),
        ("x=t+1", "z=t+2", yes, True),
        ("x=3", "x=t+2", yes, True),  # one name: its values
        # What a relation says of its unknown is compared, whatever its form.
        ("x<3", "3>x", nothing, True),
        ("x<3", "x\\in(-\\infty,3)", nothing, True),
        ("x<3", "t<3", yes, False),
        ("x=3", "x<3", yes, False),
        ("x\\in[1,2]", "y=2x+3", yes, False),
        # Digits and base both count.
        ("0101_{2}", "101_{2}", nothing, True),
        ("101_{2}", "101_{3}", nothing, False),
        ("101_{2}", "101", nothing, False),
        ("101_{10}", "101", nothing, True),
        # Choices agree in their letter alone.
        ("(B)", "b", nothing, True),
        ("(B)", "C", nothing, False),
    ],
)
def test_structures(gold: str, answer: str, oracle, verdict: bool | None) -> None:
    assert same(gold, answer, oracle) is verdict


# --- what is asked of the worker, and what is remembered ----------------------------------------


class Asked:
    """A pool that notes what it is asked and always says the same."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict, self.pairs = verdict, []

    def ask(self, gold: str, answer: str, *_: object) -> Verdict:
        self.pairs.append((gold, answer))
        return self.verdict


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """In place of the workers, and with no verdict of another test."""
    module, made = import_module("nabla_eval.grading.equal"), Asked(Verdict(True))
    monkeypatch.setattr(module, "_pool", made)
    module._ask_worker.cache_clear()
    yield made
    module._ask_worker.cache_clear()


def test_a_question_is_asked_once_for_each_deadline(pool: Asked) -> None:
    pool.verdict = Verdict(False, "timeout")
    for seconds, asked in [(1.0, 1), (1.0, 1), (2.0, 2), (2.0, 2), (1.0, 2)]:
        assert not answers_equal(r"\sqrt{8}", r"k\sqrt{2}", timeout=seconds)
        assert len(pool.pairs) == asked


def test_what_is_too_long_is_compared_by_spelling_alone(pool: Asked) -> None:
    long = "x+" * 1200 + "x"
    assert grade("7", long, extracted=True).reason == "too_long"
    assert grade(long, "7", extracted=True).reason == "too_long"
    assert grade(long, long, extracted=True).equal and not pool.pairs


def test_only_a_whole_solution_is_searched_for_its_answer() -> None:
    short = "so the answer is 12 apples"
    assert reference(short) == short
    assert reference(rf"thus \boxed{{12}}, {'and so on ' * 5}") == "12"
    assert reference("They have 12. #### 12") == "12"
    assert reference(f"{'We count all of them. ' * 12}The answer is 12.") == "12"

"""Every kind of notation by inputs of our own (`kinds`): what agrees, and what must not."""

from __future__ import annotations

import kinds
import pytest

from nabla_eval.grading import grade


def _rows(table: kinds.Pairs) -> list[tuple[str, str]]:
    return [pair for pairs in table.values() for pair in pairs]


@pytest.mark.parametrize(("gold", "answer"), _rows(kinds.EQUAL))
def test_equal(gold: str, answer: str) -> None:
    assert grade(gold, answer, extracted=True, timeout=60).equal


@pytest.mark.parametrize(("gold", "answer"), _rows(kinds.UNEQUAL))
def test_unequal(gold: str, answer: str) -> None:
    result = grade(gold, answer, extracted=True, timeout=60)
    assert not result.equal
    assert not result.timed_out


@pytest.mark.parametrize(("gold", "response"), _rows(kinds.RIGHT))
def test_right(gold: str, response: str) -> None:
    result = grade(gold, response, timeout=60)
    assert result.equal, result


@pytest.mark.parametrize(("gold", "response"), _rows(kinds.WRONG))
def test_wrong(gold: str, response: str) -> None:
    result = grade(gold, response, timeout=60)
    assert not result.equal, result

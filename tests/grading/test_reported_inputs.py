"""Every reported pair or response of the optional data has its expected verdict.

The rows that need a model, a task or a command line are tested where those are.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nabla_eval.grading import grade

DATA = Path(__file__).parents[3] / "shared" / "data" / "reported_inputs.jsonl"
ROWS: list[dict[str, Any]] = (
    [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    if DATA.exists()
    else []
)

# Number of the row -> why we decide otherwise.
DECIDED_OTHERWISE: dict[int, str] = {}


def _runnable(row: dict[str, Any]) -> bool:
    given = row["input"]
    pair = {"gold", "answer"} <= set(given) or {"gold", "response"} <= set(given)
    return pair and "template" not in given


RUNNABLE = [number for number, row in enumerate(ROWS) if _runnable(row)]


@pytest.mark.parametrize("number", RUNNABLE)
def test_reported_input(number: int, shared_data: Path) -> None:
    row = ROWS[number]
    given = row["input"]
    extracted = "answer" in given
    # A sentence is expected where the comparison must time out: it counts as wrong.
    expected = row["expected"] is True
    text = given["answer"] if extracted else given["response"]
    timeout = 1.0 if isinstance(row["expected"], str) else 60.0
    result = grade(given["gold"], text, extracted=extracted, timeout=timeout)
    assert result.equal == (expected != (number in DECIDED_OTHERWISE)), (row["kind"], result)


def test_the_file_is_as_it_was_read(shared_data: Path) -> None:
    assert len(ROWS) == 487
    assert len(RUNNABLE) == 420
    assert len(DECIDED_OTHERWISE) < 12

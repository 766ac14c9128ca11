"""reports/probe: the rule of agreement, and the pages against what was measured."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

HOME = Path(__file__).parent


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("validate_probe", HOME / "validate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["validate_probe"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["validate_probe"]


def told(value: float, low: float, high: float) -> dict[str, Any]:
    return {"right": {"value": value, "ci95": [low, high]}}


@pytest.mark.parametrize(
    ("expected", "measured", "agree"),
    [
        (told(0.0, -0.01, 0.01), told(0.005, 0.0, 0.01), True),
        (told(0.0, -0.03, 0.03), told(0.049, 0.009, 0.089), True),  # 5 is the root of 9 + 16
        (told(0.0, -0.03, 0.03), told(0.051, 0.011, 0.091), False),
        (told(0.0, -0.09, 0.01), told(0.05, 0.04, 0.2), False),  # the arms that face each other
    ],
)
def test_they_agree_within_both_intervals(
    script: ModuleType, expected: Any, measured: Any, agree: bool
) -> None:
    assert script.agrees({"expected": expected, "measured": measured}, "right") is agree


@pytest.mark.parametrize(("pair", "settings"), [("countdown", 12), ("words", 3), ("additive", 6)])
def test_probe_and_test_problems_are_apart(script: ModuleType, pair: str, settings: int) -> None:
    bed = script.BEDS[pair]
    assert len(bed.settings) >= settings
    ours, theirs = (
        {own.canonical for own in bed.problems(100, split)} for split in ("validation", "test")
    )
    assert len(ours) == 100 and not ours & theirs


def test_the_pages_say_what_was_measured(script: ModuleType) -> None:
    several = script.read(HOME)
    assert several[0]["pair"] == "countdown"
    page = script.page(several)
    assert (HOME / "README.md").read_text(encoding="utf-8") == page
    assert script.DOCS.read_text(encoding="utf-8").endswith(page.partition("\n")[2])

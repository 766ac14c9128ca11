"""Grades: which responses of a probe are right, by whoever says so now.

Responses are kept as text and graded as a probe is summed up, so that figures which were kept never
say what another grader said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

# Is a response right? None where nobody knows.
Grade: TypeAlias = Callable[[str], bool | None]
Problems: TypeAlias = Sequence[Mapping[str, Any]]  # the figures of each


def graded(figures: Any, grade: Grade) -> Any:
    """Return a problem's figures in which every response (what has a `text`) has `right`."""
    if isinstance(figures, list):
        return [graded(own, grade) for own in figures]
    if not isinstance(figures, dict):
        return figures
    told = {"right": grade(figures["text"])} if "text" in figures else {}
    return {name: graded(own, grade) for name, own in figures.items()} | told


def known(problems: Problems) -> Problems:
    """Return the problems of which every response is graded; none where it is a single one."""
    whole = [each for each in problems if _whole(each)]
    return whole if len(whole) >= 2 else []


def _whole(figures: Any) -> bool:
    if isinstance(figures, list):
        return all(map(_whole, figures))
    if not isinstance(figures, dict):
        return True
    return figures.get("right", False) is not None and all(map(_whole, figures.values()))

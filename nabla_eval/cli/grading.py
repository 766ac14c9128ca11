"""Grading single drafts for `nabla-eval report reward`, as the tasks grade whole answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Grade = Callable[[Mapping[str, Any], str], bool]


def grader(task: str) -> Grade | None:
    """A function from lm-eval's doc and target, and a response, to whether it is right.

    The grader is the run's, where its results name one.
    """
    return _countdown if task.startswith("nabla_countdown") else _mathematics


def _countdown(item: Mapping[str, Any], response: str) -> bool:
    from nabla_eval.embedded.countdown import verify

    return verify(item["doc"], response.strip().partition("\n")[0])


def _mathematics(item: Mapping[str, Any], response: str) -> bool:
    from nabla_eval.grading import GRADERS, grade

    chosen = item.get("grader", GRADERS[0])
    return grade(str(item["target"]), response, grader=chosen).equal

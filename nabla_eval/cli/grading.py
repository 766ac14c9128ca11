"""Grading single responses of a run, drafts and candidates too, as its tasks grade answers."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nabla_eval.analysis.grades import Graded, Judge

Grade = Callable[[Mapping[str, Any], str], bool]
LONGEST = 200  # characters of an answer that are shown


def grader(task: str) -> Grade | None:
    """A function from lm-eval's doc and target, and a response, to whether it is right.

    The grader is the run's, where its results name one.
    """
    graded = judge(task)
    return lambda item, response: bool(graded(item, response).right)


def judge(task: str) -> Judge:
    """As `grader`, to whether a response is right and what it answers."""
    return _countdown if _is_countdown(task) else _mathematics


def gold(task: str, item: Mapping[str, Any]) -> str | None:
    """Return the right answer to an item; None where there are many, and none is named."""
    from nabla_eval.grading.equal import reference

    target = item.get("target")
    if _is_countdown(task) or target is None or not str(target).strip():
        return None
    return reference(str(target)).strip()


@cache
def rules() -> str:
    """Name the rules by which responses are graded: another version's grades may be others."""
    package, digest = Path(__file__).parents[1], hashlib.blake2b(digest_size=8)
    own = ("grading/tables.json", "embedded/countdown.py", "thought.py", "cli/grading.py")
    for file in [*sorted((package / "grading").glob("*.py")), *(package / name for name in own)]:
        digest.update(file.read_bytes())
    for name in ("math-verify", "sympy"):
        digest.update(importlib.metadata.version(name).encode())
    return digest.hexdigest()


def _is_countdown(task: str) -> bool:
    return task.startswith("nabla_countdown")


def _countdown(item: Mapping[str, Any], response: str) -> Graded:
    from nabla_eval.analysis.grades import Graded
    from nabla_eval.embedded.countdown import verify

    line = response.strip().partition("\n")[0]
    return Graded(verify(item["doc"], line), line[:LONGEST] or None)


def _mathematics(item: Mapping[str, Any], response: str) -> Graded:
    from nabla_eval.analysis.grades import Graded
    from nabla_eval.grading import GRADERS, grade

    chosen = item.get("grader", GRADERS[0])
    found = grade(str(item["target"]), response, grader=chosen)
    return Graded(found.equal, found.answer and found.answer[:LONGEST])

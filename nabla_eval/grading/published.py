r"""math-verify alone, as most published figures are graded; imported only in the worker process.

The gold answer is parsed out of a box, the response as a whole, both with math-verify's defaults:
it finds the answer by its own rules. Only its deadlines are left to the caller, who kills the
process.
"""

from __future__ import annotations

from math_verify import parse, verify


def verdict(gold: str, response: str) -> tuple[bool, str | None]:
    """Whether math-verify accepts a response, and the answer that it found there, as text."""
    target = parse(response, parsing_timeout=None)
    if not target:
        return False, None
    answer = next((part for part in reversed(target) if isinstance(part, str)), str(target[0]))
    return bool(verify(parse(gold, parsing_timeout=None), target, timeout_seconds=None)), answer

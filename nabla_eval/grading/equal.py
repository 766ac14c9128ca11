"""`equal`, `grade` and `cluster`: the verdicts that metrics and majority votes use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial

from nabla_eval.grading.compare import same
from nabla_eval.grading.extract import extract
from nabla_eval.grading.normalise import normalise
from nabla_eval.grading.worker import GradingPool, Verdict

TIMEOUT = 5.0
"""Seconds of processor time that computer algebra may spend on one comparison."""

MAX_ANSWER = 2000
"""Longer answers are wrong unless they are spelt like the gold answer."""

GRADERS = ("nabla_eval", "math_verify")
"""This package, or math-verify alone, as most published figures are graded."""

_MARKED = re.compile(r"\\boxed|\$|\\\(|\\\[")  # text that says where its mathematics is
_pool = GradingPool()


@dataclass(frozen=True)
class Grade:
    """Verdict on one response.

    ``answer`` is what was compared with the gold answer (None when there was none); ``reason`` is
    "" for a comparison that ran to its end, else "no_answer", "grader_timeout", "too_long" or
    "grader_error: ..." - all of them count as wrong.
    """

    equal: bool
    answer: str | None
    timed_out: bool = False
    reason: str = ""


def equal(gold: str, answer: str | None, *, timeout: float = TIMEOUT) -> bool:
    """Return whether an answer equals the gold answer, as the README of this folder defines it.

    ``timeout`` is in seconds of processor time; a comparison that takes longer counts as unequal.
    """
    return _verdict(gold, answer, timeout).equal


def grade(
    gold: str,
    response: str | None,
    *,
    extracted: bool = False,
    in_thought: bool = False,
    timeout: float = TIMEOUT,
    grader: str = GRADERS[0],
) -> Grade:
    """Grade a whole response, or an answer taken from one where ``extracted`` is true.

    ``in_thought`` is passed on to `extract`; ``timeout`` is in seconds of processor time. With
    ``grader="math_verify"``, math-verify finds the answer and compares it, by its own rules.
    """
    if grader == "math_verify":
        return _published(gold, response, extracted, timeout)
    if response is not None and response.strip() and response.strip() == gold.strip():
        return Grade(True, response.strip())
    answer = response if extracted else extract(response, in_thought=in_thought)
    if answer is None or not answer.strip():
        return Grade(False, None, reason="no_answer")
    return _graded(_verdict(gold, answer, timeout), answer)


def _published(gold: str, response: str | None, extracted: bool, timeout: float) -> Grade:
    """math-verify's own verdict, and the answer that it read."""
    if response is None or not response.strip():
        return Grade(False, None, reason="no_answer")
    told = _marked(response) if extracted else response
    verdict = _ask_worker(_marked(reference(gold)), told, timeout, "math_verify")
    if verdict.error is None and verdict.answer is None:
        return Grade(False, None, reason="no_answer")
    return _graded(verdict, verdict.answer)


def _marked(answer: str) -> str:
    """An answer so that math-verify, which reads texts, takes all of it for mathematics."""
    return answer if _MARKED.search(answer) else rf"\boxed{{{answer}}}"


def _graded(verdict: Verdict, answer: str | None) -> Grade:
    names = {None: "", "timeout": "grader_timeout", "too_long": "too_long"}
    reason = names.get(verdict.error, f"grader_error: {verdict.error}")
    return Grade(verdict.equal and not reason, answer, verdict.timed_out, reason)


def grade_batch(
    pairs: Iterable[tuple[str, str | None]],
    *,
    workers: int = 2,
    extracted: bool = False,
    in_thought: bool = False,
    timeout: float = TIMEOUT,
    grader: str = GRADERS[0],
) -> list[Grade]:
    """`grade` for many (gold, response) pairs on up to ``workers`` (at most 4) processes.

    Pairs that need no computer algebra need no process either.
    """
    one = partial(grade, extracted=extracted, in_thought=in_thought, timeout=timeout, grader=grader)
    with ThreadPoolExecutor(max_workers=workers) as threads:
        jobs = [threads.submit(one, gold, text) for gold, text in pairs]
        try:
            return [job.result() for job in jobs]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def cluster(answers: Sequence[str | None], *, timeout: float = TIMEOUT) -> list[int]:
    """Group of each answer, numbered in order of first appearance.

    A missing answer (None or blank) belongs to no group and gets -1. Equality is neither transitive
    (10 inches, 10, 10 feet) nor always symmetric, so groups are the connected components of "one of
    the two equals the other": which answers share a group does not depend on their order.
    """
    present = {text: _form(text) for text in answers if text and text.strip()}
    # Normal form -> the spelling that is compared: the first one in order of letters.
    spelt = {form: text for text, form in sorted(present.items(), reverse=True)}
    groups: list[set[str]] = []
    for form, text in spelt.items():
        alike = [group for group in groups if any(_alike(text, spelt[f], timeout) for f in group)]
        groups = [group for group in groups if group not in alike]
        groups.append({form}.union(*alike))
    home = {form: number for number, group in enumerate(groups) for form in group}
    seen: dict[int, int] = {}
    return [
        seen.setdefault(home[present[text]], len(seen)) if text in present else -1
        for text in answers
    ]


def _form(answer: str) -> str:
    """The spelling by which answers are the same without any comparison."""
    return normalise(answer) if len(answer) <= MAX_ANSWER else answer


def _alike(one: str, other: str, timeout: float) -> bool:
    """Return whether either answer, taken as gold, accepts the other."""
    verdict = _verdict(one, other, timeout)
    return verdict.equal or (not verdict.timed_out and _verdict(other, one, timeout).equal)


def close() -> None:
    """End the worker processes; they start again when needed."""
    _pool.close()


def reference(gold: str) -> str:
    """The answer in a gold field: the field itself, or the final answer of a whole solution."""
    solution = "boxed" in gold or "####" in gold or len(gold) > 200
    return (extract(gold) if solution else None) or gold


def _verdict(gold: str, answer: str | None, timeout: float) -> Verdict:
    if answer is None or not answer.strip() or not gold.strip():
        return Verdict(False)
    gold = reference(gold)
    if gold.strip() == answer.strip():
        return Verdict(True)
    if len(answer) > MAX_ANSWER or len(gold) > MAX_ANSWER:
        return Verdict(False, "too_long")
    a, b = normalise(gold), normalise(answer)
    if not a or not b:
        return Verdict(False)
    decided = same(a, b, lambda *_: None)
    return _ask_worker(a, b, timeout) if decided is None else Verdict(decided)


@lru_cache(maxsize=4096)
def _ask_worker(gold: str, answer: str, timeout: float, grader: str = GRADERS[0]) -> Verdict:
    """Ask once for each deadline: a longer one may still decide what was cut off."""
    return _pool.ask(gold, answer, timeout, grader)

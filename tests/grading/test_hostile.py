"""Hostile answers: no hang, no crash, no growth of the caller's memory."""

from __future__ import annotations

import gc
import os
import random
import time
from functools import partial

import pytest

from nabla_eval.grading import cluster, equal, grade, grade_batch

BOMBS = {
    "power tower": "9**9**9**9",
    "power tower in LaTeX": "9^{9^{9^{9}}}",
    "ten to the ten to the ten": "10^{10^{10}}",
    "factorial tower": "(((100!)!)!)!",
    "factorials": "5!!!!!!!!",
    "binomial": r"\binom{10^{9}}{5\cdot 10^{8}}",
    "sum": r"\sum_{k=1}^{10^{100}} k!",
    "integral": r"\int_0^1 x^{x^{x^{x}}} dx",
    "expansion": "(a+b+c+d)^{99}-(a+b+c+d)^{98}",
    "fractions": r"\frac{1}{" * 300 + "1" + "}" * 300,
    "unclosed fractions": r"\frac{" * 20_000,
    "opening braces": "{" * 100_000,
    "closing braces": "}" * 100_000,
    "boxes": r"\boxed{" * 15_000,
    "boxes in boxes": r"\boxed{" * 15_000 + "}" * 15_000,
    "roots": r"\sqrt{" * 200 + "2" + "}" * 200,
    "parentheses": "(" * 900 + ")" * 900,
    "tuples in tuples": "(1," * 400 + "1" + ")" * 400,
    "plus-minus": r"\pm 1," * 300,
    "letters": "a" * 1900 + "!",
    "words": "cm^{2} " * 250 + "!",
    "digits": "1" * 100_000,
    "exponent": "1e999999999",
    "NUL": "\x00" * 1000,
    "writing direction": "\u202e24\u202c\u200f\u061c",
    "lone surrogate": "\ud800",
    "code": '__import__("os").system("echo hostile > hostile.txt")',
    "file": r"\input{/etc/passwd}",
}


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _processor_seconds(times: os.times_result) -> float:
    return times.user + times.system + times.children_user + times.children_system


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    equal("x+1", "1+x", timeout=60)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(str(tmp_path))
    bomb = BOMBS[name]
    start = os.times()
    assert not grade("x^2+1", bomb, extracted=True, timeout=0.5).equal
    assert not grade("x^2+1", bomb, timeout=0.5).equal
    assert not grade("x^2+1", rf"so \boxed{{{bomb}}}", timeout=0.5).equal
    assert not equal(bomb, "x^2+1", timeout=0.5)
    # Four deadlines and as many new workers; processor time does not depend on other programs.
    assert _processor_seconds(os.times()) - _processor_seconds(start) < 60
    assert not os.listdir(str(tmp_path)), "the answer was executed"
    assert equal("y+1", "1+y", timeout=60), "the next answer is graded as if nothing had happened"


def test_invisible_characters_change_nothing_and_control_characters_separate() -> None:
    assert equal("24", "\u202e24\u202c")
    assert equal("24", "2\u200b4")
    assert not equal("42", "4\x002")
    assert equal("42", "42\x00")


def test_a_bomb_does_not_enter_a_cluster() -> None:
    assert cluster(["1", "9^{9^{9^{9}}}", "1.0", "9^{9^{9^{9}}}"], timeout=0.5) == [0, 1, 0, 1]


FRAGMENTS = r"""
    \frac{ \frac{1}{2} \sqrt{ \boxed{ \text{ } { ( ) [ ] \{ \} ^{ _{ ^ _ ! !! ** 9^{9} 10^{10}
    0 1 2 7 9999999 .5 0.333 1/0 - + = \pm \cdot \times , ; : \le < \in \cup \infty \pi \circ % \%
    $ $$ \( \) \[ \] \\ \left( \right) \begin{pmatrix} \end{pmatrix} & \sum_{k=1}^{9} \log \sin
    x y e i cm million and or answer is <think> </think> #### \overline{ \binom{9}{3}
"""
_FRAGMENTS = FRAGMENTS.split()
_GOLDS = ["42", "x^2+1", r"\frac{1}{2}", "(1,2)", r"\{1,2\}", r"[0,\infty)", "x=3"]


def _text(draw: random.Random, most: int) -> str:
    """Characters of every plane; half of them ASCII."""
    return "".join(
        chr(draw.choice((draw.randrange(128), draw.randrange(0x110000))))
        for _ in range(draw.randint(0, most))
    )


def _soup(draw: random.Random) -> str:
    pieces = range(draw.randint(0, 25))
    return "".join(draw.choice((draw.choice(_FRAGMENTS), _text(draw, 3))) for _ in pieces)


def _repeated(draw: random.Random, most: int) -> str:
    return draw.choice(_FRAGMENTS) * draw.randint(1, most)


def _hostile(draw: random.Random, most: int = 5000) -> tuple[str, str]:
    """A gold answer, and a response that nobody should write."""
    kind = draw.randrange(3)
    if kind == 0:
        text = _soup(draw)
    elif kind == 1:
        text = _text(draw, 200)
    else:
        kinds = (_soup, partial(_repeated, most=most))
        text = " ".join(draw.choice(kinds)(draw) for _ in range(draw.randint(0, 3)))
    return draw.choice(_GOLDS), text


def _survive(pairs: list[tuple[str, str]]) -> None:
    start = time.process_time()
    for extracted in (False, True):
        for result in grade_batch(pairs, extracted=extracted, timeout=0.5):
            known = result.reason in {"", "no_answer", "too_long"}
            assert known or result.reason.startswith("grader_")
            assert not (result.equal and result.reason)
            answer = result.answer
            assert extracted or answer is None or (answer and answer == answer.strip())
    assert time.process_time() - start < 20, "the caller's own share, workers not counted"


def test_500_hostile_draws() -> None:
    draw = random.Random(1)
    for _ in range(5):
        _survive([_hostile(draw) for _ in range(100)])


@pytest.mark.slow
def test_hostile_draws_do_not_grow_memory() -> None:
    draw = random.Random(0)
    batches = [[_hostile(draw, 1000) for _ in range(100)] for _ in range(20)]
    for batch in batches[:10]:
        _survive(batch)
    gc.collect()
    before = _resident_bytes()
    for batch in batches[10:]:
        _survive(batch)
    gc.collect()
    # The two caches may still fill: 1024 spellings and 4096 verdicts, a few kilobytes each.
    assert _resident_bytes() - before < 4 * 2**20

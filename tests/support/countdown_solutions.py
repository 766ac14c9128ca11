"""All solutions of a Countdown problem, enumerated from the rules of the game."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from itertools import product

from hypothesis import strategies as st

from nabla_eval.embedded.countdown import Puzzle

VOCABULARY = (*map(str, range(100)), *"+-*/=;,?", "<eos>")


@cache
def every_calculation(values: tuple[int, ...]) -> tuple[tuple[str, int], ...]:
    """(text, result) of every legal calculation, by brute force over all token choices.

    Written from the rules of the game with exact fractions, sharing nothing with the package.
    """
    if len(values) == 1:
        return (("", values[0]),)
    found = []
    for i, j in product(range(len(values)), repeat=2):
        if i == j:
            continue
        rest = tuple(v for k, v in enumerate(values) if k not in (i, j))
        a, b = values[i], values[j]
        for symbol, value in {
            "+": Fraction(a + b),
            "-": Fraction(a - b),
            "*": Fraction(a * b),
            "/": Fraction(a, b),
        }.items():
            if value.denominator == 1 and 1 <= value <= 99:
                step = f"{a}{symbol}{b}={value}"
                for text, result in every_calculation((*rest, int(value))):
                    found.append((f"{step};{text}" if text else step, result))
    return tuple(found)


def solutions(problem: Puzzle) -> set[str]:
    return {text for text, hit in every_calculation(problem.numbers) if hit == problem.target}


small_numbers = st.lists(st.integers(1, 20), min_size=2, max_size=3).map(tuple)


def tokens_of(text: str) -> list[str]:
    """Integers 0..99 and single characters."""
    return re.findall(r"[1-9][0-9]|.", text)


@st.composite
def problems_with_text(draw: st.DrawFn) -> tuple[Puzzle, str]:
    """A problem and a calculation with its numbers, at most one of whose tokens is changed."""
    numbers = draw(small_numbers)
    text, result = draw(st.sampled_from(every_calculation(numbers)))
    target = draw(st.one_of(st.just(result), st.integers(1, 99)))
    tokens = tokens_of(text)
    if draw(st.booleans()):
        place = draw(st.integers(0, len(tokens) - 1))
        tokens[place] = draw(st.sampled_from(VOCABULARY))
    return Puzzle(numbers, target), "".join(tokens)

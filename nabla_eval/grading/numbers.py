"""Numbers that need no computer algebra: integers, decimals, fractions, mixed and scientific ones.

Values are exact rationals. A decimal also remembers how precisely it was written, because a decimal
may stand for an exact value only when it was written precisely enough.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MIN_DIGITS = 6
"""A rounded decimal must show this many significant digits to stand for another value."""

MAX_DIGITS = 12
"""Digits beyond this many are taken for floating-point noise."""

_MAX_LENGTH = 400
_MAX_EXPONENT = 300

_UNSIGNED = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_FRACTION = re.compile(
    rf"(?:\\frac\{{(-?{_UNSIGNED})\}}\{{(-?{_UNSIGNED})\}}|({_UNSIGNED})/({_UNSIGNED}))\Z"
)
_MIXED = re.compile(r"([0-9]+)(?:\\frac\{([0-9]+)\}\{([0-9]+)\}| ([0-9]+)/([0-9]+))\Z")
_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar)\{([0-9]{1,40})\}")
_REPEATED_INSIDE = re.compile(rf"(?<![0-9.]){_REPEATING.pattern}(?![0-9.])")
_DECIMAL = re.compile(
    rf"({_UNSIGNED})(?:(?:\\times|\\cdot|\*) ?10\^\{{([+-]?[0-9]{{1,4}})\}}"
    r"|[eE]([+-]?[0-9]{1,4}))?\Z"
)


@dataclass(frozen=True)
class Number:
    """An exact value; ``step`` is the worth of the last digit of a decimal, else None."""

    value: Fraction
    step: Fraction | None = None
    digits: int = 0


def parse_number(text: str) -> Number | None:
    """Return the number that a normalised answer writes; None for anything else."""
    if len(text) > _MAX_LENGTH:
        return None
    negative = False
    while text[:1] in {"-", "+"}:
        negative ^= text[0] == "-"
        text = text[1:].lstrip()
    number = _unsigned(text)
    if number is None or not negative:
        return number
    return Number(-number.value, number.step, number.digits)


def _unsigned(text: str) -> Number | None:
    if match := _DECIMAL.match(text):
        return _decimal(match.group(1), int(match.group(2) or match.group(3) or 0))
    if match := _REPEATING.fullmatch(text):
        return Number(_repeating(match))
    if match := _MIXED.match(text):
        units, top, bottom = (int(group) for group in match.groups() if group is not None)
        # "2 5/3" may be a sum or a product.
        return Number(units + Fraction(top, bottom)) if top < bottom else None
    if match := _FRACTION.match(text):
        top_text, bottom_text = (group for group in match.groups() if group is not None)
        denominator = Fraction(bottom_text)
        return Number(Fraction(top_text) / denominator) if denominator else None
    return None


def _repeating(match: re.Match[str]) -> Fraction:
    whole, start, cycle = match.groups()
    repeated = Fraction(int(cycle), 10 ** len(cycle) - 1) / 10 ** len(start)
    return Fraction(f"{whole or 0}.{start or 0}") + repeated


def exact_text(text: str, number: Number | None) -> str:
    """Return mixed numbers and repeating decimals as fractions, which computer algebra reads."""
    if number is not None and number.step is None:
        return latex(number.value)
    return _REPEATED_INSIDE.sub(lambda match: latex(_repeating(match)), text)


def latex(value: Fraction) -> str:
    """Return an integer or a ``\\frac``."""
    if value.denominator == 1:
        return str(value.numerator)
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def _decimal(text: str, exponent: int) -> Number | None:
    if abs(exponent) > _MAX_EXPONENT:
        return None
    value = Fraction(text) * Fraction(10) ** exponent
    whole, _, places = text.partition(".")
    if not places:
        return Number(value)
    step = Fraction(10) ** (exponent - len(places))
    return Number(value, step, len((whole + places).lstrip("0")))


def tolerance(*numbers: Number) -> Fraction:
    """Return the largest difference at which rounding explains that the numbers are not identical.

    Half a unit in the last place of the decimal written most coarsely, provided that it shows at
    least `MIN_DIGITS` significant digits; digits beyond `MAX_DIGITS` are not counted. Zero when no
    number is a decimal, or when the coarsest one is too coarse.
    """
    step, digits = max(((number.step or 0, number.digits) for number in numbers), default=(0, 0))
    noise = max(0, digits - MAX_DIGITS)
    return Fraction(step) * 10**noise / 2 if digits >= MIN_DIGITS else Fraction(0)


def same_number(a: Number, b: Number) -> bool:
    """Return whether two numbers are equal, up to the rounding that `tolerance` allows."""
    return abs(a.value - b.value) <= tolerance(a, b)

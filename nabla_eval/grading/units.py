"""Units, percent signs and words that stand beside a number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nabla_eval.grading.normalise import CURRENCY

_UNITS = {
    "kilometre": "km kilometer kilometre", "metre": "m meter metre", "centimetre": "cm centimeter "
    "centimetre", "millimetre": "mm millimeter millimetre", "inch": "in inch inches",
    "foot": "ft foot feet", "yard": "yd yard", "mile": "mi mile", "kilogram": "kg kilogram",
    "gram": "g gram", "milligram": "mg milligram", "pound": "lb lbs pound", "ounce": "oz ounce",
    "tonne": "ton tonne", "litre": "l L liter litre", "millilitre": "ml mL milliliter millilitre",
    "gallon": "gal gallon", "second": "s sec second", "minute": "min minute", "hour": "h hr hour",
    "day": "day", "week": "week", "month": "month", "year": "yr year", "degree": "degree deg",
    "radian": "rad radian", "unit": "unit", "dollar": "dollar USD usd buck", "cent": "cent",
    "euro": "euro", "yuan": "yuan", "rupee": "rupee", "mph": "mph", "kph": "kph kmh",
    "newton": "N newton", "joule": "J joule", "watt": "W watt", "volt": "V volt",
    "hertz": "Hz hertz",
}  # fmt: skip
UNITS = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()}

# Words that change the value, so that no number may shed them.
_MEANINGFUL_WORDS = """
    and or not no minus plus times over divided squared cubed half third quarter hundred thousand
    million billion trillion dozen score pair factorial choose mod modulo base to between from more
    less than least most about approximately around infinity infinite undefined percent pct
    percentage power root square cubic if when where for except unless pi sqrt per negative am pm
"""
_MEANINGFUL = frozenset(_MEANINGFUL_WORDS.split())
# Of the meaningful words, those that may stand inside the name of a unit.
_IN_UNITS = frozenset({"square", "cubic", "squared", "cubed", "per", "sq", "cu"})

_PERCENT = re.compile(
    r"(?:%|(?<![a-zA-Z])(?:percent|pct|percentage)(?: points?)?)\Z", re.IGNORECASE
)
_DEGREE = re.compile(r"\^\\circ ?([CF]?)\Z")
_ANGLE_FUNCTION = re.compile(r"\\(?:arc)?(?:sin|cos|tan|sec|csc|cot)(?![a-z])")
_WORDS = re.compile(r"(?<![A-Za-z\\])((?:[A-Za-z]+\.?(?:\^\{[23]\})?(?:[ /]|\Z))+)\Z")
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Measure:
    """What stands beside a value: ``text`` is the value alone, ``units`` the names of its units."""

    text: str
    units: frozenset[str] = frozenset()
    percent: bool = False


def split_units(text: str) -> Measure:
    """Take currency, percent sign, degrees and trailing words off a normalised answer.

    Words come off only a value that ends in a digit or a closing bracket and only when none of them
    could change the value ("17 apples" becomes 17, "17 million" stays as it is).
    """
    units = set()
    for sign, name in CURRENCY.items():
        if text.strip("-+ ").startswith(sign) or text.endswith(sign):
            text = text.replace(sign, "", 1).strip()
            units.add(name)
    if match := _PERCENT.search(text):
        return Measure(text[: match.start()].rstrip(), frozenset(units), percent=True)
    if (match := _DEGREE.search(text)) and not _ANGLE_FUNCTION.search(text):
        scale = {"": "degree", "C": "celsius", "F": "fahrenheit"}[match.group(1)]
        return Measure(text[: match.start()].rstrip(), frozenset({scale, *units}))
    match = _WORDS.search(text)
    value = text[: match.start()] if match else ""
    no_value = not value or value.rstrip()[-1] not in "0123456789)}]"
    if match is None or no_value or _ANGLE_FUNCTION.search(value):
        return Measure(text, frozenset(units))
    words = _WORD.findall(match.group(1))
    named = {_canonical(word) for word in words}
    glued = not value.endswith(" ")
    if _may_come_off(words, glued=glued):
        return Measure(value.rstrip(), frozenset(units | (named - _IN_UNITS)))
    return Measure(text, frozenset(units))


def _canonical(word: str) -> str:
    for spelling in (word, word.lower(), word.lower().removesuffix("s")):
        if spelling in UNITS:
            return UNITS[spelling]
    return word.lower().removesuffix("s")


def _may_come_off(words: list[str], *, glued: bool) -> bool:
    known = [word for word in words if _canonical(word) in _UNITS]
    meaningful = [w for w in words if w.lower() in _MEANINGFUL and w.lower() not in _IN_UNITS]
    if meaningful:
        return False
    if known and len(known) + sum(w.lower() in _IN_UNITS for w in words) == len(words):
        # "10m" is ten times m rather than ten metres, and so is "10 m" where m is a variable.
        return all(len(word) > 1 for word in words) or not (glued or len(words) == 1)
    if any(word.lower() in _IN_UNITS for word in words):
        return False
    return not glued and all(len(word) > 1 for word in words)


def compatible(a: frozenset[str], b: frozenset[str]) -> bool:
    """Whether two sets of unit names may describe one answer: one is empty, or they meet."""
    a, b = a - {"unit"}, b - {"unit"}
    return not a or not b or bool(a & b)

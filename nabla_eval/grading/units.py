"""Units, percent signs, scale words and other words that stand beside a number.

Units are names here, not sizes: metre and centimetre differ, and nothing is converted.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from nabla_eval.grading.numbers import latex, parse_number

_TABLES = json.loads(files("nabla_eval.grading").joinpath("tables.json").read_text("utf-8"))


def table(name: str) -> Any:
    """Return one table of `tables.json`: a dictionary, or a list of words."""
    found = _TABLES[name]
    return " ".join(found).split() if isinstance(found, list) else found


DOLLAR = "\ue000"
"""Stands for an escaped dollar sign, so that it is not taken for a mathematics delimiter."""

CURRENCY = {DOLLAR: "dollar", "€": "euro", "£": "pound", "¥": "¥", "₹": "rupee", "¢": "cent"}


Powers = frozenset[tuple[str, int]]
"""Base units with their powers: metre per second is {("metre", 1), ("second", -1)}."""

_BASES = table("units")
_COMPOUND: dict[str, Powers] = {
    word: frozenset(powers.items()) for word, powers in table("compound units").items()
}
_SPELLINGS = {spelling: unit for unit, words in _BASES.items() for spelling in words.split()}
SPELLINGS = frozenset(_SPELLINGS).union(_COMPOUND)
NAMES = frozenset(_BASES)

PLAIN_SYMBOLS = frozenset("mgshLlNJWVK")
"""One-letter units that also count in plain text; the rest is more often a name or a choice."""

_ITEM = r"[^\W\d_]+\.?(?:\s*\^\s*\{?\s*-?[1-9]\s*\}?)?"
_JOINT = r"\s*(?:/|\\cdot(?![a-z])|\\times(?![a-z])|·|\*|\\,|~|\s)\s*"
_EXPRESSION = re.compile(rf"(.*[0-9)}}\]])?\s*({_ITEM}(?:{_JOINT}{_ITEM})*)\s*", re.DOTALL)
_TABLE_WORD = re.compile(r"(?<!\\)(?<![^\W\d_])[^\W\d_]+")


def powers(word: str) -> Powers | None:
    """Return the base units of a spelling ("km", "Miles", "mph"); None for other words."""
    singular = word.lower().removesuffix("s") if len(word) > 2 and word != "has" else word
    for spelling in (word, word.lower(), singular):
        if spelling in _SPELLINGS:
            return frozenset({(_SPELLINGS[spelling], 1)})
        if spelling in _COMPOUND:
            return _COMPOUND[spelling]
    return None


def written_out(upright: str) -> str | None:
    """Return the text of ``\\text{...}`` with unit symbols of one letter as words.

    None where the text is no unit, or a number and a unit, and so may mean anything else.
    """
    if len(upright) > 60 or not (match := _EXPRESSION.fullmatch(upright.strip())):
        return None
    number, unit = match.group(1) or "", match.group(2)
    if any(powers(word) is None for word in _TABLE_WORD.findall(unit)):
        return None
    spelt = _TABLE_WORD.sub(lambda m: _SPELLINGS[m[0]] if len(m[0]) == 1 else m[0], unit)
    return f"{number} {spelt}"


_SCALES = table("scales")
SCALE_WORDS = frozenset(_SCALES)
# Words that change the value, so that no number may shed them.
_MEANINGFUL = frozenset(table("words that change a value")).union(SCALE_WORDS)
_MEANINGFUL_SIGNS = frozenset("".join(table("signs that change a value")))
_POWERS_BEFORE = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_POWERS_AFTER = {"squared": 2, "cubed": 3}
MODIFIERS = frozenset(_POWERS_BEFORE).union(_POWERS_AFTER, {"per"})

_PERCENT = re.compile(
    r"(?:%|(?<![a-zA-Z])(?:percent|pct|percentage|per cent)(?: points?)?)\Z", re.IGNORECASE
)
_DEGREE = re.compile(r"\^\\circ ?([CF]?)\Z")
_ANGLE_FUNCTION = re.compile(r"\\(?:arc)?(?:sin|cos|tan|sec|csc|cot)(?![a-z])")
_WORD = r"[^\W\d_]+\.?"
_POWER = r"(?:\^\{-?[1-9]\})?"
_WORDS = re.compile(
    rf"(?<![^\W\d_])(?<!\\)((?:{_WORD}{_POWER}(?: ?(?:/|\\cdot|\\times|\*) ?| |\Z))+)\Z"
)
_START = re.compile(rf"(?<![^\W\d_])(?<!\\){_WORD}")
_FACTOR = re.compile(rf"({_WORD}?)(?:\^\{{(-?[1-9])\}})?(?= |/|\\|\*|\Z)|/")
_CURRENCY_WORD = re.compile(
    r"([+-]?)(Rs|INR|USD|EUR|GBP|JPY|CNY|RMB|KRW|US\ue000)\.? ?(?=[0-9.\\])", re.IGNORECASE
)
_SCALED = re.compile(
    rf"(.*[0-9}}]) ?({'|'.join(_SCALES)})s?(?![a-zA-Z米克瓦卡])(?: of(?= ))?(.*)\Z"
)
_SHORT_SCALES = {"k": 10**3, "m": 10**6, "b": 10**9, "bn": 10**9}
_SHORT_SCALE = re.compile(r"(.*[0-9]) ?(k|K|M|B|bn)\Z")


@dataclass(frozen=True)
class Units:
    """Everything beside a value: known units with their powers, other words, a percent sign."""

    known: Powers = frozenset()
    words: frozenset[str] = frozenset()
    percent: bool = False


NO_UNITS = Units()
_YENS = [frozenset({(name, 1)}) for name in ("¥", "yen", "yuan")]


def split_units(text: str) -> tuple[str, Units]:
    """Take currency, percent sign, degrees and trailing words off a normalised answer.

    Words come off only a value that ends in a digit or a closing bracket and only when none of them
    could change the value ("17 apples" becomes 17); scale words multiply it ("17 million").
    """
    known: dict[str, int] = {}
    for sign, name in CURRENCY.items():
        if text.strip("-+ ").startswith(sign) or text.endswith(sign):
            text = text.replace(sign, "", 1).strip()
            known[name] = 1
    if match := _CURRENCY_WORD.match(text):
        known.update(powers(match.group(2).replace(DOLLAR, "D").upper()) or {("rupee", 1)})
        text = match.group(1) + text[match.end() :]
    if known and (match := _SHORT_SCALE.fullmatch(text)):
        text = _times(match.group(1), _SHORT_SCALES[match.group(2).lower()])
    if match := _PERCENT.search(text):
        return text[: match.start()].rstrip(), Units(frozenset(known.items()), percent=True)
    if (match := _DEGREE.search(text)) and not _ANGLE_FUNCTION.search(text):
        known[{"": "degree", "C": "celsius", "F": "fahrenheit"}[match.group(1)]] = 1
        return text[: match.start()].rstrip(), Units(frozenset(known.items()))
    if match := _SCALED.fullmatch(text):
        value, word, rest = match.groups()
        scaled = _times(value, _SCALES[word])
        text = scaled + rest if scaled != value else text
    value, units = _words(text)
    known = {**dict(units.known), **known}
    known.pop("unit", None)
    return value, Units(frozenset(known.items()), units.words)


def _times(value: str, factor: int) -> str:
    """Return the exact value of a number times a scale; other texts stay as they are."""
    number = parse_number(value)
    return latex(number.value * factor) if number is not None else value


def _words(text: str) -> tuple[str, Units]:
    match = _WORDS.search(text)
    if match is None or _ANGLE_FUNCTION.search(text[: match.start()]):
        return text, NO_UNITS
    # The first of the words may belong to the value: x^{2} cm.
    starts = [match.start() + m.start() for m in _START.finditer(match.group(1))]
    for start in filter(None, starts[:3]):
        if units := _parse_words(text[start:], text[:start]):
            return text[:start].rstrip(), units
    return text, NO_UNITS


def _parse_words(text: str, value: str) -> Units | None:
    """Return the units that words are; None where the words may not come off ``value``."""
    words = [word.rstrip(".") for word in _START.findall(text)]
    lowered = [word.lower() for word in words]
    if _MEANINGFUL.intersection(lowered) or lowered[0] in _POWERS_AFTER:
        return None
    foreign = any(_MEANINGFUL_SIGNS.intersection(word) for word in words)
    if foreign and not all(powers(word) for word in words):
        return None
    units = _factors(text)
    if units.words and MODIFIERS.intersection(lowered) - {"per"}:
        return None
    spaced, letter = value.endswith(" "), any(len(word) == 1 for word in words)
    latin = all(word.isascii() for word in words)
    if not value.rstrip().endswith(tuple("0123456789)}]")):
        # "10\\pi cm": only known units, and not letters, may follow other than numbers.
        accepted = spaced and not letter and not units.words and bool(units.known)
    elif letter and latin:
        # "10m" is ten times m, and so is "10 x"; "10 m" and "10 m/s" are measures.
        # "2 m g h" is a product; of several letters only a quotient is a unit.
        single = "/" in text if len(words) > 1 else words[0] in PLAIN_SYMBOLS
        plain = "\\frac" not in value and parse_number(value.rstrip()) is not None
        accepted = spaced and plain and single and not units.words
    else:
        accepted = spaced or not units.words or not latin
    return units if accepted else None


def _factors(text: str) -> Units:
    known: Counter[str] = Counter()
    others = set()
    sign, ahead = 1, 1
    last: Powers = frozenset()
    for match in _FACTOR.finditer(text):
        word = (match.group(1) or "").rstrip(".")
        lowered = word.lower()
        if match.group() == "/" or lowered == "per":
            sign = -1
        elif lowered in _POWERS_BEFORE:
            ahead = _POWERS_BEFORE[lowered]
        elif lowered in _POWERS_AFTER:
            known.update({name: power * (_POWERS_AFTER[lowered] - 1) for name, power in last})
        elif word:
            times = sign * ahead * int(match.group(2) or 1)
            name = lowered.removesuffix("s")
            unit = powers(word) or (frozenset({(name, 1)}) if sign < 0 else frozenset())
            if not unit:
                others.add(name)
            last = frozenset((name, power * times) for name, power in unit)
            known.update(dict(last))
            sign, ahead = 1, 1
    return Units(frozenset(item for item in known.items() if item[1]), frozenset(others))


def compatible(a: Units, b: Units) -> bool:
    """Return whether two answers may have these units: the same ones, or one has none."""
    if a.percent != b.percent:
        other = b if a.percent else a
        return not (other.known or other.words)
    if a.known and b.known:
        # The sign ¥ stands for yen and for yuan.
        sides = {a.known, b.known}
        return len(sides) == 1 or (_YENS[0] in sides and sides <= set(_YENS))
    if a.known or b.known:
        return not (b if a.known else a).words
    return not a.words or not b.words or bool(a.words & b.words)

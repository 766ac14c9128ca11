"""What stands before or after a value and is no part of it: choice labels, words, remarks.

All functions take normalised answers (`normalise`).
"""

from __future__ import annotations

import re

from nabla_eval.grading.unit_table import powers

_LETTER = re.compile(r"(?:(?:option|choice|answer) )?\(?([A-J])\)?[.:]?\Z", re.IGNORECASE)
_LABEL = re.compile(
    r"(?:(?:option|choice|answer) )?"
    r"(?:\(([A-J])\) ?[.:]? ?|\[([A-J])\] ?[.:]? ?|([A-J])[.):] ?|\(([a-j])\) ?(?=[0-9\\-]))(.+)\Z",
    re.IGNORECASE | re.DOTALL,
)
_CAPITAL = re.compile(r"(?:(?:option|choice|answer) )?[(\[]?[A-J]", re.DOTALL)
# After a label stands a value: no operator, no other label, no single letter.
_NO_VALUE = re.compile(
    r"[+*/^=<>,;:)|!']|\\(?:cdot|times|cup|cap|le|ge|ne|in|to|approx|Rightarrow|cong|sim)(?![a-z])"
    r"|(?:and|or|is|to|then|nor)(?![a-z])|\(?[A-Za-z]\)?\Z|\(?[A-Za-z]\)?[=:.)(,;]"
)
_OTHER_LABEL = re.compile(r"(?<![A-Za-z\\])(?:\([A-J]\)|[A-J][.):] )")

_LEAD = re.compile(
    r"((?:[A-Za-z]+'?s? ){0,8}[A-Za-z]+) ?"
    r"(?:(?<![a-z])(?:is|are|equals)(?: (?:equal to|just|then))? ?:?|:) ?(?=\S)(.+)\Z",
    re.DOTALL,
)
_NAMED = re.compile(
    r"(?:the )?(?:total|sum|answer|result|value|area|volume|perimeter|product|remainder"
    r"|probability) (?=[0-9\\])",
    re.IGNORECASE,
)
_NEGATING_WORDS = """
    not no never none neither nor except least most unless if isn wrong incorrect false than minus
    negative between from
"""
_NEGATING = frozenset(_NEGATING_WORDS.split())
_REMARK = re.compile(r"(.*[^ (]) ?\(([A-Za-z][A-Za-z .,']{3,60})\)\Z", re.DOTALL)
_CHANGING_WORDS = """
    mod modulo base or more less than not no least most million billion thousand hundred squared
    cubed percent half dozen only and if when negative minus wrong incorrect invalid false rejected
    plus times over
"""
_CHANGING = frozenset(_CHANGING_WORDS.split())


def letter(text: str) -> str | None:
    """The capital letter that ``text`` chooses, when it does nothing else."""
    match = _LETTER.match(text)
    return match.group(1).upper() if match else None


def labelled(text: str) -> tuple[str, str] | None:
    """Letter and value of a choice with its value: (C) 7, C. 7, C: 7; None for anything else."""
    match = _LABEL.match(text) if _CAPITAL.match(text) or text[:1] == "(" else None
    if match is None:
        return None
    found = next(group for group in match.groups()[:4] if group)
    value = match.group(5).strip()
    if not value or _NO_VALUE.match(value) or _OTHER_LABEL.search(value):
        return None
    return (found.upper(), value) if found.isupper() or match.group(4) else None


def bare_value(text: str) -> str:
    """``text`` without words before its value ("The area is 7") and a remark in brackets after."""
    if match := _NAMED.match(text):
        text = text[match.end() :]
    if (match := _LEAD.match(text)) and re.search("[a-z]{2}|[A-Z]{2}", match.group(1)):
        words = re.findall("[A-Za-z]+", match.group(1).lower())
        if not _NEGATING.intersection(words) and not _NEGATING.intersection(_first(match.group(2))):
            text = match.group(2).strip()
    if match := _REMARK.match(text):
        words = re.findall("[A-Za-z]+", match.group(2).lower())
        if any(map(powers, words)):
            text = f"{match.group(1)} {match.group(2)}"
        elif any(len(word) > 3 for word in words) and not _CHANGING.intersection(words):
            text = match.group(1)
    return text


def _first(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text[:12].lower())[:1]

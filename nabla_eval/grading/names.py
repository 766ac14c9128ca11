r"""Names of quantities, and what stands before or after a value and is no part of it.

All functions take normalised answers (`normalise`): "x", "f(x)" and "\\angle ABC" are names; choice
labels, words before a value and remarks after it come off.
"""

from __future__ import annotations

import re

from nabla_eval.grading.units import powers, table

_LETTER = (
    r"(?:[A-Za-z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|phi|varphi|omega|sigma|rho|ell))"
)
_ATOM = rf"{_LETTER}(?:_\{{[0-9A-Za-z]{{1,4}}\}})?'{{0,2}}"
_NAME = re.compile(
    rf"(?:{_ATOM}(?:\^\{{-1\}})?(?:\({_ATOM}(?:,{_ATOM})*\)|\([0-9]{{1,4}}\))?"
    r"|(?:m?\\angle ?|\\overline|\\triangle ?)\{?[A-Z]{1,4}\}?"
    rf"|\\(?:gcd|lcm)\({_ATOM},{_ATOM}\)"
    r"|[A-Z]{2,4}|\|[A-Z]{2}\||\[[A-Z]{3,6}\]"
    rf"|\({_ATOM}(?:,{_ATOM})+\)|{_ATOM}(?::{_ATOM})+|[A-Za-z]{{3,}}(?: [A-Za-z]+){{0,4}})\Z"
)
_FUNCTION = re.compile(rf"({_ATOM})\((?:[a-z]|\\[a-z]+)(?:,[a-z])*\)\Z")


_INNER = r"(?:[^()\[\]]|\([^()]*\)){1,40}"
_QUANTITY = re.compile(
    r"(?:(?:[PEfghFG]|n(?=\([A-Z])|\\mathbb\{[PE]\}|\\det|\\?Pr|Var|[Aa]rea|[Vv]ol)'{0,2} ?"
    rf"[(\[]{_INNER}[)\]]|\\det ?[A-Z]"
    r"|\|(?:[zwA-Z]|[A-Z] ?\\c[au]p ?[A-Z]|\\(?:overrightarrow|vec) ?\{(?:[a-z]|[A-Z]+)\})\|"
    r"|\\(?:overrightarrow|widehat|overarc|overparen) ?\{[A-Z]{2,3}\}"
    r"|\\(?:sin|cos|tan|cot|sec|csc) ?(?:\(?[A-Z]\)?|\\angle ?\{?[A-Z]{1,3}\}?)"
    r"|\\(?:lim|sum|int|prod)(?![a-z]).{1,80})\Z"
)


def is_quantity(text: str) -> bool:
    """Return whether ``text`` has a value that a question may ask for: P(A|B), |z|, a limit."""
    return len(text) <= 100 and _QUANTITY.match(text) is not None


def is_name(text: str) -> bool:
    """Return whether ``text`` only names a quantity: x_1, f(x), \\angle ABC, (x,y), total cost."""
    return len(text) <= 60 and _NAME.match(text) is not None


def function_of(name: str) -> str | None:
    """Return the f of f(x), whatever its variable is called; None for f(2), P(A), x."""
    match = _FUNCTION.match(name)
    return match.group(1) if match else None


_TERM_ATOM = (
    r"(?:(?:m?\\angle|\\triangle|\\overline|\\overrightarrow) ?\{?[A-Z]{1,3}\}?"
    rf"|\|[A-Z]{{2}}\||\|{_ATOM}\||{_LETTER}\([0-9]{{1,4}}\)|{_ATOM})"
)
_PRODUCT = rf"{_TERM_ATOM}(?: ?(?:\\cdot|\\times|\*)? ?{_TERM_ATOM}){{0,5}}"
_TERM = re.compile(
    rf"([0-9]{{0,4}}) ?(?:\\frac\{{{_PRODUCT}\}}\{{{_PRODUCT}\}}"
    rf"|{_PRODUCT}(?:/{_TERM_ATOM})?)\Z|[0-9]+\Z"
)


def requested(text: str) -> bool:
    """Return whether ``text`` is a quantity that a question asks for: m+n, a+b+c, xy, a/b, AB+CD.

    It is linear in each of its two or more letters. Equations that are answers themselves have one
    unknown (2x+1 = 7), powers, or x and y with coefficients (2x+3y = 6, a line).
    """
    if len(text) > 80 or "^" in text:
        return False
    terms = [term.strip() for term in re.split(r"[+-]", text.strip().lstrip("+-"))]
    matches = [_TERM.match(term) for term in terms]
    if len(terms) > 12 or not all(matches):
        return False
    coefficients = [match.group(1) for match in matches if match and match.group(1)]
    letters = re.findall(_TERM_ATOM, re.sub(r"\\(?:frac|cdot|times)", " ", text))
    if len(set(letters)) < 2 or (coefficients and len(terms) == 1):
        return False
    return not (coefficients and {"x", "y", "z"}.intersection(letters))


_CHOICE = re.compile(r"(?:(?:option|choice|answer) )?\(?([A-J])\)?[.:]?\Z", re.IGNORECASE)
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
_NEGATING = frozenset(table("words that deny a value"))
_REMARK = re.compile(r"(.*[^ (]) ?\(([A-Za-z][A-Za-z .,']{3,60})\)\Z", re.DOTALL)
_CHANGING = frozenset(table("remarks that change a value"))


def letter(text: str) -> str | None:
    """Return the capital letter that ``text`` chooses, when it does nothing else."""
    match = _CHOICE.match(text)
    return match.group(1).upper() if match else None


def labelled(text: str) -> tuple[str, str] | None:
    """Return letter and value of a choice with its value: (C) 7, C. 7, C: 7; else None."""
    match = _LABEL.match(text) if _CAPITAL.match(text) or text[:1] == "(" else None
    if match is None:
        return None
    found = next(group for group in match.groups()[:4] if group)
    value = match.group(5).strip()
    if not value or _NO_VALUE.match(value) or _OTHER_LABEL.search(value):
        return None
    return (found.upper(), value) if found.isupper() or match.group(4) else None


def bare_value(text: str) -> str:
    """Return ``text`` without words before its value ("The area is 7") and a remark behind it."""
    if match := _NAMED.match(text):
        text = text[match.end() :]
    if (match := _LEAD.match(text)) and re.search("[a-z]{2}|[A-Z]{2}", match.group(1)):
        first = re.findall("[A-Za-z]+", match.group(2)[:12])[:1]
        words = re.findall("[A-Za-z]+", match.group(1)) + first
        if not _NEGATING.intersection(map(str.lower, words)):
            text = match.group(2).strip()
    if match := _REMARK.match(text):
        words = re.findall("[A-Za-z]+", match.group(2).lower())
        if any(map(powers, words)):
            text = f"{match.group(1)} {match.group(2)}"
        elif any(len(word) > 3 for word in words) and not _CHANGING.intersection(words):
            text = match.group(1)
    return text

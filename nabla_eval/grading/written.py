r"""How numbers and set phrases are written: marks, separators, bases, repeating decimals.

Everything takes time linear in the length of the text.
"""

from __future__ import annotations

import re

_TAG = re.compile(
    r"</?(?:b|strong|i|em|u|p|br|span|div|code|pre|center|font|mark|small|big|li|ul|ol|h[1-6])"
    r"(?:\s[^<>\n]{0,200})?\s?/?>",
    re.IGNORECASE,
)
_RAISED = re.compile(r"<(sup|sub)>([^<>\n]{1,20})</\1>", re.IGNORECASE)
_PICTURES = re.compile(
    "[\u2600-\u2715\u2719-\u274b\u274d\u274f-\u27bf\u2b00-\u2bff\u25a0\u25a1\u25aa\u25ab\u25fb-\u25fe\u220e\ufe0e\ufe0f\u200d\u20e3"
    "\U0001f000-\U0001faff]+"
)
# Arabic-Indic, Persian, Devanagari and Bengali digits.
_DIGITS = {
    first + digit: str(digit) for first in (0x660, 0x6F0, 0x966, 0x9E6) for digit in range(10)
}
_CHARACTERS = _DIGITS | str.maketrans("：（）；，", ":();,")

_GROUPS = re.compile(
    r"(?<![0-9A-Za-z.,^_/'})])(?<![0-9A-Za-z.,^_/'})] )"
    r"[0-9]{1,3}(?:(?P<gap> |\\[ ,;:]|~|'|\\_|\{ ?\\?[ ,;]? ?\})[0-9]{3})"
    r"(?:(?P=gap)[0-9]{3})*(?![0-9])"
    r"(?! ?(?:/|\\frac| [0-9]|'))"
)
_DOTTED = re.compile(r"(?<![0-9.,])[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])")
_TIMES = re.compile(r"(?<=[0-9])(?<!\b0)(?:\s|\\[,;: ])*[xX](?:\s|\\[,;: ])*(?=[0-9])")
_HALF_OF_DAY = re.compile(
    r"(?<=[0-9])(?:\s|\\[ ,;~!])*([ap])(?:\.? ?m\.|m(?![A-Za-z]))", re.IGNORECASE
)

_REPEATING: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\\(overline|bar|dot) ?([0-9])"), r"\\\1{\2}"),
    (re.compile(r"(\.[0-9]{0,40})\\dot\{([0-9])\}([0-9]{0,40})\\dot\{([0-9])\}"),
     r"\1\\overline{\2\3\4}"),
    (re.compile(r"(\.[0-9]{0,40})\\dot\{([0-9])\}"), r"\1\\overline{\2}"),
    (re.compile(r"(\.[0-9]{0,40})\(([0-9]{1,40})\)"), r"\1\\overline{\2}"),
    (re.compile(r"(\.[0-9]{0,40}?)([0-9]{1,20}?)\2{2,20} ?(?:\.{3}|\\[lc]?dots(?![a-z]))"),
     r"\1\\overline{\2}"),
]  # fmt: skip

_COUNTING = """
    two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
"""
_NUMERALS = {word: str(value) for value, word in enumerate(_COUNTING.split(), start=2)}
_BASE = rf"(?:base[- ]?)?([0-9]{{1,2}}|{'|'.join(_NUMERALS)})"
_SUBSCRIPT = re.compile(rf"_ ?\{{[\s(]*{_BASE}[\s)]*\}}")
_IN_BASE = re.compile(
    rf"(?<![0-9A-F])([0-9A-F]+) ?\(? ?"
    rf"(?:(?:in )?base[- ]?([0-9]{{1,2}}|{'|'.join(_NUMERALS)}))[\s)]*\Z"
)

_PHRASES = {
    r"\emptyset": (
        "no solution|no solutions|there is no solution|there are no solutions|empty set"
        "|the empty set|null set|no such solution exists"
    ),
    r"\mathbb{R}": "all real numbers|all reals|the set of all real numbers|the real numbers",
    "no": "no",
    "dne": "does not exist|doesn't exist|the limit does not exist|it does not exist",
    r"\infty": "infinitely large|positive infinity",
    "infinitely many": "infinitely many solutions|infinite solutions|infinite number of solutions",
}
_PHRASE = {text: name for name, texts in _PHRASES.items() for text in texts.split("|")}
PHRASES = frozenset(_PHRASE).union(
    {"dne", "none", "infinitely many", "no real solutions", "no real solution", "undefined"}
)
"""Answers in words that a sentence may give in place of a value."""

_QUOTES = (("'", "'"), ("«", "»"), ("「", "」"), ("『", "』"), ("【", "】"), ('"', '"'), ("`", "'"))
_ARTICLE = re.compile(r"\A(?:an?|the) (?=[a-z]{4,}(?: [a-z]+){0,3}\Z)", re.IGNORECASE)
_RATIO = re.compile(r"\A([0-9]{1,9}) to ([0-9]{1,9})\Z")
_END = r"[^\[\]();,]{1,200}"
_REVERSED = re.compile(rf"([\[\](])({_END}[;,]{_END})([\[\])])")
_UNION = re.compile(
    rf"(?:[A-Za-z] ?(?:=|\\in ?) ?)?[\[\](]{_END}[;,]{_END}[\[\])]"
    rf"(?: ?(?:\\cup|\\cap) ?[\[\](]{_END}[;,]{_END}[\[\])]){{0,30}}"
)


def clean(text: str) -> str:
    """``text`` without HTML tags, emoji and check marks, with European digits."""
    if "<" in text:
        text = _RAISED.sub(lambda m: ("^{" if m[1].lower() == "sup" else "_{") + m[2] + "}", text)
        text = _TAG.sub(" ", text)
    return text if text.isascii() else _PICTURES.sub(" ", text).translate(_CHARACTERS)


def numbers_as_digits(text: str) -> str:
    """Numbers without separators of thousands, with one notation for bases and repetition."""
    text = _GROUPS.sub(lambda match: re.sub(r"[^0-9]", "", match.group()), text)
    text = _DOTTED.sub(lambda match: match.group().replace(".", ""), text)
    text = _TIMES.sub(r" \\times ", text)
    text = _HALF_OF_DAY.sub(lambda match: f" {match[1].lower()}m ", text)
    if "." in text:
        for pattern, replacement in _REPEATING:
            text = pattern.sub(replacement, text)
    text = _SUBSCRIPT.sub(lambda m: f"_{{{_NUMERALS.get(m[1], m[1])}}}", text)
    return _IN_BASE.sub(lambda m: f"{m[1]}_{{{_NUMERALS.get(m[2], m[2])}}}", text)


def unquoted(text: str) -> str:
    """``text`` without quotation marks around all of it; a set phrase by its one name."""
    for _ in range(3):
        for opening, closing in _QUOTES:
            if len(text) > 2 and text[0] == opening and text[-1] == closing:
                text = text[1:-1].strip()
    text = _ARTICLE.sub("", text)
    text = _RATIO.sub(r"\1:\2", text)
    return _PHRASE.get(text.lower(), text) if len(text) < 60 else text


def straight_brackets(text: str) -> str:
    """Intervals with brackets turned outwards, ``[0,1[``, in the usual ones, ``[0,1)``."""
    if not _UNION.fullmatch(text):
        return text
    return _REVERSED.sub(
        lambda m: m[1].replace("]", "(") + m[2] + m[3].replace("[", ")"), text
    )  # fmt: skip

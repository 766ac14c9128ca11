"""Mathematics, numbers and bare expressions in running text."""

from __future__ import annotations

import re

from nabla_eval.grading.normalise import COMMANDS
from nabla_eval.grading.unit_table import SPELLINGS
from nabla_eval.grading.units import MODIFIERS, SCALE_WORDS

MAX_BARE = 300

VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
_SCALE = "|".join(word for word in sorted(SCALE_WORDS) if word.isascii())
_PLAIN = r"[-−+]?[0-9]+(?:\.[0-9]+|/[0-9]+)?"
_POINT = rf"\({_PLAIN}(?:, ?{_PLAIN}){{1,3}}\)|[\[(]{_PLAIN}, ?{_PLAIN}[\])]"
NUMBER = re.compile(
    rf"(?<![\w)\]}}]){_POINT}|[-−]?\\[dtc]?frac\{{[0-9]+\}}\{{[0-9]+\}}|"
    r"(?:(?<![A-Za-z0-9_)}\]])[-−])?(?<![A-Za-z0-9_.])[$€£]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
    r"|[0-9]{1,3}(?:[ \u00a0\u2009\u202f][0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
    r"|[0-9]{1,2}(?::[0-9]{2}){1,2}(?![0-9:])(?: ?[apAP](?:\.[mM]\.|[mM]\b))?|[0-9]+(?::[0-9]+)+"
    rf"|[0-9]* ?[{VULGAR}]|[0-9]+ [0-9]+/[0-9]+|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    rf"(?:/[0-9]+)?(?:\s?\\?%|\s(?:{_SCALE})\b)?"
)
_SPAN_TOKEN = re.compile(r"\$\$|\$|\\[()\[\]]|\\.", re.DOTALL)
_CLOSING = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_QUOTED_TEXT = re.compile(
    r"\\(?:begin|end|text\w*|math\w+|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:and|or)(?![a-z])"
)
_UNIT_WORDS = {unit.lower() for unit in SPELLINGS}
_PROSE_FREE = frozenset(
    {"percent", "pct", "percentage", "infinity", "inf", "undefined", "pm", "am"}
).union(
    COMMANDS, MODIFIERS, SCALE_WORDS, _UNIT_WORDS, (u + "s" for u in _UNIT_WORDS if len(u) > 2)
)  # fmt: skip
_NAME = re.compile(
    r"[\s$]*(?:\\[(\[])?\s*\\?(?:[A-Za-z]|[A-Z]{2,8}|[A-Z]_\{?\w\}?)\s*(?:\\[)\]])?[\s$]*"
)


def math_spans(text: str) -> list[tuple[int, int]]:
    """Positions of ``$...$``, ``$$...$$``, ``\\(...\\)`` and ``\\[...\\]``, delimiters included.

    A dollar sign before a digit does not close: "$5 and $6" are two prices.
    """
    spans = []
    opened: tuple[str, int] | None = None
    for match in _SPAN_TOKEN.finditer(text):
        token = match.group()
        if opened is None:
            if token in _CLOSING:
                opened = (token, match.start())
        elif token == _CLOSING[opened[0]]:
            price = token == "$" and text[match.end() : match.end() + 1].isdigit()
            if not price and "\n\n" not in text[opened[1] : match.start()]:
                spans.append((opened[1], match.end()))
                opened = None
            else:
                opened = (token, match.start())
        elif token in {r"\(", r"\["}:
            opened = (token, match.start())
    return spans


def inside(position: int, spans: list[tuple[int, int]]) -> bool:
    """Whether a position lies in one of the spans."""
    return any(start <= position < end for start, end in spans)


def is_symbol(span: str) -> bool:
    """Whether a mathematical span only names something: $n$, $ABC$."""
    return _NAME.fullmatch(span) is not None


def bare(text: str) -> str | None:
    """The whole text, if it is one expression without prose."""
    text = text.strip()
    if not text or len(text) > MAX_BARE or "\n" in text or "boxed" in text:
        return None
    words = re.findall(r"[^\W\d_]{2,}", _QUOTED_TEXT.sub(" ", text))
    if any(word.lower() not in _PROSE_FREE and not word.isupper() for word in words):
        return text if len(words) == 1 and re.fullmatch(r"[A-Za-z]{2,20}", text) else None
    if re.search(r"[A-Za-z0-9]{5,}", text) and re.search(r"[A-Za-z][0-9]+[A-Za-z]", text):
        return None
    # A chain of calculations shows work; its last number is the answer.
    work = "=" in text and not re.search(r"[A-Za-z]", _QUOTED_TEXT.sub("", text))
    return None if work else text

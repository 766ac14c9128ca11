r"""The final answer in a model's response.

What counts, in this order:

1. the last ``\boxed{}`` (or several boxes that only commas or "and" separate, as a list);
2. what follows the last ``####`` (GSM8K's own format);
3. what follows the last "answer is", "answer:" or "Answer" heading;
4. the whole response, if it is one expression on one line, without prose;
5. the last mathematical span (``$...$``, ``\(...\)``, ``\[...\]``) or, if one stands after it, the
   last number.

Only text after a thinking block counts, and text of an unfinished thought or an unclosed box is no
answer. All of it takes time linear in the length of the response.
"""

from __future__ import annotations

import re

from nabla_eval.grading.normalise import COMMANDS
from nabla_eval.grading.units import UNITS

THINK_TAGS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
)
MAX_RESPONSE = 2_000_000
"""Only the last so many characters of a response are searched."""

MAX_BARE = 300

_BOX = re.compile(r"(?<!\\)\\{1,4}(?:boxed|fbox)\s*(?:(\{)|\s([^\s{}$\\]+))|\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:\s|[,;$&]|\\[()\[\]]|\\q?quad|\\[,;! ]|\\text\s*\{\s*(?:,?\s*and|or)\s*\}|\band\b|\bor\b"
    r"|[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?\s*=)*\Z"
)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_PHRASE = re.compile(
    r"\banswer\b\**(?:[a-z ,]{0,60}?\b(?:is|are|equals)\b\**[ ]*:?|[ ]*[:=]|[ ]*\n"
    r"|[ ]+(?=\\[(\[]|\$))",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"\.(?=\s|\Z)|<\||\n")
_LETTER = re.compile(r"\(?([A-J])\)?(?=[\s.,:;)]|\Z)(?!\s*[=+\-*/^])")
_NUMBER = re.compile(
    r"(?:(?<![A-Za-z0-9_)}\]])[-−])?(?<![A-Za-z0-9_.])[$€£]?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:/[0-9]+)?(?:\s?\\?%)?"
)
_SPAN_TOKEN = re.compile(r"\$\$|\$|\\[()\[\]]|\\.", re.DOTALL)
_CLOSING = {"$$": "$$", "$": "$", r"\(": r"\)", r"\[": r"\]"}
_QUOTED_TEXT = re.compile(
    r"\\(?:begin|end|text\w*|math\w+|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+"
    r"|(?<![A-Za-z])(?:and|or)(?![a-z])"
)
_PROSE_FREE = frozenset({"percent", "pct", "percentage", "infinity", "inf", "undefined"}).union(
    COMMANDS, (unit.lower() + plural for unit in UNITS for plural in ("", "s"))
)


def extract(text: str | None, *, in_thought: bool = False) -> str | None:
    """The final answer in ``text``, or None when there is none.

    ``in_thought`` says that the prompt already opened a thinking block, so that a response which
    never closes it holds no answer. The result is an excerpt of the text, not yet normalised.
    """
    if not text:
        return None
    text = after_thinking(text, in_thought=in_thought)[-MAX_RESPONSE:]
    boxed, text = _boxed(text)
    found = boxed or _after_hashes(text) or _after_phrase(text) or _bare(text) or _last(text)
    found = _trim(found) if found else ""
    return found or None


def after_thinking(text: str, *, in_thought: bool = False) -> str:
    """``text`` without thinking blocks; an unfinished one takes everything after it along."""
    for opening, closing in THINK_TAGS:
        _, closed, rest = text.rpartition(closing)
        if closed:
            text = rest
            in_thought = False
        text = text.partition(opening)[0]
    return "" if in_thought else text


def _boxed(text: str) -> tuple[str | None, str]:
    """Content of the last complete box or group of boxes, and where else to search without one.

    A box that is never closed was cut off with its answer; nothing after its start is one.
    """
    boxes: list[tuple[int, int, str]] = []
    stack: list[tuple[int, int] | None] = []
    for match in _BOX.finditer(text):
        if match.group(1):
            stack.append((match.start(), match.end()))
        elif match.group(2):
            boxes.append((match.start(), match.end(), match.group(2)))
        elif match.group() == "{":
            stack.append(None)
        elif match.group() == "}" and stack and (opened := stack.pop()) is not None:
            start, inside = opened
            # A box around boxes replaces them.
            while boxes and boxes[-1][0] > start:
                boxes.pop()
            if content := text[inside : match.start()].strip():
                boxes.append((start, match.end(), content))
    if not boxes:
        unclosed = min((opened[0] for opened in stack if opened is not None), default=len(text))
        return None, text[:unclosed]
    group = [boxes[-1]]
    for box in reversed(boxes[:-1]):
        between = text[box[1] : group[0][0]]
        if len(between) > 80 or not _BETWEEN_BOXES.match(between):
            break
        group.insert(0, box)
    return ", ".join(dict.fromkeys(content for _, _, content in group)), text


def _after_hashes(text: str) -> str | None:
    matches = _HASHES.findall(text)
    return matches[-1] if matches else None


def _after_phrase(text: str) -> str | None:
    ends = [match.end() for match in _PHRASE.finditer(text)]
    if not ends:
        return None
    rest = text[ends[-1] : ends[-1] + 2000].lstrip(" \t*_:\n\"'")
    if rest.startswith("not "):
        return None
    sentence = rest[: _end_of_sentence(rest)].strip(" *_\"'")
    spans = math_spans(sentence)
    if spans and spans[0][0] == 0 and not re.search(r"[A-Za-z]{2}", _outside(sentence, spans)):
        return sentence
    if whole := _bare(sentence):
        return whole
    if letter := _LETTER.match(sentence):
        return letter.group(1)
    number = _NUMBER.search(sentence)
    if spans and (number is None or spans[0][0] <= number.start()):
        return sentence[spans[0][0] : spans[0][1]]
    return number.group() if number else None


def _end_of_sentence(text: str) -> int:
    """First end of a sentence or line outside mathematics."""
    spans = math_spans(text)
    for match in _SENTENCE_END.finditer(text):
        if not any(start <= match.start() < end for start, end in spans):
            return match.start()
    return len(text)


def _outside(text: str, spans: list[tuple[int, int]]) -> str:
    bounds = [0, *(bound for span in spans for bound in span), len(text)]
    pieces = [text[a:b] for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
    return re.sub(r"\b(?:and|or)\b", " ", " ".join(pieces))


def _bare(text: str) -> str | None:
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


def _last(text: str) -> str | None:
    spans = math_spans(text)
    start, end = spans[-1] if spans else (0, 0)
    numbers = [m.group() for m in _NUMBER.finditer(text, end)]
    if numbers:
        return numbers[-1]
    return text[start:end] if spans else None


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


def _trim(answer: str) -> str:
    """Without white space and emphasis at both ends and punctuation at the right one."""
    start, end = 0, len(answer)
    while end and (answer[end - 1].isspace() or answer[end - 1] in ".,;:*_"):
        end -= 1
    while start < end and (answer[start].isspace() or answer[start] in "*_"):
        start += 1
    return answer[start:end]

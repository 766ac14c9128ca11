r"""The final answer in a model's response.

What counts, in this order:

1. the last ``\boxed{}`` (or several boxes that only commas or "and" separate, as a list);
2. what follows the last ``####`` (GSM8K's own format);
3. the value in the sentence after the last "answer is", "answer:" or "Answer" heading (`sentence`);
4. the whole response, if it is one expression on one line, without prose;
5. the last mathematical span (``$...$``, ``\(...\)``, ``\[...\]``) or, if one stands after it, the
   last number.

Only text after a thinking block counts, and text of an unfinished thought or an unclosed box is no
answer. All of it takes time linear in the length of the response.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from nabla_eval.grading.sentence import after_phrase
from nabla_eval.grading.spans import NUMBER, bare, math_spans
from nabla_eval.grading.written import clean
from nabla_eval.thought import spoken

MAX_RESPONSE = 2_000_000
"""Only the last so many characters of a response are searched."""

_BOX = re.compile(r"(?<!\\)\\{1,4}(?:boxed|fbox)\s*(?:(\{)|\s([^\s{}$\\]+))|\\.|[{}]", re.DOTALL)
_BETWEEN_BOXES = re.compile(
    r"(?:\s|[,;$&]|\\[()\[\]]|\\q?quad|\\[,;! ]|\\text\s*\{\s*(?:,?\s*and|or)\s*\}|\band\b|\bor\b"
    r"|[A-Za-z](?:_\{?[0-9A-Za-z]\}?)?\s*=)*\Z"
)
_MINUS = re.compile(r"(?:\A|[=$\s])-\Z")
_MARKS = r"[ *$]{0,4}\n?[ *$]{0,4}"
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never|neither|nor|rather than|instead of|incorrectly)|n't)\**"
    rf"(?: (?:be|equal to|equal|simply|just|the answer))*:?{_MARKS}(?:\\[(\[]\s?)?\Z",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    rf"{_MARKS}(?:\\[)\]])?[ .*]*(?:is|was|cannot be|can't be)\b(?: (?:clearly|also|actually))? "
    r"(?:wrong|incorrect|impossible|false|not (?:correct|right|possible|valid|a solution)"
    r"|not the (?:(?:correct|right|final) )?(?:answer|solution|value|one))\b",
    re.IGNORECASE,
)
_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_BOLD_END = re.compile(
    r"(?:\A|\n|[.!?] )(?=[A-Z])[^\n.!?]{0,200}\b(?:is|on|be)\b[^\n.!?*]{0,30}"
    r"\*\*([A-Za-z][A-Za-z ]{1,30})\**[.!]?\**\s*\Z"
)
_CHOSEN = re.compile(
    r"(?<!either )(?<!that )(?<!whether )(?<!if )"
    r"\b(?:option|choice|answer|Option|Choice) \**\(?([A-J])\)?\** is (?:therefore )?"
    r"(?:the )?(?:correct|right|best|answer)\b"
)
_OPTION = re.compile(r"\s*\**(?:option|choice) \(?([A-J])\)?[.*]*\s*\Z", re.IGNORECASE)
# A word that is said of the question's subject; of "it", it is a remark.
_WORD_END = re.compile(
    r"(?:\A\s*|(?<!\b[Ii]t )(?<!\b[Tt]his )(?<!\b[Tt]hat )\bis )\**([A-Za-z]{2,20})\**[.!]?\**\s*\Z"
)
_STRUCK = re.compile(r"~~[^~\s][^~\n]{0,200}~~")
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|never|between [^\s]{1,20} and|no es|n'est pas|nicht|não é|non è|не)"
    r"|n't|不是|不等于)(?: (?:be|equal|equal to|the number))?[ $*]*\Z",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(r"[ $*]*(?:is|was) (?:not the answer|wrong|incorrect|not correct)\b")
_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)


def extract(text: str | None, *, in_thought: bool = False) -> str | None:
    """The final answer in ``text``, or None when there is none.

    ``in_thought`` says that the prompt already opened a thinking block, so that a response which
    never closes it holds no answer. The result is an excerpt of the text without HTML tags and
    emoji, not yet normalised.
    """
    if not text:
        return None
    text = spoken(text, in_thought)[-MAX_RESPONSE:]
    boxed, text = _boxed(_ANSWER_TAG.sub(_announced, _STRUCK.sub("", clean(text))))
    found = boxed or _after_hashes(text) or after_phrase(text) or bare(text) or _last(text)
    found = _trim(found) if found else ""
    return found if found.strip("$ ") else None


def _announced(tag: re.Match[str]) -> str:
    return "\n" if "/" in tag.group() else "\nAnswer: "


class _Box(NamedTuple):
    """Offsets of a box and of its content, so that nested boxes copy no text."""

    start: int
    end: int
    inside: int
    close: int


def _boxed(text: str) -> tuple[str | None, str]:
    """Content of the last complete box or group of boxes, and where else to search without one.

    A box that is never closed was cut off with its answer; nothing after its start is one.
    """
    boxes, opened = _boxes(text)
    kept = [box for box in boxes if not _denied(text, box.start, box.end)]
    if not kept:
        # What is not the answer is no value of the text either.
        return None, _blanked(text, boxes)[:opened]
    group = [kept[-1]]
    for box in reversed(kept[:-1]):
        gap = group[-1].start - box.end
        if gap > 80 or not _BETWEEN_BOXES.match(text[box.end : group[-1].start]):
            break
        group.append(box)
    return ", ".join(dict.fromkeys(_content(text, box) for box in reversed(group))), text


def _boxes(text: str) -> tuple[list[_Box], int]:
    """Complete boxes that are not empty and in no other, and where the first open one begins."""
    boxes: list[_Box] = []
    stack: list[tuple[int, int] | None] = []
    for match in _BOX.finditer(text):
        if match.group(1):
            stack.append(match.span())
        elif match.group(2):
            boxes.append(_Box(*match.span(), *match.span(2)))
        elif match.group() == "{":
            stack.append(None)
        elif match.group() == "}" and stack and (opened := stack.pop()) is not None:
            start, inside = opened
            # A box around boxes replaces them.
            while boxes and boxes[-1].start > start:
                boxes.pop()
            while inside < match.start() and text[inside].isspace():
                inside += 1
            if inside < match.start():
                boxes.append(_Box(start, match.end(), inside, match.start()))
    return boxes, next((opened[0] for opened in stack if opened is not None), len(text))


def _content(text: str, box: _Box) -> str:
    content = text[box.inside : box.close].strip()
    signed = _MINUS.search(text[max(0, box.start - 2) : box.start])
    return f"-({content})" if signed else content


def _denied(text: str, start: int, end: int) -> bool:
    """Whether the words beside a box say that it is not the answer."""
    before, after = text[max(0, start - 60) : start], text[end : end + 60]
    return (
        after.startswith("^")
        or _DENIED.search(before) is not None
        or _DENIED_AFTER.match(after) is not None
    )


def _blanked(text: str, boxes: list[_Box]) -> str:
    """``text`` with spaces in place of its boxes, so that positions stay what they are."""
    pieces, position = [], 0
    for start, end, _, _ in boxes:
        pieces += [text[position:start], " " * (end - start)]
        position = end
    return "".join([*pieces, text[position:]])


def _after_hashes(text: str) -> str | None:
    matches = _HASHES.findall(text)
    return matches[-1] if matches else None


def _last(text: str) -> str | None:
    spans = math_spans(text)
    if option := _OPTION.match(text):
        return option.group(1)
    if chosen := _CHOSEN.findall(text):
        return str(chosen[-1])
    ending = _BOLD_END.search(text[-300:])
    if ending and not re.search(r"[0-9$\\]", ending.group()):
        return ending.group(1)
    if not spans and (word := _WORD_END.search(text[-100:])) and not NUMBER.search(text):
        return word.group(1)
    start, end = spans[-1] if spans else (0, 0)
    for number in NUMBER.finditer(text, end):
        start, end = number.span()
    if _NOT_BEFORE.search(text[max(0, start - 40) : start]) or _NOT_AFTER.match(text, end):
        return None
    return text[start:end] or None


def _trim(answer: str) -> str:
    """Without white space and emphasis at both ends and punctuation at the right one."""
    start, end = 0, len(answer)
    while end and (answer[end - 1].isspace() or answer[end - 1] in ".,;:*_"):
        end -= 1
    while start < end and (answer[start].isspace() or answer[start] in "*_"):
        start += 1
    return answer[start:end]

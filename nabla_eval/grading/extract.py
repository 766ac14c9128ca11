r"""The final answer in a model's response.

The first of these that exists: the last ``\boxed{}``, the line after the last ``####``, the value
in the sentence after the last "answer is", the whole response if it is one expression, the last
mathematical span or number. The README of this folder has the details. Only text after a thinking
block counts. All of it takes time linear in the length of the response.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from nabla_eval.grading.normalise import COMMANDS, PHRASES, clean
from nabla_eval.grading.units import MODIFIERS, PLAIN_SYMBOLS, SCALE_WORDS, SPELLINGS
from nabla_eval.thought import spoken

MAX_RESPONSE = 2_000_000
"""Only the last so many characters of a response are searched."""

_HASHES = re.compile(r"####[ \t]*(\S[^\n]*)")
_STRUCK = re.compile(r"~~[^~\s][^~\n]{0,200}~~")
_SPACES = "".join(filter(str.isspace, map(chr, range(0x3001))))
_ANSWER_TAG = re.compile(r"</?answer>", re.IGNORECASE)


def extract(text: str | None, *, in_thought: bool = False) -> str | None:
    """Return the final answer in ``text``, or None when there is none.

    ``in_thought`` says that the prompt already opened a thinking block, so that a response which
    never closes it holds no answer. The result is an excerpt of the text without HTML tags and
    emoji, not yet normalised.
    """
    if not text:
        return None
    text = _STRUCK.sub("", clean(spoken(text, in_thought)[-MAX_RESPONSE:]))
    boxed, text = _boxed(
        _ANSWER_TAG.sub(lambda tag: "\nAnswer: " if tag[0][1] != "/" else "\n", text)
    )
    hashes = _HASHES.findall(text)
    found = boxed or (hashes and hashes[-1]) or _announced(text) or _bare(text) or _last(text)
    found = (found or "").rstrip(_SPACES + ".,;:*_").lstrip(_SPACES + "*_")
    return found if found.strip("$ ") else None


# --- boxes ---------------------------------------------------------------------------------------

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


class _Box(NamedTuple):
    """Offsets of a box and of its content, so that nested boxes copy no text."""

    start: int
    end: int
    inside: int
    close: int


def _boxed(text: str) -> tuple[str | None, str]:
    """Return the last complete box or group of boxes, and where else to search without one.

    A box that is never closed was cut off with its answer; nothing after its start is one.
    """
    boxes, opened = _boxes(text)
    kept = [box for box in boxes if not _denied(text, box.start, box.end)]
    if not kept:
        # What is not the answer is no value of the text either.
        return None, _masked(text, boxes, " ")[:opened]
    group = [kept[-1]]
    for box in reversed(kept[:-1]):
        gap = group[-1].start - box.end
        if gap > 80 or not _BETWEEN_BOXES.match(text[box.end : group[-1].start]):
            break
        group.append(box)
    return ", ".join(dict.fromkeys(_content(text, box) for box in reversed(group))), text


def _boxes(text: str) -> tuple[list[_Box], int]:
    """Return the outermost complete boxes that are not empty, and where the first open one is."""
    if "box" not in text:
        return [], len(text)
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
    """Return whether the words beside a box say that it is not the answer."""
    before, after = text[max(0, start - 60) : start], text[end : end + 60]
    return (
        after.startswith("^")
        or _DENIED.search(before) is not None
        or _DENIED_AFTER.match(after) is not None
    )


def _masked(text: str, spans: Iterable[Sequence[int]], filler: str) -> str:
    """Return ``text`` with its spans filled, so that positions stay what they are."""
    pieces, position = [], 0
    for start, end, *_ in spans:
        pieces += [text[position:start], filler * (end - start)]
        position = end
    return "".join([*pieces, text[position:]])


# --- the sentence that announces the answer ------------------------------------------------------

_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_PHRASE = re.compile(
    r"\banswers?\b\**(?:[ ]?\([^()\n]{1,30}\))?"
    r"(?:[a-z ,]{0,60}?\b(?:is|are|equals|(?:must|should|will|would) be)\b\**[ ]*:?"
    r"|[ ]*(?:[=-]>|[→⇒:=])|[ ]*\n|[ ]+(?=\\[(\[]|\$))"
    r"|(?:答案|答え|答|정답|답)\**\s?(?:(?:就|应|應|应该|應該)?[是为為]|等于|[はが]|[은는이])?\**\s?:?"
    r"(?=[^\n]{0,30}[0-9$\\]|[ *(]{0,4}[A-J](?![A-Za-z]))(?<=[是为為于はが은는이:\s*])"
    r"|\b(?:respuestas?|réponses?|antwort|lösung|resposta|risposta|ответ|jawaban|cevap|odpowiedź"
    r"|antwoord|svar|đáp án|đáp số|उत्तर)(?!\w)\**(?:[^\W\d_]|[ ,]){0,40}?"
    r"(?:\b(?:es|est|ist|lautet|é|è|son|sont|sind|adalah|là|är|है)\b|[ ]?[:=])"
    r"|\b(?:correct|right|best) (?:option|choice)\b(?: here)? (?:is|would be)\b\**:?"
    r"|(?:故选|故選|应选|應選|选择|選擇)\**\s?:?(?=[ *(]{0,4}[A-J](?![A-Za-z]))"
    r"|\b(?:choose|select|pick)\b"
    r"(?= (?:(?:option|choice|answer) )?[*(]{0,3}(?-i:[A-J])[*).]*\s*(?:\n|\Z))"
    r"|(?:الإجابة|الجواب|الناتج)[^\d\n]{0,30}?(?:هي|هو|:)",
    re.IGNORECASE,
)
# What a phrase starts with in a text without other letters: finding these first takes a tenth of
# the time that the expression takes for a whole response.
_STARTS = ("answer", "respuesta", "antwort", "resposta", "risposta", "jawaban", "cevap", "antwoord",
           "svar", "correct", "right", "best", "choose", "select", "pick")  # fmt: skip
_SUPPOSED = re.compile(
    r"\b(?:if|suppose|assum\w{1,4}|whether|unless)(?: that)?(?: (?:the|our|an|this|my))?"
    r"(?: (?:final|correct))? answers?\b.*\Z"
    r"|\b(?:respuesta|réponse|antwort|resposta|risposta|ответ)\b.* (?:no|nicht|não|non|не)\b",
    re.IGNORECASE,
)
"""An answer that is only supposed, or denied, before the phrase ends."""

_GAP = re.compile(r"\s*")
_BULLET = re.compile(r"(?:[-•+]|\*(?!\*)) +")
_SENTENCE_END = re.compile(r"(?<!\bRs)(?<!approx)\.(?=\s|\Z)|<\||</s>|\n|[。！]")
_LABEL_DOT = re.compile(r"[A-J]\. ?(?=[-0-9$\\(])")
_REASON = re.compile(
    r"[,;]?\s+(?:since|because)\b"
    r"|[,;]\s+(?:as|for|which|where|so|not|but|while|although|i\.e\.|that is)\b"
    r"|\s+as required\b|\s[\[(]?Q\.?E\.?D\b|\s[:;]-?[)DP](?=\s|\Z)|(?<=[0-9])!{3,}\s*\Z"
    rf"|\s[-–—]\s(?=[A-Za-z]{{2}})|[,;、]\s?(?=[{_CJK}])",
    re.IGNORECASE,
)
_REMARK = re.compile(rf"(?:\s+|(?<=[0-9{_CJK}$])(?=\([^()]*[{_CJK}]))\(([^()]*)\)[\s.*]*\Z")
_KEPT_REMARK = re.compile(r"\b(?:mod|base|or|more|less|[ap]m)\b|[ap]\.m|\A[\d\s,./-]*\Z")
_OTHER_THAN = re.compile(
    r"(?:at (?:least|most)|(?:more|less|fewer|greater) than|over|under|up to|above|below|between"
    r"|from|no|not|never|neither|minus|negative)\b"
    r"|.{0,200}?[0-9)$] (?:or|and) (?:more|less|fewer|greater|above|below|higher|lower|up|over"
    r"|a half|a quarter|a third|one|two|three)\b|[0-9.,]+ ?(?:to|through) [0-9]",
    re.IGNORECASE,
)
"""Bounds, ranges and sums in words: no number of theirs is the answer."""

_NEGATION = re.compile(r"(?:n[o']t|never)\s?$", re.IGNORECASE)
_NEGATED = re.compile(
    r"\b(?:no|not|cannot|never|n?either|between|than|minus|negative|at (?:least|most))\b|n't\b"
)
_CONTINUED = re.compile(
    r"[$\s]*\(?(?:mod|over|times|plus|minus|divided|or|choose|factorial|to|through|halves|half|thirds?"
    r"|quarters?|fourths?|fifths?|tenths?|percent (?:more|less))\b"
)
_OPTION_WORD = re.compile(r"(?:option|choice) (?=[(A-J])", re.IGNORECASE)
_LETTER = re.compile(r"\(?([A-J])\)?(?=[\s.,:;)]|\Z)(?!\s*[=+\-*/^])")
_LABEL = re.compile(r"(?:\([A-J]\)[.:]?|[A-J][.:)])\s*(?=[-0-9$\\(.])")
_COPULA = re.compile(
    r"(?:(?<![\w\\])(?:is|are|was|were|equals|be|becomes|gives|es|est|ist|son|sind|sont|beträgt|é|è"
    r"|равно|равна|равен)(?!\w)|[=:](?=\s)|是|为|為|等于|は|은|는)"
    r"(?: (?:equal to|exactly|therefore|thus|then|simply|just|approximately|about|given by))*[ :]*",
    re.IGNORECASE,
)
_WORKED = re.compile(r"[$ (]*[-−]?[0-9.,]+[ )]*[-−+*/×·÷^][-−+*/×·÷^0-9.,() ]*=")
_MEASURE = re.compile(
    rf"([-−]?[0-9]+(?:\.[0-9]+)?)([{''.join(sorted(PLAIN_SYMBOLS))}](?:/[smh])?(?:\^?[23²³])?)"
)
_EDGES = " *_\"'`"
_EMPHASIS = re.compile(r"(?<![0-9A-Za-z)}])\*\*|\*\*(?![0-9A-Za-z({\\-])|`")


def _phrases(text: str) -> Iterator[re.Match[str]]:
    """Yield the matches of `_PHRASE`, as `finditer` does."""
    if not text.isascii():
        yield from _PHRASE.finditer(text)
        return
    small, end = text.lower(), 0
    for start in sorted({found for word in _STARTS for found in _places(small, word)}):
        if start >= end and (match := _PHRASE.match(text, start)):
            yield match
            end = match.end()


def _places(text: str, word: str) -> Iterator[int]:
    place = text.find(word)
    while place >= 0:
        yield place
        place = text.find(word, place + 1)


def _announced(text: str) -> str | None:
    """Return the value that the last phrase announces; None without a phrase or a value."""
    end = None
    for match in _phrases(text):
        if not _SUPPOSED.search(text[max(0, match.start() - 40) : match.start()] + match.group()):
            end = match.end()
    if end is None:
        return None
    line = next(_GAP.finditer(text, end)).end()
    bullet = _BULLET.match(text, line) if text.find("\n", end, line) >= 0 else None
    start = bullet.end() if bullet else end
    rest = text[start : start + 2000].lstrip(" \t*_:：\n\"'`≈~")
    label = _LABEL_DOT.match(rest)
    ended = _SENTENCE_END.search(_prose(rest), label.end() if label else 0)
    sentence = rest[: ended.start()] if ended else rest
    if sentence.startswith("not "):
        return _value(sentence.rpartition(" but ")[2])
    return _value(_EMPHASIS.sub(" ", sentence).strip(_EDGES))


def _value(sentence: str) -> str | None:
    clause = _OPTION_WORD.sub("", _main_clause(sentence), count=1)
    if found := _whole(clause):
        return found
    if _WORKED.match(clause):
        return _first(clause.rpartition("=")[2])
    if letter := _LETTER.match(clause):
        label = _LABEL.match(clause)
        value = _first(clause[label.end() :]) if label else None
        return f"({letter.group(1)}) {value}" if value else letter.group(1)
    if _OTHER_THAN.match(clause):
        return clause
    first = _first(clause)
    leading = first is not None and clause.startswith(first) and not _NAME.fullmatch(first)
    if not leading:
        for copula in list(_COPULA.finditer(_prose(clause)))[:-6:-1]:
            if _NEGATION.search(clause, 0, copula.start()):
                return clause
            rest = clause[copula.end() :].strip(_EDGES)
            if found := _whole(rest) or (rest if _OTHER_THAN.match(rest) else _first(rest)):
                return found
    if first is None or (not leading and _NAME.fullmatch(first)):
        return first
    # Words beside a value make it another one: not 7, no more than 7, 7 over 8.
    before, _, after = clause.lower().partition(first.lower())
    return clause if _NEGATED.search(before) or _CONTINUED.match(after) else first


def _main_clause(sentence: str) -> str:
    """Return the sentence up to its first reason, without a remark in brackets at its end."""
    if reason := _REASON.search(_prose(sentence), 1):
        sentence = sentence[: reason.start()]
    remark = _REMARK.search(sentence)
    if remark and remark.start() and not _KEPT_REMARK.search(remark.group(1).lower()):
        sentence = sentence[: remark.start()]
    return sentence.strip(_EDGES)


def _whole(text: str) -> str | None:
    """Return all of ``text`` if it is one expression, one unit of measure or one set phrase."""
    if measure := _MEASURE.fullmatch(text):
        return f"{measure.group(1)} {measure.group(2)}"
    spans = math_spans(text)
    words = re.sub(r"\b(?:and|or)\b", " ", _masked(text, spans, _MATHEMATICS))
    if spans and spans[0][0] == 0 and not re.search(r"[^\W\d_]{2}", words):
        return text
    return text if text.lower().strip(" .") in PHRASES else _bare(text)


def _first(text: str) -> str | None:
    """Return the first value of ``text``; a mere name only where there is no value."""
    spans = math_spans(text)
    values = [span for span in spans if not _NAME.fullmatch(text[span[0] : span[1]])]
    for number in NUMBER.finditer(_masked(text, spans, _MATHEMATICS)):
        after = text[number.end() : number.end() + 3]
        if not re.match(r"(?:st|nd|rd|th)\b", after):
            letter = re.match(r"[A-Za-z](?![A-Za-z])", after)
            factor = letter is not None and letter.group() not in PLAIN_SYMBOLS
            values.append((number.start(), number.end() + factor))
            break
    start, end = min(values or spans, default=(0, 0))
    return text[start:end] or None


# --- values in prose -----------------------------------------------------------------------------

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
"""A mathematical span that only names something: $n$, $ABC$."""
_MATHEMATICS = "\0"  # stands for it where prose is searched
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
_NOT_BEFORE = re.compile(
    r"(?:\b(?:not|cannot|never|between [^\s]{1,20} and|no es|n'est pas|nicht|não é|non è|не)"
    r"|n't|不是|不等于)(?: (?:be|equal|equal to|the number))?[ $*]*\Z",
    re.IGNORECASE,
)
_NOT_AFTER = re.compile(r"[ $*]*(?:is|was) (?:not the answer|wrong|incorrect|not correct)\b")


def math_spans(text: str) -> list[tuple[int, int]]:
    """Return where ``$...$``, ``$$...$$``, ``\\(...\\)`` and ``\\[...\\]`` are, with delimiters.

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


def _prose(text: str) -> str:
    """Return ``text`` with its mathematics masked."""
    return _masked(text, math_spans(text), _MATHEMATICS)


def _bare(text: str) -> str | None:
    """Return the whole text if it is one expression without prose."""
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

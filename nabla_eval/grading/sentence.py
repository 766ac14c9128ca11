"""The value in the sentence that announces an answer: "The answer is ...", "Answer: ...".

The sentence is cut to its main clause (no reason, no remark in brackets). What is left is the
answer if it is one expression; otherwise the value behind the last "is" or "=" is, and a name such
as $n$ only where there is no value at all. Phrases of other languages count too.
"""

from __future__ import annotations

import re

from nabla_eval.grading.spans import NUMBER, bare, inside, is_symbol, math_spans
from nabla_eval.grading.unit_table import PLAIN_SYMBOLS
from nabla_eval.grading.written import PHRASES

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
_OPTION = re.compile(r"(?:option|choice) (?=[(A-J])", re.IGNORECASE)
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
_MARKS = " *_\"'`"
_EMPHASIS = re.compile(r"(?<![0-9A-Za-z)}])\*\*|\*\*(?![0-9A-Za-z({\\-])|`")


def after_phrase(text: str) -> str | None:
    """The value that the last phrase announces; None without a phrase or a value."""
    end = None
    for match in _PHRASE.finditer(text):
        if not _SUPPOSED.search(text[max(0, match.start() - 40) : match.start()] + match.group()):
            end = match.end()
    if end is None:
        return None
    line = next(_GAP.finditer(text, end)).end()
    bullet = _BULLET.match(text, line) if text.find("\n", end, line) >= 0 else None
    start = bullet.end() if bullet else end
    rest = text[start : start + 2000].lstrip(" \t*_:：\n\"'`≈~")
    sentence = rest[: _end_of_sentence(rest)]
    if sentence.startswith("not "):
        return _value(sentence.rpartition(" but ")[2])
    return _value(_EMPHASIS.sub(" ", sentence).strip(_MARKS))


def _end_of_sentence(text: str) -> int:
    """First end of a sentence or line outside mathematics."""
    spans = math_spans(text)
    label = _LABEL_DOT.match(text)
    for match in _SENTENCE_END.finditer(text, label.end() if label else 0):
        if not inside(match.start(), spans):
            return match.start()
    return len(text)


def _value(sentence: str) -> str | None:
    clause = _OPTION.sub("", _main_clause(sentence), count=1)
    if found := _whole(clause):
        return found
    if _WORKED.match(clause):
        return _first(clause.rpartition("=")[2])
    spans = math_spans(clause)
    if letter := _LETTER.match(clause):
        label = _LABEL.match(clause)
        value = _first(clause[label.end() :]) if label else None
        return f"({letter.group(1)}) {value}" if value else letter.group(1)
    if _OTHER_THAN.match(clause):
        return clause
    first = _first(clause)
    if first is None or not clause.startswith(first) or is_symbol(first):
        copulas = [m for m in _COPULA.finditer(clause) if not inside(m.start(), spans)]
        for copula in copulas[:-6:-1]:
            if _NEGATION.search(clause, 0, copula.start()):
                return clause
            rest = clause[copula.end() :].strip(_MARKS)
            if found := _whole(rest) or (rest if _OTHER_THAN.match(rest) else _first(rest)):
                return found
        if first is not None and not is_symbol(first) and _qualified(clause, first):
            return clause
    elif _qualified(clause, first):
        return clause
    return first


def _qualified(clause: str, value: str) -> bool:
    """Whether words beside a value make it another one: not 7, no more than 7, 7 over 8."""
    before, _, after = clause.lower().partition(value.lower())
    return _NEGATED.search(before) is not None or _CONTINUED.match(after) is not None


def _main_clause(sentence: str) -> str:
    """The sentence up to its first reason, without a remark in brackets at its end."""
    spans = math_spans(sentence)
    for match in _REASON.finditer(sentence):
        if match.start() and not inside(match.start(), spans):
            sentence = sentence[: match.start()]
            break
    remark = _REMARK.search(sentence)
    if remark and remark.start() and not _KEPT_REMARK.search(remark.group(1).lower()):
        sentence = sentence[: remark.start()]
    return sentence.strip(_MARKS)


def _whole(text: str) -> str | None:
    """All of ``text``, when it is one expression, one unit of measure or one set phrase."""
    if measure := _MEASURE.fullmatch(text):
        return f"{measure.group(1)} {measure.group(2)}"
    spans = math_spans(text)
    if spans and spans[0][0] == 0 and not re.search(r"[^\W\d_]{2}", _outside(text, spans)):
        return text
    return text if text.lower().strip(" .") in PHRASES else bare(text)


def _first(text: str) -> str | None:
    """The first value of ``text``; a mere name only where there is no value."""
    spans = math_spans(text)
    values = [span for span in spans if not is_symbol(text[span[0] : span[1]])]
    numbers = (match for match in NUMBER.finditer(text) if not inside(match.start(), spans))
    if number := next((match for match in numbers if not _ordinal(text, match.end())), None):
        letter = re.match(r"[A-Za-z](?![A-Za-z])", text[number.end() :])
        factor = letter is not None and letter.group() not in PLAIN_SYMBOLS
        values.append((number.start(), number.end() + factor))
    start, end = min(values or spans, default=(0, 0))
    return text[start:end] or None


def _ordinal(text: str, end: int) -> bool:
    return re.match(r"(?:st|nd|rd|th)\b", text[end : end + 3]) is not None


def _outside(text: str, spans: list[tuple[int, int]]) -> str:
    bounds = [0, *(bound for span in spans for bound in span), len(text)]
    pieces = [text[a:b] for a, b in zip(bounds[::2], bounds[1::2], strict=True)]
    return re.sub(r"\b(?:and|or)\b", " ", " ".join(pieces))

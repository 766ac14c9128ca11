"""One spelling for answers that differ only in notation.

Everything here is string work that takes time linear in the length of the answer, so that it may
run in the caller's own process on whatever a model wrote.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from nabla_eval.grading.layout import plain_layout
from nabla_eval.grading.units import DOLLAR

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


_FUNCTIONS = "arcsin arccos arctan sinh cosh tanh sin cos tan sec csc cot log ln exp sqrt gcd lcm"
_GREEK = """
    alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta kappa lambda mu nu xi rho
    sigma tau phi varphi chi psi omega pi Gamma Delta Theta Lambda Sigma Phi Psi Omega
"""
COMMANDS = frozenset((_FUNCTIONS + _GREEK).split())
"""Functions and letters that models also write without the backslash."""

_BARE_COMMAND = rf"(?<![A-Za-z\\])(?=(?:{'|'.join(sorted(COMMANDS))})(?![A-Za-z]))"

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_VULGAR = "½12 ⅓13 ⅔23 ¼14 ¾34 ⅕15 ⅖25 ⅗35 ⅘45 ⅙16 ⅚56 ⅐17 ⅛18 ⅜38 ⅝58 ⅞78 ⅑19"
_SYMBOLS = {
    "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/",
    "π": r"\pi ", "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ",
    "≈": r"\approx ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "±": r"\pm ",
    "∓": r"\mp ", "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "φ": r"\varphi ", "∠": r"\angle ",
    "′": "'", "’": "'", "‘": "'", "…": r"\ldots ",
    **{sign[0]: rf"\frac{{{sign[1]}}}{{{sign[2]}}}" for sign in _VULGAR.split()},
    "∛": r"\sqrt[3]", "∧": r"\land ", "⟨": "(", "⟩": ")", "“": '"', "”": '"', "，": ",",
}  # fmt: skip
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))

# A command of LaTeX never follows a line break immediately, so two backslashes before its name are
# one backslash that was escaped once too often.
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|mathrm|pi|infty|begin|end|cdot|times|leq?|geq?"
    r"|boxed|pm|cup|cap|in|circ|neq?|quad)(?![A-Za-z]))"
)
_ENVIRONMENT = re.compile(
    r"\\(?:begin|end)\s*\{(?:align|aligned|gather|gathered|equation|center|split|displaymath|math)\*?\}"
)

_REWRITES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<!\\)\\\$", DOLLAR),
        (r"(?<!\\)\\[()\[\]]|\$", " "),
        (r"\A\s*\\(?:therefore|implies|Rightarrow|Longrightarrow|because)(?![a-z])", " "),
        # Separators of thousands that cannot be anything else.
        (r"(?<=[0-9])\s*\{\s*,\s*\}\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<=[0-9])(?:,\s*\\!|\\,|\\!)\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<!\\)\\[,;:!> ~]|~|\\q?quad|\\(?:display|text|script)style(?![a-zA-Z])", " "),
        (r"\\(?:h|v)space\*?\{[^{}]*\}|\\(?:no)?limits(?![a-zA-Z])|\\phantom\{[^{}]*\}", " "),
        (r"\\(?:left|right|middle)(?![a-zA-Z])\s*\.?", ""),
        (r"\\[bB]igg?[lrm]?(?![a-zA-Z])", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\(?:leq|leqslant|le)(?![a-zA-Z])|<=|=<", r"\\le "),
        (r"\\(?:geq|geqslant|ge)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\(?:neq|ne)(?![a-zA-Z])|!=|\\not\s*=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:approxeq|approx|simeq|doteq)(?![a-zA-Z])", r"\\approx "),
        (r"\\lbrace(?![a-zA-Z])", r"\\{"),
        (r"\\rbrace(?![a-zA-Z])", r"\\}"),
        (r"\\(?:[lr]?vert|mid)(?![a-zA-Z])", "|"),
        (r"\\(?:varnothing|empty)(?![a-zA-Z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![0-9A-Za-z)}\]])\+\s*\\infty", r"\\infty "),
        (r"\\(?:land|wedge)(?![a-zA-Z])", " and "),
        (r"\\(?:lor|vee)(?![a-zA-Z])", " or "),
        (r"\^\s*\{?\s*\\(?:circ|degree)\s*\}?|\\degree(?![a-zA-Z])|\\deg(?![a-zA-Z])", r"^\\circ "),
        (r"(?<=[0-9]) ?/-\s*\Z", ""),  # 80/-: rupees without paise
        (r"\\(?:%|percent(?![a-zA-Z]))", "%"),
        (r"(?<=[0-9)} ] )secs?\.?\s*\Z|(?<=/)secs?(?![a-z])", "second"),
        (_BARE_COMMAND, r"\\"),
        # A comma before a space separates items; without one it may separate thousands.
        (r"(?<=[0-9]),\s+(?=[0-9])", ";"),
        (r"\*\*(?=\S)", "^"),
        (r"\\sqrt\s*([0-9]{2,}(?:\.[0-9]+)?)", r"\\sqrt{\1}"),
        (r"\\frac\s+", r"\\frac"),
        (r"\\(frac|sqrt)([0-9a-zA-Z])(?=[^a-zA-Z]|\Z)", r"\\\1{\2}"),
        (r"\\frac([0-9])([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\frac\{([^{}]*)\}\s*([0-9a-zA-Z])", r"\\frac{\1}{\2}"),
        (r"\\sqrt\s+([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\{\s*:\s*\}", ":"),
        (r"(?<![A-Za-z])(sq|cu)\.\s*(?=[A-Za-z])", r"\1 "),
        (r"(?<![A-Za-z0-9)}] )(?<![A-Za-z\\])(?:negative|minus) (?=[0-9.\\])", "-"),
        (r"(?<=[)\]])\s*U\s*(?=[(\[\]])", r"\\cup "),
        (r"(?<=[,+])\s*\.{3}", r"\\ldots "),
        (r"``([^`']{1,200})''", r"\1"),
        (r"\\binom\s*([0-9a-z])\s*([0-9a-z])", r"\\binom{\1}{\2}"),
        (r"\\pmod(?![a-z])|(?<![A-Za-z\\])mod(?= )", r"\\mod "),
        (r"\(\s*\\b?mod\s*\{?([0-9a-z]{1,9})\}?\s*\)|\\mod\s*\{([0-9a-z]{1,9})\}", r"\\mod \1\2"),
        (r"(?<![A-Za-z\\])(max|min)(?=\s*\(|\s*\\\{)", r"\\\1"),
        (r"\\(max|min|gcd|lcm)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)"),
        (r"\\(gcd|lcm)\s*\[([^\[\]]*)\]", r"\\\1(\2)"),
        (r"\\sqrt\[([3579])\]\{-([0-9a-z./^]+)\}", r"-\\sqrt[\1]{\2}"),
        (r"\\tan\s*\^\s*\{\s*-1\s*\}", r"\\arctan "),
        (r"\\sin\s*\^\s*\{\s*-1\s*\}", r"\\arcsin "),
        (r"\\cos\s*\^\s*\{\s*-1\s*\}", r"\\arccos "),
        (r"\^\s*(-?[0-9]+(?:\.[0-9]+)?|[a-zA-Z])(?![0-9])", r"^{\1}"),
        (r"_\s*([0-9a-zA-Z])", r"_{\1}"),
        (r"(?<![A-Za-z])\(([0-9A-F]+)\) ?(?=_\{[0-9])", r"\1"),
    ]
]  # fmt: skip
_PRICE = re.compile(r"(?<!\\)\$(?=\s?[0-9.])|(?<=[0-9])\s?\$")
_UNREDUCED = re.compile(r"\A\s*([0-9]{1,15}) *\\mod *([0-9]{1,15})\s*\Z")
_PARENTHESISED = re.compile(r"(\\sqrt|\^)\s*\(")
_SPACES = re.compile(r"\s+")
# A space after a bracket stays: "\\frac{3}{2} cups" has a unit, "\\frac{3}{2}abc" a product.
_NEEDLESS_SPACE = re.compile(r"(?<![0-9A-Za-z)}\]]) | (?![0-9A-Za-z])")


def plain_text(text: str) -> str:
    """``text`` without control and formatting characters, with one code point per symbol."""
    text = re.sub(r"[⁰¹²³⁴-⁹⁻⁺ⁿ]+", lambda m: f"^{{{m[0].translate(_SUPERSCRIPTS)}}}", text)
    text = re.sub(r"[₀-₉]+", lambda m: f"_{{{m[0].translate(_SUBSCRIPTS)}}}", text)
    text = _SYMBOL.sub(lambda m: _SYMBOLS[m[0]], text)
    text = unicodedata.normalize("NFKC", clean(text))
    # A control character may stand where another one was lost; it separates. The formatting ones
    # (zero width, writing direction) are invisible and go.
    return "".join(
        " " if char.isspace() or category == "Cc" else char
        for char, category in ((char, unicodedata.category(char)) for char in text)
        if category not in {"Cf", "Cs", "Co", "Cn"}
    )


@lru_cache(maxsize=1024)
def normalise(answer: str) -> str:
    """The canonical spelling of an answer; answers with one spelling are the same answer.

    Idempotence is not promised; equality of two canonical spellings is what callers may rely on.
    """
    text = _DOUBLED.sub(r"\\", _SPACES.sub(" ", plain_text(answer)))
    text = re.sub(r"\\{3,}(?![A-Za-z{}])", r"\\\\", text)
    text = numbers_as_digits(_SPACES.sub(" ", plain_layout(_ENVIRONMENT.sub(" ", text))))
    if text.count("$") == 1:
        # One that opens or closes nothing is a price.
        text = _PRICE.sub(DOLLAR, text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _UNREDUCED.sub(_remainder, _braces_for_parentheses(text))
    text = _NEEDLESS_SPACE.sub("", _SPACES.sub(" ", text))
    text = text.strip(' *"`').rstrip(' .,;:*"`\\')
    return unquoted(straight_brackets(text))


def _remainder(match: re.Match[str]) -> str:
    """``25 mod 7`` asks for the remainder; ``4 mod 7`` is a class of residues and stays."""
    number, modulus = int(match[1]), int(match[2])
    return rf"{number}\bmod {modulus}" if number >= modulus else match[0]


def _braces_for_parentheses(text: str) -> str:
    """``\\sqrt(a)`` and ``x^(a)`` become ``\\sqrt{a}`` and ``x^{a}``."""
    if not _PARENTHESISED.search(text):
        return text
    partner = matching_brackets(text, "(", ")")
    characters = list(text)
    for match in _PARENTHESISED.finditer(text):
        start = match.end() - 1
        if start in partner:
            characters[start], characters[partner[start]] = "{", "}"
    return "".join(characters)


def matching_brackets(text: str, opening: str, closing: str) -> dict[int, int]:
    """Position of the bracket that closes each opening one; unclosed ones are left out."""
    stack: list[int] = []
    partner = {}
    for position, char in enumerate(text):
        if char == opening:
            stack.append(position)
        elif char == closing and stack:
            partner[stack.pop()] = position
    return partner

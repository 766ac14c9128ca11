r"""One spelling for answers that differ only in notation.

Characters first (`plain_text`); then LaTeX commands (`plain_layout`), in one pass over the tokens;
then numbers; then what is left, by regular expressions. All of it is string work that takes time
linear in the length of the answer, so that it may run in the caller's own process on whatever a
model wrote. The words, symbols and commands are in `tables.json`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from nabla_eval.grading.units import DOLLAR, NAMES, table, written_out

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
    first + value: str(value) for first in (0x660, 0x6F0, 0x966, 0x9E6) for value in range(10)
}
_CHARACTERS = _DIGITS | str.maketrans("：（）；，", ":();,")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SYMBOLS = table("symbols")
_SYMBOL = re.compile("|".join(map(re.escape, _SYMBOLS)))


def clean(text: str) -> str:
    """Return ``text`` without HTML tags, emoji and check marks, with European digits."""
    if "<" in text:
        text = _RAISED.sub(lambda m: ("^{" if m[1].lower() == "sup" else "_{") + m[2] + "}", text)
        text = _TAG.sub(" ", text)
    return text if text.isascii() else _PICTURES.sub(" ", text).translate(_CHARACTERS)


def plain_text(text: str) -> str:
    """Return ``text`` without control and formatting characters, one code point per symbol."""
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


# --- LaTeX that sets the look of an answer and not its value -------------------------------------

_DROPPED = frozenset(table("dropped"))
_DROPPED_WITH = frozenset(table("dropped with their argument"))
_KEPT = table("replaced by their last argument")
_UPRIGHT = frozenset(table("upright"))
_RENAMED = table("renamed")
_INFIX = {"over": "frac", "choose": "binom", "atop": "binom"}
_AROUND = {"textsuperscript": ("^{", "}"), "textsubscript": ("_{", "}"), "ang": (" ", r"^\circ ")}
_SI_WORDS = {"squared": "squared", "cubed": "cubed", "percent": "%", "degree": r"^\circ"}
_SI_WORDS["degreeCelsius"] = r"^\circ C"
_SI_PREFIX = re.compile(r"\\(kilo|centi|milli|micro|nano|mega|deci) ?\\")
_SI_MACRO = re.compile(r"\\([A-Za-z]+)\s*")
_QUANTITY = re.compile(r"\\(?:SI|qty)\s*(?:\[[^\[\]]*\])?\s*\{([^{}]*)\}\s*\{")
_ROMAN = re.compile(r"(?<![}_^A-Za-z])\{\s*\\rm(?![A-Za-z])\s*([^{}]{1,80})\}")
_PER = re.compile(
    r"\\[dtc]?frac\s*"
    + r"\s*".join([r"\{\s*\\(?:text|mathrm)\{([^{}]{1,20})\}(\^ ?\{?[1-9]\}?)?\s*\}"] * 2)
)
_OHMS = re.compile(r"([0-9](?:\s|~|\\[,;:! ])*)\\Omega(?=[\s$})\].]*\Z)")

_TOKEN = re.compile(r"\\([A-Za-z]+)\*?|\\.|[{}]|[^\\{}]+|\\", re.DOTALL)
_ARGUMENT = re.compile(
    r"(?:\s*\[[^\[\]{}]{0,40}\](?=\s*[\[{])){0,2}\s*(?:\{|(\\[A-Za-z]+|[^\\\s{}]))"
)
_AFTER_VALUE = re.compile(
    r"(?:[0-9)\]!]|(?<!\\circ)(?<!\\circ )\}|\\pi"
    rf"|(?<![A-Za-z])(?:{'|'.join(sorted(NAMES))}|k[gmJNW]|[cm]m)(?:\s*\^\s*\{{?-?[1-9]\}}?)?"
    r"\s*(?:/|\\cdot|\\times|·|\*)?)(?:\s|~|\\[,;:! ]|\{\})*\Z"
)


def plain_layout(text: str) -> str:
    """Return ``text`` without layout commands; what it does not know stays as it is.

    Commands either vanish, alone (``\\large``) or with their argument (``\\tag{1}``), or leave
    their last argument (``\\textcolor{red}{5}``). ``a \\over b`` becomes ``\\frac{a}{b}``. Upright
    text after a value is read as a unit, so that ``10\\text{ m}`` is not ten times m.
    """
    if "\\" not in text:
        return text
    text = _QUANTITY.sub(r"\1\\unit{", text)
    text = _ROMAN.sub(r"\\mathrm{\1}", text)
    text = _PER.sub(_quotient_of_units, text)
    return _Layout(_OHMS.sub(r"\1\\text{ohm}", text)).result()


def _quotient_of_units(match: re.Match[str]) -> str:
    above, its_power, below, power = (group or "" for group in match.groups())
    unit = f"{above}{its_power}/{below}{power}"
    return rf"\text{{{unit}}}" if written_out(unit) else match[0]


class _Group(NamedTuple):
    """An open group: where it starts in the output, and what closes it."""

    start: int
    closing: str


class _Layout:
    def __init__(self, text: str) -> None:
        self.text = text
        self.partner = matching(_TOKEN.finditer(text), "{", "}")
        self.out = [""]
        self.open = [_Group(0, "")]

    def result(self) -> str:
        """Return the text with its commands rewritten, in one pass over the tokens."""
        position = 0
        while match := _TOKEN.match(self.text, position):
            position = match.end()
            if match[1]:
                position = self._command(match[1], match[0], position)
            elif match[0] == "{":
                self._enter("{", "}")
            elif match[0] == "}" and len(self.open) > 1:
                self.out.append(self.open.pop().closing)
            else:
                self.out.append(match[0])
        return "".join(self.out) + self.open[0].closing

    def _enter(self, opening: str, closing: str) -> None:
        self.out.append(opening)
        self.open.append(_Group(len(self.out) - 1, closing))

    def _command(self, name: str, written: str, position: int) -> int:
        """Write what a command leaves; return where to read on."""
        if name in _INFIX:
            group = self.open.pop()
            self.out[group.start] += rf"\{_INFIX[name]}{{"
            self.open.append(_Group(group.start, "}" + group.closing))
            self.out.append("}{")
        elif name in _UPRIGHT:
            return self._upright(name, position)
        elif name in _KEPT:
            return self._keep_last(name, position)
        elif name in _DROPPED_WITH:
            self.out.append(" ")
            return self._skip_argument(position, letters=False)
        else:
            self.out.append(" " if name in _DROPPED else _RENAMED.get(name, written))
        return position

    def _keep_last(self, name: str, position: int) -> int:
        for _ in range(_KEPT[name] - 1):
            position = self._skip_argument(position)
        opening, closing = _AROUND.get(name, (" ", " "))
        match = _ARGUMENT.match(self.text, position)
        if match is None or match[1]:
            self.out.append(f"{opening}{match[1]}{closing}" if match else " ")
            return match.end() if match else position
        close = self.partner.get(match.end() - 1)
        if close is None or (name.endswith("cancel") and close + 1 == len(self.text.rstrip())):
            # Cut off, or struck out as a whole (inside an expression it shows how terms cancel).
            self.out.append(rf"\{name}")
            return position
        self._enter(opening, closing)
        return match.end()

    def _upright(self, name: str, position: int) -> int:
        """Write upright text as units where it can be nothing else, otherwise as it stands."""
        match = _ARGUMENT.match(self.text, position)
        if match is None or match[1]:
            self.out.append(" ")
            return position
        start, end = match.end(), self.partner.get(match.end() - 1, -1)
        content = self.text[start:end] if end >= 0 else ""
        macros = name in {"si", "unit"}
        unit = _si(content) if macros else written_out(content)
        # A letter or bracket after it makes it a factor or a function: \mathrm{C}_{3}, \mathrm{d}x.
        follows = self.text[end + 1 : end + 2]
        factor = follows in {"_", "("} or follows.isalnum()
        if unit and (macros or not (factor or (unit[0] == " " and not self._follows_value()))):
            self.out.append(f" {unit}" if follows == "^" else f" {unit} ")
            return end + 1
        raised = self.out[-1].rstrip().endswith(("_", "^"))
        self._enter(*("{}" if raised else "  "))
        return start

    def _follows_value(self) -> bool:
        return _AFTER_VALUE.search("".join(self.out[-6:])[-80:]) is not None

    def _skip_argument(self, position: int, *, letters: bool = True) -> int:
        match = _ARGUMENT.match(self.text, position)
        if match is None:
            return position
        if match[1]:
            return match.end() if letters else position
        return self.partner.get(match.end() - 1, match.end() - 1) + 1


def _si(unit: str) -> str:
    """Return words for a unit in the macros of siunitx, or in plain symbols."""
    if "\\" not in unit:
        return written_out(unit) or unit
    names = _SI_MACRO.findall(_SI_PREFIX.sub(r"\\\1", unit))
    return " ".join(_SI_WORDS.get(name, name) for name in names)


# --- numbers -------------------------------------------------------------------------------------

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
_REPEATING = [
    (re.compile(pattern), rf"\1\\overline{{{cycle}}}")
    for pattern, cycle in [
        (r"(\.[0-9]{0,40})\\(?:overline|bar) ?([0-9])", r"\2"),
        (r"(\.[0-9]{0,40})\\dot ?\{?([0-9])\}?([0-9]{0,40})\\dot ?\{?([0-9])\}?", r"\2\3\4"),
        (r"(\.[0-9]{0,40})\\dot ?\{?([0-9])\}?", r"\2"),
        (r"(\.[0-9]{0,40})\(([0-9]{1,40})\)", r"\2"),
        (r"(\.[0-9]{0,40}?)([0-9]{1,20}?)\2{2,20} ?(?:\.{3}|\\[lc]?dots(?![a-z]))", r"\2"),
    ]
]
_NUMERALS = {word: str(value) for value, word in enumerate(table("counting"), start=2)}
_NUMERAL = rf"([0-9]{{1,2}}|{'|'.join(_NUMERALS)})[\s)]*"
_SUBSCRIPT = re.compile(rf"_ ?\{{[\s(]*(?:base[- ]?)?{_NUMERAL}\}}")
_IN_BASE = re.compile(rf"(?<![0-9A-F])([0-9A-F]+) ?\(? ?(?:in )?base[- ]?{_NUMERAL}\Z")


def numbers_as_digits(text: str) -> str:
    """Return numbers without separators of thousands, bases and repetition in one notation."""
    text = _GROUPS.sub(lambda match: re.sub(r"[^0-9]", "", match[0]), text)
    text = _DOTTED.sub(lambda match: match[0].replace(".", ""), text)
    text = _TIMES.sub(r" \\times ", text)
    text = _HALF_OF_DAY.sub(lambda match: f" {match[1].lower()}m ", text)
    if "." in text:
        for pattern, replacement in _REPEATING:
            text = pattern.sub(replacement, text)
    text = _SUBSCRIPT.sub(lambda m: f"_{{{_NUMERALS.get(m[1], m[1])}}}", text)
    return _IN_BASE.sub(lambda m: f"{m[1]}_{{{_NUMERALS.get(m[2], m[2])}}}", text)


# --- set phrases and intervals -------------------------------------------------------------------

_PHRASE = {text: name for name, texts in table("phrases").items() for text in texts.split("|")}
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
    rf"(?:[A-Za-z] ?(?:=|\\in ?) ?)?{_REVERSED.pattern}"
    rf"(?: ?(?:\\cup|\\cap) ?{_REVERSED.pattern}){{0,30}}"
)


def unquoted(text: str) -> str:
    """Return ``text`` without quotation marks around all of it; a set phrase by its one name."""
    for _ in range(3):
        for opening, closing in _QUOTES:
            if len(text) > 2 and text[0] == opening and text[-1] == closing:
                text = text[1:-1].strip()
    text = _RATIO.sub(r"\1:\2", _ARTICLE.sub("", text))
    return _PHRASE.get(text.lower(), text) if len(text) < 60 else text


def straight_brackets(text: str) -> str:
    """Return intervals with brackets turned outwards, ``[0,1[``, in the usual ones, ``[0,1)``."""
    if not _UNION.fullmatch(text):
        return text
    return _REVERSED.sub(lambda m: m[1].replace("]", "(") + m[2] + m[3].replace("[", ")"), text)


# --- everything else -----------------------------------------------------------------------------

COMMANDS = frozenset(table("functions and Greek letters"))
"""Functions and letters that models also write without the backslash."""

_BARE_COMMAND = rf"(?<![A-Za-z\\])(?=(?:{'|'.join(sorted(COMMANDS))})(?![A-Za-z]))"

# A command of LaTeX never follows a line break immediately, so two backslashes before its name are
# one backslash that was escaped once too often.
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dtc]?frac|sqrt|left|right|text|mathrm|pi|infty|begin|end|cdot|times|leq?|geq?"
    r"|boxed|pm|cup|cap|in|circ|neq?|quad)(?![A-Za-z]))"
)
_ENVIRONMENT = re.compile(
    r"\\(?:begin|end)\s*\{(?:align|aligned|gather|gathered|equation|center|split|displaymath|math)\*?\}"
)
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"(?<!\\)\\\$", DOLLAR),
        (r"(?<!\\)\\[()\[\]]|\$", " "),
        (r"\A\s*\\(?:therefore|implies|Rightarrow|Longrightarrow|because)(?![a-z])", " "),
        # Separators of thousands that cannot be anything else.
        (r"(?<=[0-9])\s*\{\s*,\s*\}\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<=[0-9])(?:,\s*\\!|\\,|\\!)\s*(?=[0-9]{3}(?![0-9]))", ""),
        (r"(?<!\\)\\[,;:!> ~]|~|\\q?quad", " "),
        (r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![a-zA-Z])\s*\.?", ""),
        (r"<=|=<", r"\\le "),
        (r">=", r"\\ge "),
        (r"!=|\\not\s*=", r"\\ne "),
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"(?<![A-Za-z\\])(?:infinity|infty|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"(?<![0-9A-Za-z)}\]])\+\s*\\infty", r"\\infty "),
        (r"\^\s*\{?\s*(?:\^\s*)?\\circ\s*\}?", r"^\\circ "),
        (r"(?<=[0-9]) ?/-\s*\Z", ""),  # 80/-: rupees without paise
        (r"\\%", "%"),
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
        (r"\\(sin|cos|tan)\s*\^\s*\{\s*-1\s*\}", r"\\arc\1 "),
        (r"\^\s*(-?[0-9]+(?:\.[0-9]+)?|[a-zA-Z])(?![0-9])", r"^{\1}"),
        (r"_\s*([0-9a-zA-Z])", r"_{\1}"),
        (r"(?<![A-Za-z])\(([0-9A-F]+)\) ?(?=_\{[0-9])", r"\1"),
    ]
]
_PRICE = re.compile(r"(?<!\\)\$(?=\s?[0-9.])|(?<=[0-9])\s?\$")
_UNREDUCED = re.compile(r"\A\s*([0-9]{1,15}) *\\mod *([0-9]{1,15})\s*\Z")
_PARENTHESISED = re.compile(r"(\\sqrt|\^)\s*\(")
_SPACES = re.compile(r"\s+")
# A space after a bracket stays: "\\frac{3}{2} cups" has a unit, "\\frac{3}{2}abc" a product.
_NEEDLESS_SPACE = re.compile(r"(?<![0-9A-Za-z)}\]]) | (?![0-9A-Za-z])")


@lru_cache(maxsize=1024)
def normalise(answer: str) -> str:
    """Return the canonical spelling of an answer; answers with one spelling are the same answer.

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
    partner = matching(re.finditer(r"[()]", text), "(", ")")
    characters = list(text)
    for match in _PARENTHESISED.finditer(text):
        start = match.end() - 1
        if start in partner:
            characters[start], characters[partner[start]] = "{", "}"
    return "".join(characters)


def matching(tokens: Iterable[re.Match[str]], opening: str, closing: str) -> dict[int, int]:
    """Return the position of the bracket that closes each opening one, if any."""
    stack: list[int] = []
    partner = {}
    for token in tokens:
        if token[0] == opening:
            stack.append(token.start())
        elif token[0] == closing and stack:
            partner[stack.pop()] = token.start()
    return partner

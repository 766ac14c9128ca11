r"""LaTeX that sets the look of an answer and not its value: colours, sizes, fonts, boxes, tags.

One pass over the tokens of the text, in time linear in its length. Commands either vanish, alone
(``\large``) or with their argument (``\tag{1}``), or leave their last argument
(``\textcolor{red}{5}``). ``a \over b`` becomes ``\frac{a}{b}``. Upright text after a value is read
as a unit, so that ``10\text{ m}`` is not ten times m.
"""

from __future__ import annotations

import re

from nabla_eval.grading.units import NAMES, written_out

_LOOKS = """
    tiny scriptsize footnotesize small normalsize large Large LARGE huge Huge displaystyle textstyle
    scriptstyle scriptscriptstyle bf it sf tt cal em sl mit bfseries rmfamily sffamily ttfamily
    itshape scshape mdseries upshape normalfont limits nolimits strut mathstrut noindent null par
    newline hfill hfil centering nonumber notag relax allowbreak nobreak hline protect boldmath
    enspace enskip thinspace medspace thickspace negthinspace square
    blacksquare qed qedsymbol checkmark
"""
_VANISH = frozenset(_LOOKS.split())
_ASIDES = "tag label phantom hphantom vphantom hspace vspace color footnote mspace"
_VANISH_WITH = frozenset(_ASIDES.split())
_WRAPPERS = """
    bold textbf textit textsf textsc textsl emph mathbf mathit mathsf mathtt mathnormal boldsymbol
    bm pmb mathop mathrel mathord mathbin mathopen mathclose mathclap mathrlap mathllap smash
    underline uline uuline boxed fbox framebox makebox hbox ensuremath displaylines num cancel
    xcancel bcancel textsuperscript textsubscript ang
"""
_TWO = ("textcolor", "colorbox", "scalebox", "raisebox", "href")
_KEEP_LAST = {**dict.fromkeys(_WRAPPERS.split(), 1), **dict.fromkeys(_TWO, 2), "fcolorbox": 3}
_STRUCK = frozenset({"cancel", "xcancel", "bcancel"})
_AROUND = {"textsuperscript": ("^{", "}"), "textsubscript": ("_{", "}"), "ang": (" ", r"^\circ ")}
_ROMAN = "text textrm textnormal textup texttt mathrm mbox operatorname unit si mathup rm"
_UPRIGHT = frozenset(_ROMAN.split())
_UNITS_ONLY = frozenset({"si", "unit"})
_FRACTIONS = frozenset(
    {"frac", "dfrac", "tfrac", "cfrac", "sfrac", "nicefrac", "xfrac", "flatfrac"}
)
_QUANTITIES = frozenset({"SI", "qty"})
_INFIX = {"over": "frac", "choose": "binom", "atop": "binom"}
_RENAMED = {
    "dbinom": r"\binom", "tbinom": r"\binom", "lcm": r"\lcm", "textdegree": r"^\circ ",
    "degreeCelsius": r"^\circ C", "celsius": r"^\circ C", "langle": "(", "rangle": ")",
    "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "dots": r"\ldots ",
    "cdots": r"\ldots ", "dotsc": r"\ldots ", "dotsb": r"\ldots ", "ldots": r"\ldots ",
    "imath": "i", "exponentialE": "e", "euro": "€", "pounds": "£", "textdollar": r"\$",
    "slash": "/", "rightarrow": r"\to ", "lg": r"\log_{10} ",
}  # fmt: skip

_TOKEN = re.compile(r"\\([A-Za-z]+)\*?|\\.|[{}]|[^\\{}]+|\\", re.DOTALL)
_OPTION = re.compile(r"\s*\[[^\[\]{}]{0,40}\](?=\s*[\[{])")
_ARGUMENT = re.compile(r"\s*(?:\{|(\\[A-Za-z]+|[^\\\s{}]))")
_SI_MACRO = re.compile(r"\\([A-Za-z]+)\s*")
_UPRIGHT_UNIT = re.compile(
    r"\s*\\(?:text|textrm|mathrm|mbox|operatorname)\{([^{}]{1,20})\}(\^ ?\{?[1-9]\}?)?\s*"
)
_PREFIX = frozenset({"kilo", "centi", "milli", "micro", "nano", "mega", "deci"})
_NAMES = "|".join(sorted(NAMES))
_AFTER_VALUE = re.compile(
    r"(?:[0-9)\]!]|(?<!\\circ)(?<!\\circ )\}|\\pi"
    rf"|(?<![A-Za-z])(?:{_NAMES}|k[gmJNW]|[cm]m)(?:\s*\^\s*\{{?-?[1-9]\}}?)?"
    r"\s*(?:/|\\cdot|\\times|·|\*)?)(?:\s|~|\\[,;:! ]|\{\})*\Z"
)


def plain_layout(text: str) -> str:
    """``text`` without layout commands; what it does not know stays as it is."""
    return _Layout(text).result() if "\\" in text else text


class _Layout:
    def __init__(self, text: str) -> None:
        self.text = text
        self.partner = _braces(text)
        self.out = [""]
        # Of each open group: where it starts in the output, and what closes it.
        self.open: list[list[int | str]] = [[0, ""]]

    def result(self) -> str:
        position = 0
        while match := _TOKEN.match(self.text, position):
            position = match.end()
            if match.group(1):
                position = self._command(match.group(1), match.group(), position)
            elif match.group() == "{":
                self._enter("{", "}")
            elif match.group() == "}":
                self.out.append(str(self.open.pop()[1]) if len(self.open) > 1 else "}")
            else:
                self.out.append(match.group())
        return "".join(self.out) + str(self.open[0][1])

    def _enter(self, opening: str, closing: str) -> None:
        self.out.append(opening)
        self.open.append([len(self.out) - 1, closing])

    def _command(self, name: str, written: str, position: int) -> int:
        if name in _INFIX:
            group = self.open[-1]
            index, closing = int(group[0]), str(group[1])
            self.out[index] += rf"\{_INFIX[name]}{{"
            group[1] = "}" + closing
            self.out.append("}{")
        elif name in _UPRIGHT:
            return self._upright(name, position)
        elif name in _VANISH:
            self.out.append(" ")
        elif name == "Omega" and self._ohms(position):
            self.out.append(" ohm ")
        elif name in _FRACTIONS:
            return self._fraction(self._skip_option(position))
        elif name in _RENAMED:
            self.out.append(_RENAMED[name])
        elif name in _VANISH_WITH:
            self.out.append(" ")
            return self._skip_argument(self._skip_option(position), letters=False)
        elif name in _KEEP_LAST:
            return self._keep_last(name, position)
        elif name in _QUANTITIES:
            return self._quantity(position)
        else:
            self.out.append(written)
        return position

    def _ohms(self, position: int) -> bool:
        """Return whether a capital omega ends a measure."""
        ends = not self.text[position : position + 40].strip(" $})].")
        return ends and _AFTER_VALUE.search("".join(self.out[-6:])[-80:]) is not None

    def _fraction(self, position: int) -> int:
        """``\\frac``, or a quotient of upright units after a value: m/s."""
        if self.partner.get(position, position) > position + 40:
            self.out.append(r"\frac")
            return position
        units = [self._argument(position)]
        below = self._skip_argument(position)
        units.append(self._argument(below))
        matches = [_UPRIGHT_UNIT.fullmatch(unit) for unit in units]
        unit = "/".join(f"{m.group(1)}{m.group(2) or ''}" for m in matches if m)
        if all(matches) and (unit := written_out(unit) or "") and self._follows_value(unit, False):
            self.out.append(f" {unit} ")
            return self._skip_argument(below)
        self.out.append(r"\frac")
        return position

    def _keep_last(self, name: str, position: int) -> int:
        position = self._skip_option(position)
        for _ in range(_KEEP_LAST[name] - 1):
            position = self._skip_option(self._skip_argument(position))
        if name in _STRUCK and self.partner.get(position, 0) + 1 == len(self.text.rstrip()):
            # Struck out as a whole; inside an expression it only shows how terms cancel.
            self.out.append(rf"\{name}")
            return position
        opening, closing = _AROUND.get(name, (" ", " "))
        match = _ARGUMENT.match(self.text, position)
        if match is None or match.group(1):
            self.out.append(" " if match is None else f"{opening}{match.group(1)}{closing}")
            return match.end() if match else position
        if match.end() - 1 not in self.partner:
            # Cut off: what the command holds is not the whole of it.
            self.out.append(rf"\{name}")
            return position
        self._enter(opening, closing)
        return match.end()

    def _upright(self, name: str, position: int) -> int:
        """Upright text as units where it can be nothing else, otherwise as it stands."""
        match = _ARGUMENT.match(self.text, position)
        braced = match is not None and not match.group(1)
        old_style = name == "rm" and not braced
        if old_style:
            start, end = position, self.text.find("}", position, position + 80)
            after = end
        elif not braced or match is None:
            self.out.append(" ")
            return position
        else:
            start, end = match.end(), self.partner.get(match.end() - 1, -1)
            after = end + 1
        content = self.text[start:end] if end >= 0 else ""
        unit = _si(content) if name in _UNITS_ONLY else written_out(content)
        # A letter or bracket after it makes it a factor or a function: \mathrm{C}_{3}, \mathrm{d}x.
        follows = self.text[after : after + 1] if end >= 0 else ""
        taken = bool(unit) and (
            name in _UNITS_ONLY
            or (
                follows not in {"_", "("}
                and not follows.isalnum()
                and self._follows_value(unit, old_style)
            )
        )
        if taken:
            if old_style and len(self.open) > 1 and self.open[-1][0] == len(self.out) - 1:
                self.out[-1] = self.open[-1][1] = " "
            self.out.append(f" {unit}" if follows == "^" else f" {unit} ")
            return after
        if old_style:
            self.out.append(" ")
        elif self.out[-1].rstrip().endswith(("_", "^")):
            self._enter("{", "}")
        else:
            self._enter(" ", " ")
        return start

    def _follows_value(self, unit: str | None, old_style: bool) -> bool:
        before = "".join(self.out[-6:])[-80:].rstrip("{" if old_style else "")
        numbered = unit is not None and unit[:1] != " "
        return numbered or _AFTER_VALUE.search(before) is not None

    def _quantity(self, position: int) -> int:
        """``\\SI{15}{\\meter\\per\\second}`` as the number and its unit in words."""
        position = self._skip_option(position)
        number = self._argument(position)
        position = self._skip_option(self._skip_argument(position))
        unit = self._argument(position)
        self.out.append(f" {number} {_si(unit)} ")
        return self._skip_argument(position)

    def _argument(self, position: int) -> str:
        match = _ARGUMENT.match(self.text, position)
        if match is None:
            return ""
        if match.group(1):
            return match.group(1)
        return self.text[match.end() : self.partner.get(match.end() - 1, match.end())]

    def _skip_argument(self, position: int, *, letters: bool = True) -> int:
        match = _ARGUMENT.match(self.text, position)
        if match is None:
            return position
        if match.group(1):
            return match.end() if letters else position
        return self.partner.get(match.end() - 1, match.end() - 1) + 1

    def _skip_option(self, position: int) -> int:
        match = _OPTION.match(self.text, position)
        return match.end() if match else position


def _braces(text: str) -> dict[int, int]:
    stack: list[int] = []
    partner = {}
    for match in _TOKEN.finditer(text):
        if match.group() == "{":
            stack.append(match.start())
        elif match.group() == "}" and stack:
            partner[stack.pop()] = match.start()
    return partner


def _si(unit: str) -> str:
    """Words for a unit in the macros of siunitx, or in plain symbols."""
    if "\\" not in unit:
        return written_out(unit) or unit
    words: list[str] = []
    for name in _SI_MACRO.findall(unit):
        replaced = {"per": "per", "squared": "squared", "cubed": "cubed", "percent": "%"}
        if words and words[-1] in _PREFIX:
            words[-1] += name
        else:
            words.append({"degreeCelsius": r"^\circ C", "degree": r"^\circ"}.get(
                name, replaced.get(name, name)
            ))  # fmt: skip
    return " ".join(words)

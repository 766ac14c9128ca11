"""Turns the formulas of the pages into MathML while the site is built, so that no script has to."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex leaves: <span class="arithmatex">\(...\)</span>, or a div with \[...\].
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, **_: Any) -> str:
    """The HTML of a page with its formulas as MathML."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    tag, formula = found.groups()
    shown = convert(html.unescape(formula), display="block" if tag == "div" else "inline")
    if "\\" in shown or "&#x0005C;" in shown:
        raise PluginError(f"A command of this formula is not known to latex2mathml: {formula}")
    return f"<{tag}>{shown}</{tag}>"

"""What happens while the site is built: formulas become MathML, so that no script has to do it, and
the page on the mathematics takes in the derivations of theory/README.md."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

# What pymdownx.arithmatex leaves: <span class="arithmatex">\(...\)</span>, or a div with \[...\].
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


DERIVATIONS = Path(__file__).parents[1] / "theory/README.md"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page; below that of theory.md, the sections of theory/README.md."""
    if page.file.src_uri != "theory.md":
        return markdown
    _, first, sections = DERIVATIONS.read_text(encoding="utf-8").partition("\n## ")
    outside = r"\[([^\]]+)\]\(\.\./[^)]*\)"  # links into the repository, which the site has not
    return markdown + first + re.sub(outside, r"\1", sections)


def on_page_content(content: str, **_: Any) -> str:
    """The HTML of a page with its formulas as MathML."""
    return _FORMULA.sub(_as_mathml, content)


def _as_mathml(found: re.Match[str]) -> str:
    tag, formula = found.groups()
    shown = convert(html.unescape(formula), display="block" if tag == "div" else "inline")
    if "\\" in shown or "&#x0005C;" in shown:
        raise PluginError(f"A command of this formula is not known to latex2mathml: {formula}")
    return f"<{tag}>{shown}</{tag}>"

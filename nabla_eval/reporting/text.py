"""Numbers as words, and model text as Markdown: it may hold markup or HTML."""

from __future__ import annotations

import base64
import hashlib
import math
import re
import textwrap
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError
from nabla_eval.terminal import printable

TEMPLATES = Path(__file__).with_name("templates")
MISSING = "–"  # what the data cannot say
_ROUNDING = 1e-12
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~&#$])")
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a UTF-16 pair: text that UTF-8 cannot hold


def number(value: float | None, digits: int = 1) -> str:
    """A number with a comma between thousands; one that would read 0.000 by its first digit."""
    return MISSING if value is None or math.isnan(value) else _decimal(value, digits)


def _decimal(value: float, digits: int, sign: str = "") -> str:
    """Word a number with so many decimals, or more where only zeros would be left of it.

    What is smaller than 1e-12 is the rounding of zero.
    """
    if _ROUNDING < abs(value) < 0.5 * 10**-digits:
        return f"{value:{sign}.1g}"
    return f"{value if abs(value) > _ROUNDING else 0.0:{sign},.{digits}f}"


def rewards(old: float | None, new: float | None, digits: int = 3) -> str:
    """Word two rewards with as many digits as show which one is higher: 0.0770 → 0.0774."""
    for more in range(digits, 17):
        words = number(old, more), number(new, more)
        if words[0] != words[1] or old == new:
            break
    return " → ".join(words)


def count(value: int | None) -> str:
    """A whole number with a comma between thousands."""
    return MISSING if value is None else f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of one as per cent: 0.571 -> 57.1 %."""
    return MISSING if share is None or math.isnan(share) else f"{number(100 * share, digits)} %"


def percent_range(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """An interval of shares in per cent: 64.1–70.9."""
    if interval is None or math.isnan(interval[0]):
        return MISSING
    return "–".join(number(100 * end, digits) for end in interval)


def p_value(p: float | None) -> str:
    """A p value to three decimals; below that, the bound."""
    if p is None or math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def points(difference: float, digits: int = 1) -> str:
    """A difference of shares in percentage points, always signed."""
    return MISSING if math.isnan(difference) else _decimal(100 * difference, digits, "+")


def points_range(interval: tuple[float, float], digits: int = 1) -> str:
    """An interval of differences in percentage points, always signed."""
    low, high = interval
    return MISSING if math.isnan(low) else f"{points(low, digits)} to {points(high, digits)}"


def bullet(sentence: str, width: int) -> str:
    """A sentence as an item of a list, wrapped; a number stays with its unit."""
    whole = re.sub(r" (%|points?\b)", "\u00a0\\1", sentence)
    lines = textwrap.fill(
        whole, max(20, width), initial_indent="• ", subsequent_indent="  ",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace("\u00a0", " ")


def code(text: str) -> str:
    """A code span of Markdown, which no backtick in the text ends."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    room = " " if "`" in text else ""
    return f"{fence}{room}{printable(text)}{room}{fence}"


def markdown(text: str) -> str:
    """Printable text that Markdown and HTML show literally, also inside a table cell."""
    return _MARKDOWN.sub(r"\\\1", printable(text)).replace("\\<", "&lt;").replace("\\>", "&gt;")


def jsonable(value: Any) -> Any:
    """The same value for standard JSON in UTF-8: NaN and infinities become null, surrogates �."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {jsonable(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value


def write_files(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """Write files into a folder, which is made, and return their paths.

    Raises `DataError` where that cannot be done.
    """
    try:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                content = content.encode(errors="backslashreplace")
            (folder / name).write_bytes(content)
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. Choose another --output.") from error
    return [folder / name for name in files]


def script_of(*names: str) -> tuple[str, str]:
    """Return scripts among the templates as one, and its hash as a content security policy says."""
    script = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    return script, f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"


def breakable(text: str) -> Any:
    """Return printable text as HTML, which may be broken after separators where it is long."""
    from jinja2.utils import markupsafe

    shown = markupsafe.escape(printable(text))
    return (
        shown if len(shown) <= 12 else markupsafe.Markup(re.sub("([_/=])", r"\1<wbr>", str(shown)))
    )


@cache
def templates() -> Any:
    """Return jinja's environment of the pages; all that is filled in is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["breakable"] = breakable
    return made

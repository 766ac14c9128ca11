"""The way out to people: what is printed or logged passes here, with every character visible.

Responses, traces, servers, checkpoints and other libraries' errors may hold characters that
recolour, rewrite or hide what a terminal shows. Printing goes through `say`, rich output through
`cli/screen.py`, logging through `LOGGER`, and what click, Python or a library prints by itself
through `Guard`.
"""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any, TextIO

# Characters that Python calls printable and nobody sees: fillers, joiners, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\uffa0\ufe00-\ufe0f"
    "\U000e0100-\U000e01ef]"
)
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_CURSOR = re.compile(r"(?:\x1b\[A|[\r\n])+")  # all that tqdm writes between two bars


def visible(text: str) -> str:
    """Text, of several lines, in which every character but spaces, tabs and line breaks is seen.

    Controls, bidi and zero-width marks, tags and lone surrogates become the escapes of JSON, so
    JSON text stays JSON with the same content. Joiners stay where a script or an emoji needs them.
    """
    lines = re.split(r"([\n\t])", text.replace("\r\n", "\n"))
    return "".join(line if line in "\n\t" else _line(line) for line in lines)


def printable(text: str) -> str:
    """`visible` text in one line: line breaks and tabs are escapes too, other spaces are spaces."""
    shown = visible(text).replace("\n", "\\n").replace("\t", "\\t")
    return re.sub(r"\s", " ", shown)


def _line(text: str) -> str:
    if text.isprintable() and not _UNSEEN.search(text):
        return text
    return "".join(c if _seen(text, place) else _spelled(c) for place, c in enumerate(text))


def _seen(text: str, place: int) -> bool:
    character, before, after = text[place], text[place - 1 : place], text[place + 1 : place + 2]
    if character in "\u200c\u200d":  # joiners, between letters of scripts that have them, or emoji
        printed = before.isprintable() and after.isprintable()
        script = all("\u0590" < c < "\u1c50" for c in (before, after))
        emoji = before > "\u2000" < after and unicodedata.category(after)[0] == "S"
        return printed and (script or emoji)
    if character in "\ufe0e\ufe0f":  # styles of an emoji or of a keycap
        symbol = "\u2000" < before < "\u3000" or before > "\U0001f000"
        return before != "" and (symbol or before in "©®〰〽㊗㊙" or after == "\u20e3")
    if unicodedata.category(character) == "Zs":
        return True
    return character.isprintable() and not _UNSEEN.match(character)


def _spelled(character: str) -> str:
    code = ord(character)
    if code < 0x20:  # JSON holds none of these
        return character.encode("unicode_escape").decode()
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{code:04x}"


def say(
    text: object = "", *, err: bool = False, file: TextIO | None = None, end: str = "\n"
) -> None:
    """Print for people, or for a pipe: to stdout, to stderr, or to a file."""
    stream = file or (sys.stderr if err else sys.stdout)
    stream.write(visible(str(text)) + end)
    stream.flush()


class Guard:
    """A stream that shows what others print: the net under `say` and rich.

    Styles are dropped: whose they are cannot be told. A terminal gets the moves of progress bars.
    """

    def __init__(self, stream: TextIO) -> None:
        self.rich_proxied_file = stream  # where rich writes: its own sequences, and visible text

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":
            raise AttributeError("bytes would pass the guard")
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str | bytes) -> int:
        if isinstance(text, bytes):  # click's, of a shell completion, where a stream has no buffer
            text = text.decode(errors="replace")
        self.rich_proxied_file.write(self._shown(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def _shown(self, text: str) -> str:
        if _CURSOR.fullmatch(text):
            return text if self.rich_proxied_file.isatty() else text.replace("\x1b[A", "")
        body = text.strip("\r")
        start = len(text) - len(text.lstrip("\r"))
        return text[:start] + visible(_STYLE.sub("", body)) + text[start + len(body) :]


def guard_streams() -> None:
    """Put a guard before this process's stdout and stderr, once, and leave it there.

    Tracebacks are printed when everything else has ended.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Guard):
            setattr(sys, name, Guard(stream))


class _Visible(logging.Filter):
    """Words a record, its traceback included, before any handler does."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(record.getMessage()), None
        if record.exc_info:
            record.exc_text = visible(logging.Formatter().formatException(record.exc_info))
        return True


LOGGER = logging.getLogger("nabla_eval")
LOGGER.addFilter(_Visible())

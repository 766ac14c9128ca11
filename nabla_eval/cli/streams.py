"""The process's own streams: they take any text, and a full disk or a closed pipe ends in words."""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from nabla_eval.terminal import say

SPELLED = "nabla_eval.spelled"  # the error handler, as Python's codecs know it
# How our own signs read where a terminal has only ASCII; foreign text is escaped.
_PLAIN = {
    "∇": "nabla", "–": "-", "—": "-", "−": "-", "‘": "'", "’": "'", "•": "*", "×": "x", "·": "*",
    "±": "+/-", "≥": ">=", "≤": "<=", "≠": "!=", "→": "->", "←": "<-", "↑": "^", "↓": "v",
    "λ": "lambda", "π": "pi", "τ": "tau", "β": "beta", "ε": "eps", "√": "sqrt", "∞": "inf",
}  # fmt: skip


def plain(character: str) -> str:
    """Return a character in ASCII: an equivalent if it has one, else the escape that JSON uses."""
    if character in _PLAIN:
        return _PLAIN[character]
    if "─" <= character <= "▟":  # box drawing, and blocks
        return {"─": "-", "━": "-", "═": "-", "│": "|", "┃": "|", "║": "|"}.get(character, "+")
    same = unicodedata.normalize("NFKD", character)
    if same.isascii() and same.isalnum():  # subscripts; a wide quote must not become a quote
        return same
    return json.dumps(character)[1:-1]


def _spelled(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(plain, error.object[error.start : error.end])), error.end


codecs.register_error(SPELLED, _spelled)


@contextmanager
def sturdy_streams() -> Iterator[None]:
    """Let stdout and stderr take any text; on leaving, exit with 1 where stdout did not.

    A character that the encoding lacks (an ASCII locale, a lone surrogate) is spelled in others.
    A stream that was closed from the start is nowhere. A reader that went away ends the program
    without a word, as it does everywhere; a full disk is an error in one line.
    """
    _reopen()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=SPELLED)
    try:
        yield
    finally:
        _flush()


def _reopen() -> None:
    """Give 0, 1 and 2 back to the standard streams: the next file opened would get the number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _flush() -> None:
    ending = sys.exc_info()[1]
    told = isinstance(ending, SystemExit) and ending.code not in (None, 0)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python would try again when it ends, and print a traceback of that.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno != errno.EPIPE and not told:
            say(f"Error: Cannot write to stdout: {error}. Send it somewhere else.", err=True)
        raise SystemExit(1) from None

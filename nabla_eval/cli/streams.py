"""The process's own streams: they take any text, and a full disk or a closed pipe ends in words."""

from __future__ import annotations

import codecs
import errno
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nabla_eval.terminal import say

ESCAPED = "nabla_eval.escaped"  # the error handler, as Python's codecs know it


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Escape what an encoding lacks as JSON does, so that JSON stays JSON."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(ESCAPED, _escaped)


@contextmanager
def sturdy_streams() -> Iterator[None]:
    """Let stdout and stderr take any text; on leaving, exit with 1 where stdout did not.

    A character that the encoding lacks (an ASCII locale, a lone surrogate) is escaped. What is
    written to a stream that was closed from the start goes nowhere. A reader that went away ends
    the program without a word, as it does everywhere; a full disk is an error in one line.
    """
    _reopen()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ESCAPED)
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

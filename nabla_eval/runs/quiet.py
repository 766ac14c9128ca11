"""A screen that belongs to one command: what libraries print and log goes to a file."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TextIO

from nabla_eval.errors import DataError


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Send what libraries print and log to a file, so that the screen stays clean.

    What programs that they start say on stderr goes there too (lm-eval asks git for a commit).
    Handlers that were bound to stderr, before or meanwhile, are pointed back to it afterwards.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        log = path.open("a", encoding="utf-8")  # programs write to it as well
        log.truncate(0)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error}. Choose another --output.") from error
    stderr = sys.stderr
    with log:
        _redirect_handlers(stderr, log)
        try:
            with redirect_stdout(log), redirect_stderr(log), _programs(log):
                yield
        finally:
            _redirect_handlers(log, stderr)


@contextmanager
def _programs(log: TextIO) -> Iterator[None]:
    """Point file descriptor 2, which child processes inherit, to the log."""
    kept = os.dup(2)
    try:
        os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _redirect_handlers(old: TextIO, new: TextIO) -> None:
    """Point every logging handler that holds on to one stream to another.

    Handlers that look `sys.stderr` up each time have no stream of their own, and need no change.
    """
    names = list(logging.root.manager.loggerDict)
    for logger in (logging.root, *map(logging.getLogger, names)):
        for handler in logger.handlers:
            if isinstance(handler, logging.StreamHandler) and vars(handler).get("stream") is old:
                vars(handler).pop("flush", None)  # transformers binds that of its first stream
                handler.setStream(new)

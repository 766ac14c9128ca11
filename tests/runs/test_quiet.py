"""What lm-eval, its libraries and their programs print while a sweep runs goes to its log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from nabla_eval.runs.quiet import quiet


def test_prints_logs_and_programs_are_caught_and_handlers_given_back(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("tests.quiet")
    logger.propagate = False
    early = logging.StreamHandler(sys.stderr)
    logger.addHandler(early)
    stderr = sys.stderr
    try:
        with quiet(tmp_path / "log.txt"):
            late = logging.StreamHandler()
            late.flush = sys.stderr.flush  # as transformers does it
            logger.addHandler(late)
            print("printed")
            print("to stderr", file=sys.stderr)
            logger.warning("logged")
            subprocess.run(["sh", "-c", "echo fatal: no repository >&2"], check=True)
        assert early.stream is late.stream is stderr is sys.stderr
        with quiet(tmp_path / "later.txt"):
            assert early.stream is late.stream is sys.stderr is not stderr
    finally:
        logger.handlers.clear()
    subprocess.run(["sh", "-c", "printf later >&2"], check=True)
    written = (tmp_path / "log.txt").read_text().splitlines()
    assert sorted(written) == sorted(
        ["printed", "to stderr", "logged", "logged", "fatal: no repository"]
    )
    assert capfd.readouterr() == ("", "later")

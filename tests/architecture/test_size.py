"""No file is long: one that passes the limit is split, or named here with its reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

LIMIT = 500  # lines
ALLOWED: dict[str, str] = {}  # path: why its parts belong together


def tracked(root: Path) -> list[str]:
    if shutil.which("git") is None or not (root / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "*.py"], cwd=root, capture_output=True, text=True, check=True
    )
    return [name for name in listing.stdout.splitlines() if (root / name).is_file()]


def test_no_file_is_long(root: Path) -> None:
    lines = {
        name: len((root / name).read_text(encoding="utf-8").splitlines()) for name in tracked(root)
    }
    assert lines, "git lists no Python file"
    long = {name for name, count in lines.items() if count > LIMIT}
    assert long - ALLOWED.keys() == set(), "split these, or give the reason in ALLOWED"
    assert ALLOWED.keys() - long == set(), "these are short again: take them out of ALLOWED"

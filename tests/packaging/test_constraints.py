"""constraints.txt pins everything that a new environment gets, and nothing tied to one machine."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EXTRAS = ("test", "lint")  # what `make` and .ci/run install


def lines(root: Path) -> list[str]:
    text = (root / "constraints.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_every_line_is_one_exact_public_version(root: Path) -> None:
    exact = re.compile(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; python_version >= \"3\.\d+\")?")
    assert [line for line in lines(root) if not exact.fullmatch(line)] == []


def closure(name: str, extras: frozenset[str], seen: set[tuple[str, frozenset[str]]]) -> set[str]:
    """Installed distributions that `name[extras]` needs on this machine, itself included."""
    key = (canonicalize_name(name), extras)
    if key in seen:
        return set()
    seen.add(key)
    found = {key[0]}
    for line in distribution(name).requires or []:
        need = Requirement(line)
        wanted = [{"extra": extra} for extra in (*extras, "")]
        if need.marker is None or any(need.marker.evaluate(environment) for environment in wanted):
            try:
                found |= closure(need.name, frozenset(need.extras), seen)
            except PackageNotFoundError:
                pytest.fail(f"{name} needs {need}, which is not installed")
    return found


def test_nothing_that_is_installed_is_left_unpinned(root: Path) -> None:
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines(root)}
    needed = closure("nabla-eval", frozenset(EXTRAS), set()) - {"nabla-eval"}
    platform = {name for name in needed if name.startswith(("nvidia-", "triton", "cuda-"))}
    assert needed - pinned - platform == set()

"""pyproject.toml names everything that is imported, each with the oldest version that works."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from floors import pins, requirements
from packaging.utils import canonicalize_name

INSTALLS = packages_distributions()  # import name -> names of what installs it
MADE_BY_TESTS = {"watched_by_the_hook"}
# Who may import what: the dependencies and these extras.
FOLDERS = {
    "examples": ("train",),
    "nabla_eval": (),
    "reports": ("test",),  # their tests lie beside them
    "startup": (),
    "tasks": (),
    "theory": (),
    "tests": ("test",),
}


def imported(source: str) -> Iterator[str]:
    """Top names that a module imports anywhere in its text, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args:
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            named = getattr(node.args[0], "value", None)
            if called in {"import_module", "importorskip"} and isinstance(named, str):
                yield named.split(".")[0]


def third_parties(folder: Path, own: frozenset[str]) -> dict[str, str]:
    """Top names that the modules of a folder import -> one of those modules."""
    return {
        name: str(file)
        for file in sorted(folder.rglob("*.py"))
        for name in imported(file.read_text(encoding="utf-8"))
        if name not in sys.stdlib_module_names and name not in own
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_import_is_asked_for(root: Path, folder: str) -> None:
    asked = requirements()
    named = {canonicalize_name(n.name) for extra in ("", *FOLDERS[folder]) for n in asked[extra]}
    scripts = ("reports", "startup", "tests/support")  # modules without a package around them
    beside = {file.stem for top in scripts for file in (root / top).rglob("*.py")}
    own = frozenset(
        {"docs", "nabla_eval", "nabla_theory", "nabla_training", "tests"} | beside | MADE_BY_TESTS
    )
    missing = {
        name: file
        for name, file in third_parties(root / folder, own).items()
        if not named & {canonicalize_name(found) for found in INSTALLS.get(name, [name])}
    }
    assert missing == {}


def test_every_requirement_names_one_oldest_version() -> None:
    loose = [
        str(need)
        for extra, needs in requirements().items()
        for need in needs
        if [part.operator for part in need.specifier] != [">="]
    ]
    assert loose == []


def test_the_floors_are_pins_of_those_versions() -> None:
    trained = [line for line in pins("train") if line.startswith("trl==")]
    assert len(trained) == 1 and not set(trained) & set(pins())


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a.b, c", {"a", "c"}),
        ("def f():\n    from a.b import c", {"a"}),
        ("from . import a\nfrom .b import c", set()),
        ("from importlib import import_module\nimport_module('a.b')", {"importlib", "a"}),
        ("import pytest\npytest.importorskip('a')", {"pytest", "a"}),
    ],
)
def test_the_walker_sees_every_form_of_import(source: str, names: set[str]) -> None:
    assert set(imported(source)) == names

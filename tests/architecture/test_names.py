"""One concept, one word: no class name occurs twice, and methods know nothing of caches."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nabla_eval"
CACHES = {"cache", "caches", "cached", "past", "pasts", "branch", "branches"}


def trees(*patterns: str) -> Iterator[ast.Module]:
    for pattern in patterns:
        for file in sorted(PACKAGE.glob(pattern)):
            yield ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("folder", [PACKAGE, ROOT / "theory"], ids=["nabla_eval", "nabla_theory"])
def test_no_class_name_occurs_twice(folder: Path) -> None:
    names = Counter(
        node.name
        for file in folder.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert names
    assert {name for name, count in names.items() if count > 1} == set()


def handed_over(tree: ast.Module) -> Iterator[str]:
    """Names of attributes, parameters and keyword arguments."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.arg, ast.keyword)) and node.arg:
            yield node.arg
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id


def test_methods_and_their_words_name_no_cache() -> None:
    """The engine keeps what it encoded; a method that could free it could also free it wrongly."""
    found = trees("methods/*.py", "protocol.py")
    names = {name for tree in found for name in handed_over(tree)}
    assert names
    assert {name for name in names if CACHES & set(name.split("_"))} == set()
    assert CACHES & set(handed_over(ast.parse("class A:\n    past: int\nf(branches=g.cache)")))


def test_the_loop_is_one_page_beside_its_specification() -> None:
    lines = (PACKAGE / "methods" / "nabla.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250

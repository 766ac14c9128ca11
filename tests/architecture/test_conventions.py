"""CONTRIBUTING's conventions: one word a concept, short files, two ways out, checked shapes."""

from __future__ import annotations

import ast
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

from nabla_eval.dto.relaxation import soft_backward

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "nabla_eval"
LIMIT = 500  # lines of a file
CACHES = {"cache", "caches", "cached", "past", "pasts", "branch", "branches"}
SINKS = {"nabla_eval/terminal.py", "nabla_eval/cli/screen.py"}
# Calls that write to a terminal, or read markup in text; and what to use instead.
INSTEAD = {
    "print": "say", "pprint": "say", "input": "an option", "click.echo": "say",
    "click.secho": "say", "click.prompt": "an option", "click.confirm": "an option",
    "Console": "Screen", "get_console": "Screen", "from_markup": "Text", "from_ansi": "Text",
    "getLogger": "LOGGER", "stdout.write": "say", "stderr.write": "say",
    "stdout.writelines": "say", "stderr.writelines": "say",
}  # fmt: skip
NEEDED = {"TextColumn": "markup", "Progress": "console"}  # of rich's own


def trees(folder: Path, *patterns: str) -> Iterator[ast.AST]:
    for pattern in patterns or ("**/*.py",):
        for file in sorted(folder.glob(pattern)):
            yield ast.parse(file.read_text(encoding="utf-8"))


def test_no_file_is_long() -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "*.py"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]
    assert files
    assert [f for f in files if len(f.read_text(encoding="utf-8").splitlines()) > LIMIT] == []


def test_the_loop_is_one_page_beside_its_specification() -> None:
    lines = (PACKAGE / "methods" / "nabla.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 250


@pytest.mark.parametrize("folder", ["nabla_eval", "theory", "examples"])
def test_no_class_name_occurs_twice(folder: str) -> None:
    found = (node for tree in trees(ROOT / folder) for node in ast.walk(tree))
    names = Counter(node.name for node in found if isinstance(node, ast.ClassDef))
    assert names
    assert {name for name, count in names.items() if count > 1} == set()


def handed_over(tree: ast.AST) -> Iterator[str]:
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
    found = trees(PACKAGE, "methods/*.py", "protocol.py")
    names = {name for tree in found for name in handed_over(tree)}
    assert names
    assert {name for name in names if CACHES & set(name.split("_"))} == set()
    assert CACHES & set(handed_over(ast.parse("class A:\n    past: int\nf(branches=g.cache)")))


def ways_out(source: str) -> Iterator[str]:
    """`line: what` of each call that prints past the sinks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            for name, instead in INSTEAD.items():
                if called == name or (called.endswith(f".{name}") and name != "print"):
                    yield f"{node.lineno}: {name}, use {instead}"
            needed = NEEDED.get(called.rpartition(".")[2])
            given = {keyword.arg for keyword in node.keywords}
            rich = "rich.progress" in source or "from rich import progress" in source
            if needed and rich and needed not in given:
                yield f"{node.lineno}: {called} without {needed}="


def test_only_the_sinks_print() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{way}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if str(file.relative_to(ROOT)) not in SINKS
        for way in ways_out(file.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("printing", "source"),
    [
        *((True, source) for source in (
            "print(x)", "click.echo(x)", "sys.stderr.write(x)", "sys.stdout.writelines(x)",
            "Console().print(x)", "console = rich.console.Console(stderr=True)",
            "from rich.progress import TextColumn; TextColumn('{task.description}')",
            "from rich import progress; progress.TextColumn('{task.description}')",
            "from rich.progress import Progress; Progress(transient=True)", "Text.from_markup(x)",
            "logging.getLogger('nabla_eval').warning(x)", "click.secho(x)",
        )),
        *((False, source) for source in (
            "say(x)", "screen.print(x)", "Screen().print(x)", "file.write(x)",
            "TextColumn('{task.description}', markup=False)", "Progress(console=console)",
        )),
    ],
)  # fmt: skip
def test_the_walker_sees_every_way_out_and_no_other(printing: bool, source: str) -> None:
    assert bool(list(ways_out(source))) == printing


def test_shapes_in_signatures_are_checked() -> None:
    """The test run itself does it (pyproject.toml, --jaxtyping-packages)."""
    with pytest.raises(TypeCheckError):
        soft_backward(torch.zeros(2, 3), torch.zeros(2, 4), 1.0)
    assert soft_backward(torch.zeros(2, 3), torch.zeros(2, 3), 1.0).shape == (2, 3)

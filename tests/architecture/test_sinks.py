"""Nothing prints but `nabla_eval/terminal.py` and `cli/screen.py`, which spell it out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
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


def ways_out(source: str) -> Iterator[str]:
    """`line: what` of each call that prints past the sinks."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            for name, instead in INSTEAD.items():
                if called == name or (called.endswith(f".{name}") and name != "print"):
                    yield f"{node.lineno}: {name}, use {instead}"
            needed = NEEDED.get(called)
            given = {keyword.arg for keyword in node.keywords}
            if needed and "rich.progress" in source and needed not in given:
                yield f"{node.lineno}: {called} without {needed}="


def test_only_the_sinks_print() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{way}"
        for file in sorted((ROOT / "nabla_eval").rglob("*.py"))
        if str(file.relative_to(ROOT)) not in SINKS
        for way in ways_out(file.read_text(encoding="utf-8"))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "print(x)", "click.echo(x)", "sys.stderr.write(x)", "sys.stdout.writelines(x)",
        "Console().print(x)", "console = rich.console.Console(stderr=True)", "Text.from_markup(x)",
        "from rich.progress import TextColumn; TextColumn('{task.description}')",
        "from rich.progress import Progress; Progress(transient=True)",
        "logging.getLogger('nabla_eval').warning(x)", "click.secho(x)",
    ],
)  # fmt: skip
def test_the_walker_sees_every_way_out(source: str) -> None:
    assert list(ways_out(source))


@pytest.mark.parametrize(
    "source",
    [
        "say(x)", "screen.print(x)", "Screen().print(x)", "file.write(x)",
        "TextColumn('{task.description}', markup=False)", "Progress(console=console)",
    ],
)  # fmt: skip
def test_the_walker_lets_the_sinks_be_used(source: str) -> None:
    assert not list(ways_out(source))

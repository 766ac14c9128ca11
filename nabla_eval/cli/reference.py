"""The command reference, `docs/commands.md`, made from the commands' own help.

`python -m nabla_eval.cli.reference` writes it between the markers; a test fails where it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from nabla_eval.cli.main import COMMANDS, main
from nabla_eval.errors import DataError

BEGIN, END = "<!-- commands:begin -->", "<!-- commands:end -->"


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name, in the order of the list."""
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        yield from _leaves(name, command)


def _leaves(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        if not command.hidden:
            yield name, command
        return
    for below, child in command.commands.items():
        yield from _leaves(f"{name} {below}", child)


def example(command: click.Command) -> str:
    """The first example of a command's help, as one line; empty where there is none."""
    _, _, after = (command.help or "").partition("Example")
    joined = after.replace("\\\n", " ")
    for line in joined.splitlines():
        words = line.lstrip(": ").split()
        if words[:1] in (["nabla-eval"], ["lm_eval"]):
            return " ".join(words)
    return ""


def summary(command: click.Command) -> str:
    """The first paragraph of a command's help, as one line."""
    paragraph = (command.help or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def reference() -> str:
    """The reference as a Markdown table."""
    lines = ["| command | what it does, and an example |", "|---|---|"]
    for name, command in commands():
        shown = example(command).replace("|", "\\|")
        text = summary(command).replace("|", "\\|")
        lines.append(f"| `{name}` | {text}<br>`{shown}` |")
    return "\n".join(lines)


def renewed(text: str) -> str:
    """A page with its reference made anew.

    Raises `DataError` where the markers are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"The page has no {BEGIN} and {END}. Put them where the table belongs.")
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/commands.md")
    page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")

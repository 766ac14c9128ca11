"""The command reference, `docs/commands.md`, made from the commands' own help.

`python -m nabla_eval.cli.reference` writes it between the markers; a test fails where it is stale.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from nabla_eval.cli.main import main
from nabla_eval.errors import DataError

BEGIN, END = "<!-- commands:begin -->", "<!-- commands:end -->"


def commands(name: str = "", command: click.Command = main) -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with its full name, in the order of the list."""
    if not isinstance(command, click.Group):
        if not command.hidden:
            yield name, command
        return
    context = click.Context(command)
    for below in command.commands or command.list_commands(context):
        child = command.get_command(context, below)
        assert child is not None
        yield from commands(f"{name} {below}".strip(), child)


def example(command: click.Command) -> str:
    """Return the first example of a command's help, as one line; empty where there is none."""
    _, _, after = (command.help or "").partition("Example")
    for line in after.replace("\\\n", " ").splitlines():
        words = line.lstrip(": ").split()
        if words[:1] in (["nabla-eval"], ["lm_eval"]):
            return " ".join(words)
    return ""


def summary(command: click.Command) -> str:
    """Return the first paragraph of a command's help, as one line."""
    return " ".join((command.help or "").split("\n\n")[0].split())


def reference() -> str:
    """Return the reference as a Markdown table."""
    lines = ["| command | what it does, and an example |", "|---|---|"]
    for name, command in commands():
        cells = (text.replace("|", "\\|") for text in (summary(command), example(command)))
        lines.append("| `{}` | {}<br>`{}` |".format(name, *cells))
    return "\n".join(lines)


def renewed(text: str) -> str:
    """Return a page with its reference made anew.

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

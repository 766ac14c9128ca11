"""The command reference, `docs/commands.md`, made from the commands' own help.

`python -m docs.commands`, in the root of the repository, writes it; a test fails where it is stale.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from nabla_eval.cli.main import main

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Commands

Made from the commands' own help by `python -m docs.commands`. `nabla-eval COMMAND --help` shows
every option.

| command | what it does, and an example |
|---|---|
"""


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


def page() -> str:
    """Return the page: a Markdown table of all commands."""
    lines = []
    for name, command in commands():
        cells = (text.replace("|", "\\|") for text in (summary(command), example(command)))
        lines.append("| `{}` | {}<br>`{}` |\n".format(name, *cells))
    return HEAD + "".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

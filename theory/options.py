"""The options of `python -m theory` and `nabla-eval theory`; cheap to import, for their help."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., None])
FOLDER = click.Path(file_okay=False, path_type=Path)


def options(command: Command) -> Command:
    """Give a click function the options that `theory.report.execute` takes."""
    for option in reversed(
        (
            click.option(
                "--check",
                "names",
                multiple=True,
                metavar="NAME",
                help="Only this claim, or this row as the table names it; may be repeated.",
            ),
            click.option(
                "--seed", type=int, default=0, show_default=True, help="Of every random draw."
            ),
            click.option(
                "--seeds",
                type=click.IntRange(min=1),
                default=1,
                show_default=True,
                help="Repeat the checks that draw at random with this many seeds, from --seed on.",
            ),
            click.option(
                "--device",
                default="cpu",
                show_default=True,
                help="Of the particles: cpu or cuda.",
            ),
            click.option("--plot", type=FOLDER, help="Also draw the figures, into this folder."),
            click.option(
                "--report",
                type=FOLDER,
                help="Also write README.md, checks.json and the figures into this folder.",
            ),
            click.option(
                "--json", "as_json", is_flag=True, help="Print JSON instead of the table."
            ),
        )
    ):
        command = option(command)
    return command

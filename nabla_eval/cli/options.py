"""Options that several commands take, and commands that were removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import click

from nabla_eval.errors import ConfigError

Decorator = Callable[[Any], Any]

FOLDER = click.Path(file_okay=False, path_type=Path)
COUNT = click.IntRange(min=1)


def option(name: str, help: str, *others: str, **settings: Any) -> Decorator:
    """Return a command's option, whose help shows the default that is given here."""
    plain = settings.get("default") is None or settings.get("is_flag")
    return click.option(name, *others, help=help, **{"show_default": not plain, **settings})


def options(*chosen: Decorator) -> Decorator:
    """Return options as one decorator, for several commands."""

    def decorate(command: Any) -> Any:
        for each in reversed(chosen):
            command = each(command)
        return command

    return decorate


def device() -> Decorator:
    """Return `--device`."""
    return option("--device", "cpu, cuda, cuda:1, ...  [default: CUDA if there is]")


def trust() -> Decorator:
    """Return the options about what a checkpoint may bring along."""
    return options(
        option("--trust-remote-code", "Run code that comes with a checkpoint.", is_flag=True),
        option("--allow-pickle", "Take weights that are not safetensors.", is_flag=True),
    )


def as_json(what: str = "the findings as JSON") -> Decorator:
    """Return `--json`."""
    return option("--json", f"Print {what}.", "as_json", is_flag=True)


def removed(name: str, why: str) -> click.Command:
    """Return a hidden command that raises `ConfigError` whatever its arguments."""

    def refuse(rest: tuple[str, ...]) -> NoReturn:
        raise ConfigError(f"`nabla-eval {name}` was removed: {why}")

    return click.Command(
        name.split()[-1],
        callback=refuse,
        params=[click.Argument(["rest"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
        hidden=True,
        add_help_option=False,
    )

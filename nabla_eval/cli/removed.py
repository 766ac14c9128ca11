"""Refuse commands and options that were removed, with the reason and what to do instead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import click

from nabla_eval.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def removed_options(names: Sequence[str], why: str) -> Callable[[F], F]:
    """Return a decorator of a command: it raises `ConfigError` where one of the options is used."""

    def refuse(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            raise ConfigError(f"{', '.join(names)} were removed: {why} Leave them out.")

    return click.option(*names, hidden=True, expose_value=False, callback=refuse)


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

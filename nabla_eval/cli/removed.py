"""Refuse commands that were removed, with the reason and what to do instead."""

from __future__ import annotations

from typing import NoReturn

import click

from nabla_eval.errors import ConfigError


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

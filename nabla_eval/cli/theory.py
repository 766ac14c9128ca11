"""`nabla-eval theory`: the checks of the package `theory`, which runs without nabla_eval too."""

from __future__ import annotations

from typing import Any

import click

from nabla_eval.errors import ConfigError
from theory.options import options


@click.command()
@options
@click.pass_context
def theory(context: click.Context, names: tuple[str, ...], **chosen: Any) -> None:
    """Check the paper's mathematics: the duality, its gradients, its baselines.

    Every claim is a row: what was expected, what was measured, the tolerance and where it comes
    from. The exit status is non-zero if one fails.

    Example: nabla-eval theory --check sign_error --plot figures
    """
    from theory.report import execute  # heavy: torch, scipy, sympy

    try:
        status = execute(names, **chosen)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    context.exit(status)

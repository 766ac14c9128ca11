"""`python -m theory`: every check, as a table; non-zero exit if one fails."""

from __future__ import annotations

from typing import Any

import click

from theory.options import options


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@options
def main(names: tuple[str, ...], **chosen: Any) -> None:
    """Check the mathematics behind ∇-Reasoner numerically and symbolically.

    Every claim is a row: what was expected, what was measured, the tolerance and where it comes
    from. The exit status is non-zero if one fails.

    Example: python -m theory --check sign_error --plot figures
    """
    from theory.report import execute  # heavy: torch, scipy, sympy

    try:
        status = execute(names, **chosen)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(status)


if __name__ == "__main__":
    main(prog_name="python -m theory")

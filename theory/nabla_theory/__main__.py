"""`python -m nabla_theory` and `nabla-eval theory`: every check, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--check",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this claim, or this row as the table names it; may be repeated.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of every random draw.")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Repeat the checks that draw at random with this many seeds, from --seed on.",
)
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    help="Device of the particles: cpu or cuda.",
)
@click.option("--plot", type=FOLDER, help="Also draw the figures, into this folder.")
@click.option(
    "--report",
    type=FOLDER,
    help="Also write README.md, checks.json and the figures into this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
def main(names: tuple[str, ...], **chosen: Any) -> None:
    """Check the paper's mathematics: the duality, its gradients, its baselines.

    Every claim is a row: what was expected, what was measured, the tolerance and where it comes
    from. The exit status is non-zero if one fails.

    Example: nabla-eval theory --check sign_error --plot figures
    """
    from nabla_theory.report import execute  # heavy: torch, scipy, sympy

    try:
        status = execute(names, **chosen)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(status)


if __name__ == "__main__":
    main(prog_name="python -m nabla_theory")

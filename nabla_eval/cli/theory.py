"""`nabla-eval theory`: the checks of the package `theory`, which runs without nabla_eval too."""

from __future__ import annotations

from pathlib import Path

import click

from nabla_eval.errors import ConfigError


@click.command()
@click.option(
    "--check", "names", multiple=True, metavar="NAME", help="Only this check; may be repeated."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of every random draw.")
@click.option("--device", default="cpu", show_default=True, help="Of the particles: cpu or cuda.")
@click.option(
    "--plot",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also draw the figures, into this folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of the table.")
@click.pass_context
def theory(
    context: click.Context,
    names: tuple[str, ...],
    seed: int,
    device: str,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Check the paper's mathematics: the duality, its gradients, its baselines.

    Every claim is a row: what was expected, what was measured, the tolerance and where it comes
    from. The exit status is non-zero if one fails.

    Example: nabla-eval theory --check sign_error --plot figures
    """
    from theory.report import execute  # heavy: torch, scipy, sympy

    try:
        status = execute(names, seed=seed, device=device, plot=plot, as_json=as_json)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    context.exit(status)

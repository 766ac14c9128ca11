"""`python -m theory`: every check, as a table; non-zero exit if one fails."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
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
def main(names: tuple[str, ...], seed: int, device: str, plot: Path | None, as_json: bool) -> None:
    """Check the mathematics behind ∇-Reasoner numerically and symbolically.

    Example: python -m theory --check sign_error --check kl_decay_gaussian
    """
    from theory.report import execute

    try:
        status = execute(names, seed=seed, device=device, plot=plot, as_json=as_json)
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(status)


if __name__ == "__main__":
    main(prog_name="python -m theory")

"""`nabla-eval embedded`: the pair that ships with the package and its card."""

from __future__ import annotations

from pathlib import Path

import click

from nabla_eval.cli.removed import removed
from nabla_eval.terminal import say

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group()
def embedded() -> None:
    """The tiny Countdown policy and reward model that ship with nabla_eval.

    Example: nabla-eval embedded card
    """


@embedded.command()
@click.argument("folder", type=FOLDER, required=False)
@click.option("--json", "as_json", is_flag=True, help="Print card.json itself.")
def card(folder: Path | None, as_json: bool) -> None:
    """Print the model card of the shipped pair, or of the pair in FOLDER.

    Example: nabla-eval embedded card
    """
    from rich.markdown import Markdown

    from nabla_eval.cli.screen import Screen
    from nabla_eval.embedded import WEIGHTS
    from nabla_eval.embedded.card import read_card, render_card
    from nabla_eval.reporting.tables import json_text

    content = read_card(folder or WEIGHTS)
    if as_json:
        say(json_text(content), end="")
    else:
        Screen().print(Markdown(render_card(content), hyperlinks=False))


@embedded.command()
@click.argument("folder", type=FOLDER, required=False)
def verify(folder: Path | None) -> None:
    """Check every byte of the shipped pair, or of the pair in FOLDER, against its card.

    Example: nabla-eval embedded verify
    """
    from nabla_eval.embedded import WEIGHTS
    from nabla_eval.embedded.card import read_card, verify_files
    from nabla_eval.errors import DataError

    folder = folder or WEIGHTS
    differences = verify_files(folder)
    if differences:
        raise DataError(
            f"{folder} is not the pair that its card describes: {'; '.join(differences)}. "
            "Install the package again, or train a pair with `python reports/embedded/train.py`."
        )
    files = read_card(folder)["files"]
    size = sum(entry["bytes"] for entry in files.values())
    say(f"{folder}: {len(files)} files, {size:,} bytes, all as the card says.")


embedded.add_command(
    removed(
        "embedded train",
        "the recipe is a study now. In a clone of the repository, `python "
        "reports/embedded/train.py` takes the same options and gives the same bytes.",
    )
)
embedded.add_command(
    removed(
        "embedded compare",
        "it measured reward models with aligned gradients, which are no more. `nabla-eval embedded "
        "card FOLDER` shows what each pair measures.",
    )
)

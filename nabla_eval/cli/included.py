"""`nabla-eval tasks`, `nabla-eval embedded`: the tasks and the pair that come with the package."""

from __future__ import annotations

from pathlib import Path

import click

from nabla_eval.cli.options import FOLDER, as_json, removed
from nabla_eval.terminal import say


@click.group()
def tasks() -> None:
    """The lm-eval tasks that come with nabla_eval.

    Example: nabla-eval tasks list
    """


@tasks.command()
def path() -> None:
    """Print the folder of the task files, for lm-eval's --include_path.

    \b
    Example:
      lm_eval --model nabla --tasks nabla_countdown --include_path "$(nabla-eval tasks path)"
    """
    from nabla_eval.harness.task_files import tasks_path

    say(tasks_path())


@tasks.command("list")
def list_() -> None:
    """List the tasks and groups, with the data set of each.

    Example: nabla-eval tasks list
    """
    from nabla_eval.cli.screen import Screen, table
    from nabla_eval.harness.task_files import list_tasks, tasks_path

    folder = tasks_path()
    rows = [
        (t.name, t.kind, str(t.file.relative_to(folder)), t.dataset) for t in list_tasks(folder)
    ]
    columns = ("name", "kind", "file", "data set")
    Screen().print(table(columns, rows, title=f"lm-eval tasks in {folder}"))


@click.group()
def embedded() -> None:
    """The tiny policies and reward models that ship with nabla_eval: countdown and words.

    Example: nabla-eval embedded card
    """


@embedded.command()
@click.argument("pair", type=FOLDER, default="countdown")
@as_json("card.json itself")
def card(pair: Path, as_json: bool) -> None:
    """Print the model card of a pair that ships, or of one in a folder.

    PAIR is countdown (the default), words or a folder.

    Example: nabla-eval embedded card words
    """
    from rich.markdown import Markdown

    from nabla_eval.cli.screen import Screen
    from nabla_eval.embedded.card import read_card, render_card
    from nabla_eval.reporting.tables import json_text

    content = read_card(_folder(pair))
    if as_json:
        say(json_text(content), end="")
    else:
        Screen().print(Markdown(render_card(content), hyperlinks=False))


@embedded.command()
@click.argument("pair", type=FOLDER, default="countdown")
def verify(pair: Path) -> None:
    """Check every byte of a pair that ships, or of one in a folder, against its card.

    PAIR is countdown (the default), words or a folder.

    Example: nabla-eval embedded verify words
    """
    from nabla_eval.embedded.card import read_card, verify_files
    from nabla_eval.errors import DataError

    folder = _folder(pair)
    differences = verify_files(folder)
    if differences:
        raise DataError(
            f"{folder} is not the pair that its card describes: {'; '.join(differences)}. "
            "Install the package again, or train a pair with `python reports/embedded/train.py`."
        )
    files = read_card(folder)["files"]
    size = sum(entry["bytes"] for entry in files.values())
    say(f"{folder}: {len(files)} files, {size:,} bytes, all as the card says.")


def _folder(pair: Path) -> Path:
    """Return the folder that is named: a pair that ships, where there is no such folder."""
    from nabla_eval.embedded import PAIRS
    from nabla_eval.errors import ConfigError, suggest

    if not pair.exists() and str(pair) not in PAIRS:
        raise ConfigError(
            f"{str(pair)!r} is neither a folder nor a pair that ships. {suggest(str(pair), PAIRS)}"
        )
    return pair if pair.exists() else PAIRS[str(pair)]


GONE = {
    "embedded train": "the recipe is a study now. In a clone of the repository, `python "
    "reports/embedded/train.py` takes the same options and gives the same bytes.",
    "embedded compare": "it measured reward models with aligned gradients, which are no more. "
    "`nabla-eval embedded card FOLDER` shows what each pair measures.",
}
for _name, _why in GONE.items():
    embedded.add_command(removed(_name, _why))

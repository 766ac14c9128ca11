"""`nabla-eval tasks`: where the lm-eval tasks are, and which there are."""

from __future__ import annotations

import click

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
    from nabla_eval.harness.tasks import tasks_path

    say(tasks_path())


@tasks.command("list")
def list_() -> None:
    """List the tasks and groups, with the data set of each.

    Example: nabla-eval tasks list
    """
    from rich.table import Table

    from nabla_eval.cli.screen import Screen
    from nabla_eval.harness.tasks import list_tasks, tasks_path

    folder = tasks_path()
    table = Table(title=f"lm-eval tasks in {folder}", title_justify="left")
    for heading in ("name", "kind", "file", "data set"):
        table.add_column(heading, overflow="fold")
    for task in list_tasks(folder):
        table.add_row(task.name, task.kind, str(task.file.relative_to(folder)), task.dataset)
    Screen().print(table)

"""`nabla-eval tasks` prints what lm-eval can be given."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from nabla_eval.cli.main import main
from nabla_eval.harness.tasks import list_tasks


def test_path_prints_the_folder_alone(root: Path) -> None:
    result = CliRunner().invoke(main, ["tasks", "path"])
    assert result.exit_code == 0, result.output
    assert Path(result.stdout.removesuffix("\n")) == root / "tasks"


def test_list_names_every_task() -> None:
    result = CliRunner().invoke(main, ["tasks", "list"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    names = [task.name for task in list_tasks()]
    assert "nabla_countdown" in names
    assert all(name in result.stdout for name in names)

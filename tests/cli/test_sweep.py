"""`nabla-eval sweep`: every cell in a folder of its own, what is done kept, failures survived."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from lm_eval.tasks.manager import TaskManager
from tiny_task import SIZE, TASK

from nabla_eval.cli.main import main
from nabla_eval.cli.screen import Screen
from nabla_eval.cli.sweep_progress import SweepProgress
from nabla_eval.runs.evaluate import Evaluator
from nabla_eval.runs.sweep import CellState
from nabla_eval.runs.sweep_file import Cell
from nabla_eval.traces import read
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("no_environment")
STUDY = f"""
tasks: {TASK}
seeds: [5, 6]
device: cpu
include_path: TASKS
grid: {{n: [3]}}
variants:
  - {{name: nabla, steps: 2}}
  - {{method: greedy}}
  - {{name: broken, method: best_of_n, pretrained: /nowhere, reward: /nowhere}}
"""
FOLDERS = [
    f"nabla_n3-{TASK}-s5", f"nabla_n3-{TASK}-s6", f"greedy-{TASK}-s5", f"broken_n3-{TASK}-s5",
    f"broken_n3-{TASK}-s6",
]  # fmt: skip


def sweep(file: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["sweep", str(file), *options])


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    file = tmp_path_factory.mktemp("study") / "study.yaml"
    file.write_text(STUDY.replace("TASKS", str(tiny_folder)))
    return file


@pytest.fixture(scope="module")
def finished(study_file: Path) -> tuple[Path, Result]:
    folder = study_file.parent / "out"
    return folder, sweep(study_file, "--output", str(folder))


def test_a_dry_run_lists_the_cells_and_touches_nothing(study_file: Path, tmp_path: Path) -> None:
    result = sweep(study_file, "--dry-run", "--output", str(tmp_path / "none"))
    assert result.exit_code == 0, result.output
    listed = [line.split() for line in result.stdout.splitlines() if TASK in line]
    assert listed == [["new", folder] for folder in FOLDERS]
    assert "5 cells: 5 new" in result.stdout and not (tmp_path / "none").exists()


@pytest.mark.parametrize("options", [["--dry-run"], ["--slurm", ""], ["--estimate"], []])
def test_a_task_that_there_is_not_is_refused_before_the_first_cell(
    study_file: Path, tmp_path: Path, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = TaskManager  # lm-eval's own tasks take 10 s to index

    def ours(include_defaults: bool, **given: Any) -> TaskManager:
        return real(include_defaults=False, **given)

    monkeypatch.setattr("lm_eval.tasks.manager.TaskManager", ours)
    file = tmp_path / "study.yaml"
    file.write_text(study_file.read_text().replace(TASK, f"[{TASK}, nabla_countdwn]"))
    result = sweep(file, *options, "--output", str(tmp_path / "out"))
    assert result.exit_code == 1 and not (tmp_path / "out").exists()
    assert "There is no task 'nabla_countdwn'. Did you mean nabla_countdown" in result.output


def test_cells_that_fail_hold_up_no_other_and_are_listed(finished: tuple[Path, Result]) -> None:
    folder, result = finished
    assert result.exit_code == 1, result.output
    states = {name: read_manifest(folder / name) for name in FOLDERS}
    assert [m["status"] for m in states.values() if m] == ["done"] * 3 + ["failed"] * 2
    for line in (f"[3/5] greedy  {TASK}  seed 5: ", "3 of 5 cells are done"):
        assert line in result.stdout
    assert result.stdout.count("/nowhere does not exist") == 4  # as they happen, and at the end
    study = json.loads((folder / "study.json").read_text())
    assert [cell["state"] for cell in study["cells"]] == ["done"] * 3 + ["failed"] * 2
    assert study["source"]["grid"] == {"n": [3]} and study["versions"]["torch"]


def test_each_cell_is_what_it_would_be_alone(
    finished: tuple[Path, Result], tiny_folder: Path, tmp_path: Path
) -> None:
    folder, _ = finished
    alone = tmp_path / "alone"
    arguments = ["--method", "greedy", "--seed", "5", "--device", "cpu", "--task", TASK]
    CliRunner().invoke(
        main, ["run", *arguments, "--include_path", str(tiny_folder), "--output", str(alone)]
    )
    (one, other) = (dict(read_manifest(path) or {}) for path in (alone, folder / FOLDERS[2]))
    same = ("tasks", "method", "config", "config_hash", "seed", "model_args", "options", "models")
    assert [one[name] for name in same] == [other[name] for name in same]
    assert plain(alone) == plain(folder / FOLDERS[2])


def plain(folder: Path) -> list[dict[str, Any]]:
    """Records without what depends on the clock."""
    return [{**record, "seconds": 0} for record in read(folder)]


def test_the_closing_table_joins_the_seeds(finished: tuple[Path, Result]) -> None:
    _, result = finished
    table = result.stdout[result.stdout.index("Run ") :]
    rows = {line.split()[0]: line for line in table.splitlines() if " ± " in line}
    assert f"{SIZE} × 2" in rows["nabla"] and "×" not in rows["greedy"]


def test_a_second_sitting_keeps_what_is_done(
    finished: tuple[Path, Result], study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    before = {name: (folder / name / "run.json").read_bytes() for name in FOLDERS[:3]}
    ran: list[str] = []

    def evaluate(_: Any, folder: Path, *__: Any, **___: Any) -> None:
        ran.append(folder.name)
        raise RuntimeError("[bold]still[/bold] broken")

    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    result = sweep(study_file, "--output", str(folder))
    assert result.exit_code == 1 and ran == FOLDERS[3:]
    assert result.stdout.count(": kept: ") == 3
    assert "RuntimeError('[bold]still[/bold] broken') (see the log)" in result.stdout
    assert "[bold]still" in (folder / "log.txt").read_text()
    assert {name: (folder / name / "run.json").read_bytes() for name in before} == before
    dry = sweep(study_file, "--output", str(folder), "--dry-run")
    assert "5 cells: 3 done, 2 unfinished" in dry.stdout


def test_changed_options_are_refused_and_replaced_on_demand(
    finished: tuple[Path, Result],
    study_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    changed = study_file.with_name("changed.yaml")
    changed.write_text(study_file.read_text().replace("steps: 2", "steps: 1"))
    changed.write_text(changed.read_text() + "  - {name: added, method: greedy}\n")
    monkeypatch.setattr(Evaluator, "evaluate", lambda *_, **__: 1 / 0)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused = sweep(changed, "--output", str(folder))
    one = sweep(changed, "--output", str(folder), "--cell", FOLDERS[1])
    for result, many in ((refused, "2 of 6 cells"), (one, "1 of 1 cells")):
        assert result.exit_code == 1 and f"Error: {many}" in result.stderr
        assert "steps: 2 there, 1 here" in result.stderr and "--replace" in result.stderr
        assert "cells are done" not in result.output
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    listed = sweep(changed, "--output", str(folder), "--dry-run").stdout.splitlines()
    told = [line.split()[1] for line in listed if "--replace runs such cells anew." in line]
    assert told == FOLDERS[:2]
    sweep(changed, "--output", str(folder), "--replace")
    replaced = read_manifest(folder / FOLDERS[0])
    assert replaced is not None and replaced["config"]["steps"] == 1
    assert not list((folder / FOLDERS[0]).glob("trace-rank*"))
    assert list((folder / FOLDERS[2]).glob("trace-rank*"))  # greedy has not changed


@pytest.mark.parametrize(
    ("files", "held"),
    [(["run.json"], "a run"), (["settings.json", "problems.jsonl"], "`nabla-eval probe` measured")],
)
def test_a_study_goes_into_no_folder_of_another_command(
    study_file: Path, tmp_path: Path, files: list[str], held: str
) -> None:
    for file in files:
        (tmp_path / file).write_text("{}")
    result = sweep(study_file, "--output", str(tmp_path), "--replace")
    assert result.exit_code == 1 and f"{held}. Choose another --output" in result.stderr
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == sorted(files)


def test_one_cell_alone_beside_another_sitting(
    finished: tuple[Path, Result], study_file: Path, tmp_path: Path
) -> None:
    """As the tasks of a job array run them: a sitting of all cells need not end first."""
    folder = tmp_path / "out"
    with sole_writer(folder, "study"):
        result = sweep(study_file, "--output", str(folder), "--cell", FOLDERS[2])
    assert result.exit_code == 0, result.output
    assert "[1/1] greedy" in result.stdout and "study.json" not in result.stdout
    assert not (folder / "study.json").exists()
    assert [path.name for path in folder.iterdir() if path.is_dir()] == [FOLDERS[2]]
    assert plain(folder / FOLDERS[2]) == plain(finished[0] / FOLDERS[2])
    unknown = sweep(study_file, "--output", str(folder), "--cell", "gredy-tiny_countdown-s5")
    assert unknown.exit_code == 1 and f"Did you mean {FOLDERS[2]}" in unknown.output


def test_an_array_holds_the_cells_that_are_not_done(
    finished: tuple[Path, Result], study_file: Path
) -> None:
    folder, _ = finished
    result = sweep(study_file, "--output", str(folder), "--slurm", "--gpus=1")
    assert result.exit_code == 0, result.output
    assert "2 of 5 cells are left" in result.stdout and f"sbatch {folder}/slurm.sh" in result.stdout
    script = (folder / "slurm.sh").read_text()
    assert "#SBATCH --array=0-1\n" in script and "#SBATCH --gpus=1\n" in script
    assert script.partition("cells=(\n")[2].split()[:3] == [*FOLDERS[3:], ")"]
    assert f" -m nabla_eval sweep {study_file} --output {folder} --cell " in script


def test_an_estimate_tries_each_configuration_once_and_keeps_nothing(
    finished: tuple[Path, Result], study_file: Path, tmp_path: Path
) -> None:
    result = sweep(study_file, "--output", str(tmp_path / "none"), "--estimate", "--jobs", "2")
    assert result.exit_code == 0, result.output
    cells = (line.strip("│ ").split("│") for line in result.stdout.splitlines() if TASK in line)
    rows = {row[0].strip(): [part.strip() for part in row[2:]] for row in cells if len(row) == 6}
    first = read(finished[0] / FOLDERS[2])[0]["ledger"]["model_calls"]
    assert rows["greedy"][:3] == ["1", str(SIZE), str(SIZE * first)]
    assert rows["nabla n=3"][:2] == ["2", str(SIZE)] and rows["broken n=3"][0::3] == ["2", "failed"]
    assert "3 of 5 cells: about " in result.stdout and "hours with --jobs 2" in result.stdout
    assert result.stdout.count("/nowhere does not exist") == 1
    assert not (tmp_path / "none").exists()


def test_ctrl_c_says_how_to_go_on(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Evaluator, "evaluate", Mock(side_effect=KeyboardInterrupt))
    result = sweep(study_file, "--output", str(tmp_path / "s"))
    assert result.exit_code == 130
    assert f"Stopped: 0 of 5 cells are done in {tmp_path / 's'}; the same command" in result.stderr
    assert json.loads((tmp_path / "s" / "study.json").read_text())["cells"]


def test_a_terminal_shows_the_cells_at_work_in_any_width() -> None:
    names = [f"nabla with a rather long name that says what it does n={n}" for n in (4, 16)]
    cells = [CellState(Cell(n, n, TASK, 1, evaluation=None)) for n in names]  # type: ignore[arg-type]
    cells[0].state, cells[1].state, cells[1].done, cells[1].total = "done", "running", 3, 8
    cells[1].began = time.monotonic() - 3.2  # a response a second
    for width in (80, 140):
        screen = Screen(io.StringIO())
        screen.width = width
        screen.print(SweepProgress(screen, cells, Path()).render())
        shown = screen.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, shown.splitlines())) <= width
        assert "1/2" in shown and "nabla with" in shown and "3/8" in shown and "0:05 left" in shown
        assert ("n=16" in shown) == (width > 80) and "n=4" not in shown


def test_cells_that_wait_are_listed_as_far_as_they_fit() -> None:
    cells = [CellState(Cell(f"n={n}", f"{n}", TASK, 1, evaluation=None)) for n in range(9)]  # type: ignore[arg-type]
    cells[6].state = "running"
    screen = Screen(io.StringIO())
    screen.width, screen.height = 80, 6
    screen.print(SweepProgress(screen, cells, Path()).render())
    shown = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert [line[-5:-3] for line in shown[1:4]] == [["loading", "n=6"], ["waiting", "n=0"],
                                                    ["waiting", "n=1"]]  # fmt: skip
    assert (
        shown[0][-3:] == ["0/9", "0:00", "cells"] and " ".join(shown[4]) == "and 6 more that wait"
    )

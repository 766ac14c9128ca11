"""examples/slurm.sh and examples/torchrun.sh: what they start, with stand-ins for the cluster."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

import nabla_eval


def sh(folder: Path, script: str, *words: str, **variables: str) -> str:
    """Run a script in a folder whose `bin` comes first on the path; returns what it printed."""
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", script, *words], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": path, **variables},
    )  # fmt: skip
    return done.stdout


def stand_in(file: Path) -> None:
    """Write a command that prints what it was called with."""
    file.parent.mkdir(exist_ok=True)
    file.write_text('#!/usr/bin/env bash\necho "${PROCESSES:-}" "$@"\n')
    file.chmod(0o755)


def test_torchrun_starts_a_module_that_can_be_started(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path / "bin" / "torchrun")
    script = str(root / "examples/torchrun.sh")
    said = sh(tmp_path, script, "results/a b", "--n", "8", PROCESSES="2").strip()
    assert said.endswith("--nproc-per-node 2 -m nabla_eval run --output results/a b --n 8")
    found = re.search(r"-m (\w+)", said)
    assert found is not None
    monkeypatch.setattr("sys.argv", ["x", "--version"])
    with pytest.raises(SystemExit) as left:
        runpy.run_module(found[1], run_name="__main__")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"nabla-eval, version {nabla_eval.__version__}\n"


@pytest.mark.parametrize(
    ("task", "folder"), [({"SLURM_ARRAY_TASK_ID": "3"}, "seed-3"), ({}, "seed-%a")]
)
def test_slurm_puts_the_number_of_an_array_task_into_the_options(
    root: Path, tmp_path: Path, task: dict[str, str], folder: str
) -> None:
    stand_in(tmp_path / "examples" / "torchrun.sh")
    shutil.copy(root / "examples/slurm.sh", tmp_path)
    asked = {"SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_GPUS_ON_NODE": "4", **task}
    number = task.get("SLURM_ARRAY_TASK_ID", "%a")
    said = sh(tmp_path, "slurm.sh", "out/seed-%a", "--seed", "%a", "--set", "a=b c", **asked)
    assert said == f"4 out/{folder} --seed {number} --set a=b c\n"

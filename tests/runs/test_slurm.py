"""The job array of a sweep, run by bash with stand-ins for Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from nabla_eval.errors import ConfigError
from nabla_eval.runs.slurm import array_script


def started(folder: Path, command: list[str], cells: list[str], task: int) -> subprocess.Popen:
    """Start an array task of a script."""
    script = array_script("a study\necho run; (", cells, command, "", folder)
    (folder / "slurm.sh").write_text(script)
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" > "{folder}/requeued"\n')
    (folder / "scontrol").chmod(0o755)
    slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": "77"}
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(folder / "slurm.sh")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, **slurm, "PATH": path},
    )  # fmt: skip


def test_an_array_task_runs_its_cell_and_has_its_exit_code(tmp_path: Path) -> None:
    task = started(tmp_path, ["sh", "-c", 'echo "$@"; exit 3', "run it"], ["a-s0", "b+c-s1"], 1)
    said, _ = task.communicate(timeout=30)
    assert (said, task.returncode) == ("--cell b+c-s1\n", 3)
    assert not (tmp_path / "requeued").exists()


def test_a_task_whose_time_is_up_is_stopped_and_queued_again(tmp_path: Path) -> None:
    work = "trap 'echo stopped; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    task = started(tmp_path, ["sh", "-c", work], ["a"], 0)
    assert task.stdout is not None and task.stdout.readline() == "up\n"
    task.send_signal(signal.SIGTERM)
    said, _ = task.communicate(timeout=30)
    assert (said, task.returncode) == ("stopped\n", 143)
    assert (tmp_path / "requeued").read_text() == "requeue 77\n"


def directives(options: str) -> list[str]:
    script = array_script("my study", list("abc"), ["x"], options, Path("/s t"))
    lines = script.splitlines()
    return [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")]


def test_options_of_sbatch_follow_ours() -> None:
    found = directives("--gpus=1 -t 04:00:00 --comment='a b'")
    assert found[:3] == [
        "'--job-name=my study'", "--array=0-2", "'--output=/s t/slurm-%a.log'",
    ]  # fmt: skip
    assert {"--requeue", "--signal=B:TERM@120", "--open-mode=append"} <= set(found)
    assert found[-3:] == ["--gpus=1", "-t 04:00:00", "'--comment=a b'"]


@pytest.mark.parametrize("options", ["gpus=1", "--comment='a", "--comment='a\nrm x'"])
def test_what_is_no_option_is_refused(options: str) -> None:
    with pytest.raises(ConfigError, match="--slurm"):
        directives(options)


def test_a_folder_is_taken_word_for_word_or_refused() -> None:
    script = array_script("s", ["a"], ["x"], "", Path("/100%done"))
    assert "--output=/100%%done/slurm-%a.log" in script  # sbatch reads %d
    with pytest.raises(ConfigError, match="--output"):
        array_script("s", ["a"], ["x"], "", Path("/s\nrm x"))

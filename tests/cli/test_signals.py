"""SIGTERM and SIGHUP end every long command: its status, its words, and no process left.

What each signal does to a block of code is in tests/harness/test_stopping.py.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from lm_eval_process import Launcher, launcher
from run_folders import record, write_run
from sittings import Sitting

pytestmark = pytest.mark.usefixtures("usual_signals")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """A process that has imported what commands need, and forks them."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    modules = ("trl", "nabla_training.run", "nabla_eval.reporting.overview")
    with launcher(log, *modules) as made:
        yield made


def stopped(sitting: Sitting, number: int) -> str:
    """What a command says of its stop, which is the last paragraph."""
    began = time.monotonic()
    sitting.process.send_signal(number)
    assert sitting.wait() == 128 + number, sitting.log.read_text()
    assert time.monotonic() - began < 30
    assert sitting.leaves_nobody(), sitting.alive()
    said = sitting.log.read_text()
    assert said.count("Stopped: ") == 1 and "Traceback" not in said, said
    return said.partition("Stopped: ")[2].strip()


def answers(folder: Path) -> bool:
    """Return whether some answers are there."""
    return sum(file.read_bytes().count(b"\n") for file in folder.rglob("trace-*.jsonl")) > 3


def claimed(folder: Path) -> bool:
    """Return whether a run has its folder and loads."""
    return (folder / "run.json").exists()


def checkpoints(folder: Path) -> bool:
    """Return whether a checkpoint is there."""
    return any(folder.glob("checkpoints/checkpoint-*/trainer_state.json"))


@pytest.mark.parametrize(
    ("command", "reached", "number", "words"),
    [
        ("run --n 4 --limit 400", answers, signal.SIGTERM,
         " of 400 answers are in {folder}; the same command goes on from there."),
        ("run", claimed, signal.SIGHUP, "the same command continues from {folder}."),
        ("demo", answers, signal.SIGHUP, " of 8 cells are done in {folder}; the same command"),
        ("train sft --size 64 --epochs 99 --save-every 2", checkpoints, signal.SIGTERM,
         "the same command with --resume goes on from checkpoint-"),
    ],
    ids=["run", "loading", "demo", "train"],
)  # fmt: skip
def test_a_command_says_what_is_kept(
    command: str, reached: Callable[[Path], bool], number: int, words: str,
    forks: Launcher, tmp_path: Path,
) -> None:  # fmt: skip
    folder = tmp_path / "out"
    options = [*command.split(), "--batch-size", "4", "--device", "cpu", "--output", str(folder)]
    new = None if reached is claimed else forks  # which takes longer to load
    sitting = Sitting(tmp_path / "log", *options, launcher=new)
    sitting.until(lambda: reached(folder))
    assert words.format(folder=folder) in stopped(sitting, number)


def reading(tmp_path: Path, forks: Launcher | None = None) -> Sitting:
    """`report accuracy` while it reads a trace that takes it many seconds."""
    folder = tmp_path / "run"
    write_run(folder, [record(0, method="best_of_n", config={"n": 4})], [1.0])
    (file,) = folder.glob("trace-rank*.jsonl")
    file.write_bytes(file.read_bytes() * 100_000)
    sitting = Sitting(tmp_path / "log", "report", "accuracy", str(folder), launcher=forks)
    opened = psutil.Process(sitting.process.pid).open_files
    sitting.until(lambda: any(each.path == str(file) for each in opened()))
    assert sitting.process.poll() is None, sitting.log.read_text()
    return sitting


def test_report(forks: Launcher, tmp_path: Path) -> None:
    said = stopped(reading(tmp_path, forks), signal.SIGTERM)
    assert said.startswith("the run folders are as they were; the same")


def test_nohup_stays_in_force(tmp_path: Path) -> None:
    """What was ignored before the command began, as nohup does it, stops nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        sitting = reading(tmp_path)
    finally:
        signal.signal(signal.SIGHUP, before)
    sitting.process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        sitting.wait(1)
    sitting.process.send_signal(signal.SIGKILL)
    sitting.wait()
    assert "Stopped" not in sitting.log.read_text()


def test_ctrl_c_and_a_signal_at_once_stop_once(forks: Launcher, tmp_path: Path) -> None:
    sitting = reading(tmp_path, forks)
    sitting.process.send_signal(signal.SIGINT)
    sitting.process.send_signal(signal.SIGTERM)
    assert sitting.wait() in (130, 128 + signal.SIGTERM)
    assert sitting.log.read_text().count("Stopped: ") == 1

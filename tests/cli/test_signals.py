"""SIGTERM and SIGHUP end every long command: its status, its words, and no process left."""

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

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])
SMALL = ("--batch-size", "4", "--device", "cpu")


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


def checkpoints(folder: Path) -> bool:
    """Return whether a checkpoint is there."""
    return any(folder.glob("checkpoints/checkpoint-*/trainer_state.json"))


# A command, what its folder holds when the signal comes, and what it then says.
COMMANDS: dict[str, tuple[str, Callable[[Path], bool], str]] = {
    "run": (
        "run --n 4 --limit 400",
        answers,
        " of 400 answers are in {folder}; the same command goes on from there.",
    ),
    "demo": ("demo", answers, " of 8 cells are done in {folder}; the same command"),
    "train": (
        "train sft --size 64 --epochs 99 --save-every 2",
        checkpoints,
        "the same command with --resume goes on from checkpoint-",
    ),
}


@SIGNALS
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_is_kept(
    name: str, number: int, forks: Launcher, tmp_path: Path
) -> None:
    command, reached, words = COMMANDS[name]
    folder = tmp_path / name
    options = [*command.split(), *SMALL, "--output", str(folder)]
    sitting = Sitting(tmp_path / "log", *options, launcher=forks)
    sitting.until(lambda: reached(folder))
    assert words.format(folder=folder) in stopped(sitting, number)


@SIGNALS
def test_run_while_it_loads(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sitting = Sitting(tmp_path / "log", "run", "--device", "cpu", "--output", str(folder))
    sitting.until((folder / "run.json").exists)
    assert stopped(sitting, number) == f"the same command continues from {folder}."


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


@SIGNALS
def test_report(number: int, forks: Launcher, tmp_path: Path) -> None:
    said = stopped(reading(tmp_path, forks), number)
    assert said.startswith("the run folders are as they were; the same")


@SIGNALS
def test_nohup_stays_in_force(number: int, tmp_path: Path) -> None:
    """What was ignored before the command began, as nohup does it, stops nothing."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        sitting = reading(tmp_path)
    finally:
        signal.signal(number, before)
    sitting.process.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        sitting.wait(1)
    sitting.process.send_signal(signal.SIGKILL)
    sitting.wait()
    assert "Stopped" not in sitting.log.read_text()


@SIGNALS
def test_ctrl_c_after_a_signal_and_a_signal_after_ctrl_c(
    number: int, forks: Launcher, tmp_path: Path
) -> None:
    sitting = reading(tmp_path, forks)
    sitting.process.send_signal(signal.SIGINT)
    sitting.process.send_signal(number)
    assert sitting.wait() in (130, 128 + number)
    assert sitting.log.read_text().count("Stopped: ") == 1

"""SIGTERM and SIGHUP end every long command: its status, its words, and no process left."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from run_folders import record, write_run
from sittings import Sitting

pytestmark = pytest.mark.usefixtures("usual_signals")

SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["term", "hup"])


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


def lines(folder: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in folder.rglob("trace-*.jsonl"))


@pytest.mark.slow
@SIGNALS
def test_run(number: int, tmp_path: Path) -> None:
    folder, options = tmp_path / "run", ["--n", "4", "--batch-size", "4", "--limit", "400"]
    sitting = Sitting(tmp_path / "log", "run", *options, "--device", "cpu", "--output", str(folder))
    sitting.until(lambda: lines(folder) > 3)
    answers = f" of 400 answers are in {folder}; the same command goes on from there."
    assert stopped(sitting, number).endswith(answers)


@SIGNALS
def test_run_while_it_loads(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sitting = Sitting(tmp_path / "log", "run", "--device", "cpu", "--output", str(folder))
    sitting.until((folder / "run.json").exists)
    assert stopped(sitting, number) == f"the same command continues from {folder}."


@pytest.mark.slow
@SIGNALS
def test_demo(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    sitting = Sitting(tmp_path / "log", "demo", "--device", "cpu", "--output", str(folder))
    sitting.until(lambda: lines(folder) > 3)
    assert f" of 8 cells are done in {folder}; the same command" in stopped(sitting, number)


@pytest.mark.slow
@SIGNALS
def test_train(number: int, tmp_path: Path) -> None:
    folder = tmp_path / "sft"
    sitting = Sitting(
        tmp_path / "log", "train", "sft", "--size", "64", "--batch-size", "4", "--epochs", "99",
        "--save-every", "2", "--device", "cpu", "--output", str(folder),
    )  # fmt: skip
    sitting.until(lambda: any(folder.glob("checkpoints/checkpoint-*/trainer_state.json")))
    said = stopped(sitting, number)
    assert said.startswith("the same command with --resume goes on from checkpoint-")


def reading(tmp_path: Path) -> Sitting:
    """`report accuracy` while it reads a trace that takes it many seconds."""
    folder = tmp_path / "run"
    write_run(folder, [record(0, method="best_of_n", config={"n": 4})], [1.0])
    (file,) = folder.glob("trace-rank*.jsonl")
    file.write_bytes(file.read_bytes() * 100_000)
    sitting = Sitting(tmp_path / "log", "report", "accuracy", str(folder))
    opened = psutil.Process(sitting.process.pid).open_files
    sitting.until(lambda: any(each.path == str(file) for each in opened()))
    assert sitting.process.poll() is None, sitting.log.read_text()
    return sitting


@SIGNALS
def test_report(number: int, tmp_path: Path) -> None:
    said = stopped(reading(tmp_path), number)
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
    sitting.process.kill()
    sitting.wait()
    assert "Stopped" not in sitting.log.read_text()


@SIGNALS
def test_ctrl_c_after_a_signal_and_a_signal_after_ctrl_c(number: int, tmp_path: Path) -> None:
    sitting = reading(tmp_path)
    sitting.process.send_signal(signal.SIGINT)
    sitting.process.send_signal(number)
    assert sitting.wait() in (130, 128 + number)
    assert sitting.log.read_text().count("Stopped: ") == 1

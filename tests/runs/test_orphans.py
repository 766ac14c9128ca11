"""A sweep that is stopped or killed at any moment leaves no process, and goes on when asked again.

`NABLA_MOMENTS=10` hits it ten times by each of three signals, as before a release; by default it
is killed once and stopped once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import warnings

import pytest
from lm_eval_process import launcher
from nearly import same
from sittings import Sitting

from nabla_eval.traces import done, read
from nabla_eval.traces.manifest import read_manifest

pytestmark = pytest.mark.usefixtures("usual_signals")

MOMENTS = int(os.environ.get("NABLA_MOMENTS", "0"))
SIGNALS = [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL] * MOMENTS
LIMIT, CELLS = 12, 3
STUDY = f"""
tasks: nabla_countdown
limit: {LIMIT}
batch_size: 4
device: cpu
variants:
  - {{name: nabla, method: nabla, n: 3, steps: 4, dtype: float64}}
  - {{name: twin, method: nabla, n: 3, dtype: float64, steps: 0}}
  - {{name: best, method: best_of_n, n: 3, dtype: float64}}
"""


def sweep(forks, tmp_path, folder, log, jobs=2):
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    words = ("sweep", str(file), "--output", str(folder), "--jobs", str(jobs))
    return Sitting(log, *words, launcher=forks)


def cells(folder):
    return sorted(path.parent for path in folder.glob("*/run.json"))


def answered(folder):
    """Answers in all cells; a torn last line, which a killed run may leave, is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(len(done(cell)) for cell in cells(folder))


def lines(folder):
    return sum(file.read_bytes().count(b"\n") for file in folder.glob("*/trace-*.jsonl"))


def result(folder):
    """Metrics and records of each cell, without what says when and how fast."""
    found = {}
    for cell in cells(folder):
        records = {record["id"]: {**record, "seconds": 0} for record in read(cell)}
        metrics = json.loads(max(cell.glob("results_*.json")).read_text())["results"]
        found[cell.name] = {"records": records, "metrics": metrics}
    return found


def hit(sitting, number, at, folder, group):
    """Send a signal when so many answers are there, or so many seconds after the workers began.

    To all processes of the group, as terminals and schedulers do it, or to the first one alone.
    """
    sitting.until(lambda: len(sitting.alive()) > 1, every=0.1)
    end = time.monotonic() + at
    if isinstance(at, int):
        sitting.until(lambda: lines(folder) >= at)
    else:
        sitting.until(lambda: time.monotonic() >= end)
    if group and sitting.process.poll() is None:
        os.killpg(sitting.process.pid, number)
    else:
        sitting.process.send_signal(number)


@pytest.fixture
def forks(tmp_path):
    """A process that has imported what a sweep needs, and forks it."""
    with launcher(tmp_path / "forks.txt") as made:
        yield made


@pytest.mark.slow
def test_a_sweep_hit_at_any_moment_leaves_no_process_and_goes_on(forks, tmp_path):
    calm = tmp_path / "calm"  # in one process
    began = time.monotonic()
    assert sweep(forks, tmp_path, calm, tmp_path / "calm.txt", jobs=1).wait() == 0
    seconds, total = time.monotonic() - began, CELLS * LIMIT
    expected = result(calm)
    assert len(expected) == CELLS
    draw = random.Random(MOMENTS)
    hits = list(SIGNALS or [signal.SIGTERM, signal.SIGKILL])
    draw.shuffle(hits)
    sittings, at_work = 0, 0
    while hits:
        folder = tmp_path / f"chain{sittings}"
        sitting = sweep(forks, tmp_path, folder, tmp_path / "log.txt")
        while hits and answered(folder) < total - 8:
            # By turns among the answers and at any time, most of which is spent loading.
            before, sittings, number = answered(folder), sittings + 1, hits.pop()
            goal = draw.randint(before + 1, before + (total - before) // 2)
            at = goal if sittings % 3 else draw.uniform(0, seconds / 2)
            group = number != signal.SIGKILL and draw.random() < 0.5
            hit(sitting, number, at, folder, group)
            following = sweep(forks, tmp_path, folder, tmp_path / f"log{sittings}.txt")  # at once
            status, said = sitting.wait(), sitting.log.read_text()
            assert status in (0, -9 if number == signal.SIGKILL else 128 + number), said
            assert sitting.leaves_nobody(), sitting.alive()
            if status == 0:
                hits.append(number)  # it came too late
            elif number != signal.SIGKILL:
                assert f"of {CELLS} cells are done in {folder}; the same command" in said
            at_work += before < answered(folder) < total
            for cell in cells(folder):
                manifest = read_manifest(cell)
                assert manifest is not None and manifest["status"] != "failed", manifest
            sitting = following
        assert sitting.wait() == 0, sitting.log.read_text()
        assert sitting.leaves_nobody()
        assert f"{CELLS} of {CELLS} cells are done" in sitting.log.read_text()
        assert same(result(folder), expected)
    assert at_work >= max(1, MOMENTS), "too few signals hit while answers were being written"

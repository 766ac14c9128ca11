"""Commands on large runs: peak memory of a process of its own, and the size of what is written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from large_runs import write_large_run

SIZES = (100, 1300)
RESUME = "import sys; from nabla_eval.traces import done, restore; found = done(sys.argv[1]); " + (
    "print(sum(bool(restore(found[name]).text) for name in found))"
)
# Arguments, and the bytes by which a process may grow for each problem of 90 KB.
COMMANDS = {
    "report all": (["report", "all", "{run}", "--output", "{out}"], 30_000),
    "trace list": (["trace", "list", "{run}", "--limit", "5"], 20_000),
    "trace show": (["trace", "show", "{run}", "toy/99/0"], 6_000),
    "trace html": (["trace", "html", "{run}", "-o", "{out}"], 12_000),
    "resume": ([], 2_000),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_large_run(root / f"r{size}", size) for size in SIZES]


def peak(arguments: list[str]) -> int:
    """Bytes of memory that a process took at most."""
    child = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("name", COMMANDS)
def test_memory_follows_what_is_shown_and_not_the_traces(
    runs: list[Path], tmp_path: Path, name: str
) -> None:
    words, most = COMMANDS[name]
    peaks = []
    for run in runs:
        filled = [word.format(run=run, out=tmp_path / run.name) for word in words]
        command = ["-m", "nabla_eval.cli.main", *filled] if words else ["-c", RESUME, str(run)]
        peaks.append(peak([sys.executable, *command]))
    assert peaks[1] - peaks[0] < most * (SIZES[1] - SIZES[0])
    if name == "trace html":
        sizes = [(tmp_path / run.name / f"{run.name}.html").stat().st_size for run in runs]
        assert sizes[1] - sizes[0] < 600 * (SIZES[1] - SIZES[0]) and sizes[1] < 1_000_000
        parts = list((tmp_path / runs[1].name / f"{runs[1].name}-problems").iterdir())
        assert len(parts) > 10 and max(part.stat().st_size for part in parts) < 5_000_000

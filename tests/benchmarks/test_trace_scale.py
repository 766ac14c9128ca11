"""What a further problem of 90 KB costs each command, by `trace_scale.py` on small runs."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from large_runs import write_large_run

from tests.benchmarks.trace_scale import cost

SIZES = (50, 450)
# What a process may grow by for each problem: bytes of memory, and CPU seconds in units of what
# `json` takes to read the problem's line here and now.
COMMANDS = {
    "report all": (40_000, 12),
    "trace list": (30_000, 1),
    "trace show": (30_000, 1),
    "trace html": (25_000, 12),
    "resume": (25_000, 1),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_large_run(root / f"r{size}", size) for size in SIZES]


def unit(run: Path) -> float:
    """CPU seconds in which `json` reads a line of a run."""
    lines = (run / "trace-rank0.jsonl").read_bytes().splitlines()
    start = time.process_time()
    for line in lines:
        json.loads(line)
    return (time.process_time() - start) / len(lines)


@pytest.mark.parametrize("name", COMMANDS)
def test_costs_follow_what_is_shown_and_not_the_traces(
    runs: list[Path], tmp_path: Path, name: str
) -> None:
    small, large = (cost(name, run, tmp_path / run.name) for run in runs)
    more, second = SIZES[1] - SIZES[0], unit(runs[1])
    memory, units = COMMANDS[name]
    assert large.bytes - small.bytes < memory * more
    assert large.cpu_seconds - small.cpu_seconds < units * second * more
    if name == "trace html":
        sizes = [(tmp_path / run.name / f"{run.name}.html").stat().st_size for run in runs]
        assert sizes[1] - sizes[0] < 600 * more and sizes[1] < 1_000_000
        parts = list((tmp_path / runs[1].name / f"{runs[1].name}-problems").iterdir())
        assert len(parts) > 3 and max(part.stat().st_size for part in parts) < 5_000_000

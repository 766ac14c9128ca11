"""What a further problem of 90 KB costs each command, by `trace_scale.py` on small runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from large_runs import write_large_run

from tests.benchmarks.trace_scale import cost

SIZES = (50, 650)
# Bytes of memory and CPU seconds by which a process may grow for each problem.
COMMANDS = {
    "report all": (40_000, 0.010),
    "trace list": (30_000, 0.003),
    "trace show": (30_000, 0.003),
    "trace html": (25_000, 0.060),
    "resume": (25_000, 0.003),
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_large_run(root / f"r{size}", size) for size in SIZES]


@pytest.mark.parametrize("name", COMMANDS)
def test_costs_follow_what_is_shown_and_not_the_traces(
    runs: list[Path], tmp_path: Path, name: str
) -> None:
    small, large = (cost(name, run, tmp_path / run.name) for run in runs)
    more = SIZES[1] - SIZES[0]
    memory, seconds = COMMANDS[name]
    assert large.bytes - small.bytes < memory * more
    assert large.cpu_seconds - small.cpu_seconds < seconds * more
    if name == "trace html":
        sizes = [(tmp_path / run.name / f"{run.name}.html").stat().st_size for run in runs]
        assert sizes[1] - sizes[0] < 600 * more and sizes[1] < 1_000_000
        parts = list((tmp_path / runs[1].name / f"{runs[1].name}-problems").iterdir())
        assert len(parts) > 5 and max(part.stat().st_size for part in parts) < 5_000_000

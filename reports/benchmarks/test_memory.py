"""How the memory of one response's gradient grows with its length and the vocabulary (figure h)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from clock import Clock

pytestmark = [
    pytest.mark.benchmark(group="memory"),
    pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc"),
]


@pytest.mark.parametrize("what", ["refine", "norms"])
def test_memory_of_a_gradient(clock: Clock, what: str) -> None:
    """(h) Peaks of fresh processes; the models are so slim that rows over V dominate."""
    lengths = clock.of((128, 512, 2048), (8,))
    vocabularies = clock.of((8192, 32_768, 152_064), (64,))
    script = Path(__file__).with_name("peak_memory.py")
    found: dict[str, list[int]] = {}

    def run() -> None:
        """Measure every size; the script's failure is the test's."""
        for words in vocabularies:
            found[str(words)] = [
                int(
                    subprocess.run(
                        [sys.executable, script, what, str(length), str(words)],
                        check=True,
                        capture_output=True,
                        text=True,
                    ).stdout
                )
                for length in lengths
            ]

    spent = clock.turns(run, rounds=1, warm=0)
    if spent:
        clock.note("h", what=what, lengths=lengths, peaks=found)

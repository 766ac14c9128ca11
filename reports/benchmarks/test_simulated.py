"""What a vLLM server would gain: simulated seconds of its three uses (figure i)."""

from __future__ import annotations

from typing import Any

import pytest
from clock import Clock, embedded_problems
from simulated import PLACES, POLICY, STRETCH, seconds, step

from nabla_eval.models.pair import Pair


@pytest.mark.parametrize(
    ("method", "width", "options"),
    [("nabla", 32, {}), ("nabla", 32, {"lookahead": "auto"}), ("best_of_n", 4, {})],
    ids=["nabla", "nabla, lookahead", "best-of-8"],
)
def test_what_a_server_gains_that_writes_meanwhile(
    clock: Clock, embedded: Pair, method: str, width: int, options: dict[str, Any]
) -> None:
    """(i) The same requests and results, on another clock."""
    problems = embedded_problems(embedded, clock.of(32, 4))
    found: dict[str, float] = {}

    def run() -> None:
        """Simulate the three."""
        for place in PLACES:
            found[place] = seconds(
                embedded, problems, place, method, width, n=clock.of(8, 3), **options
            )

    clock.turns(run, rounds=1, warm=0)
    # No card writes a response in fewer than its own steps; on a few problems overlapping may lose.
    assert min(found.values()) > STRETCH * 10 * step(POLICY, 1)
    if clock.timed:
        assert found["overlapped"] <= found["in turns"]
    clock.note("i", method=method, width=width, options=options, seconds=found)

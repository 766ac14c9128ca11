"""A sweep, which keeps its models, asks them what a run asks that loads its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nabla_eval.harness.evaluation import Bench, Settings
from nabla_eval.harness.lm import NablaLM

STEPS = {"step": "semicolon"}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(Settings(device="cpu"), ["nabla_countdown"])


@pytest.mark.parametrize(
    ("options", "rewarded"),
    [
        ({"method": "beam", "evaluator": "likelihood", **STEPS}, False),
        ({"method": "beam", "evaluator": "self_certainty", **STEPS}, False),
        ({"method": "beam", "evaluator": "auto", **STEPS}, True),
        ({"method": "best_of_n", "evaluator": "majority"}, False),
        ({"method": "best_of_n", "evaluator": "self_certainty"}, False),
        ({"method": "best_of_n"}, True),
        ({"method": "weighted_best_of_n", "evaluator": "self_certainty"}, False),
        ({"method": "rap", "evaluator": "likelihood", **STEPS}, False),
        ({"method": "rap", "evaluator": "weighted", "reward_weight": 0, **STEPS}, False),
        ({"method": "greedy"}, False),
        ({"method": "self_consistency"}, False),
        ({"method": "nabla", "n": 2, "steps": 0}, True),
    ],
)
def test_a_sweeps_traces_go_on_in_a_run(
    bench: Bench, ask: Callable[..., Any], tmp_path: Path, options: dict[str, Any], rewarded: bool
) -> None:
    options = {"seed": 0, **options}
    swept = bench._model(options, tmp_path, None)
    alone = NablaLM(device="cpu", batch_size=32, trace_dir=str(tmp_path), **options)
    assert swept.models == alone.models
    assert ("reward" in alone.models) == rewarded == (swept.pair.reward is not None)
    first = swept.generate_until([ask()], disable_tqdm=True)
    assert alone.generate_until([ask()], disable_tqdm=True) == first  # of the same trace
    (trace,) = tmp_path.glob("trace-*")
    assert len(trace.read_text(encoding="utf-8").splitlines()) == 1

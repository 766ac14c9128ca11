"""Drawn guided programs, side by side in the engine and each alone in `experimental/naive.py`."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from typing import Any

import pytest
from engine_programs import Program, pair, together
from hypothesis import given, settings
from hypothesis import strategies as st
from run_programs import machines, nothing_left, plain, run_together

from nabla_eval.experimental import naive
from nabla_eval.methods.registry import configure


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Nothing that is there before these tests, or between two rounds, is looked at again."""
    yield
    gc.unfreeze()


GUIDED: dict[str, dict[str, list[Any]]] = {
    "prefix_gradient": {"guidance": ["eager", "lazy"], "linearisation": ["soft", "hard"],
                        "beta": [3.0, -3.0], "min_probability": [0.0, 0.05]},
    "sequential_verify": {"good_score": [-0.5, 1.0], "tries": [1, 3]},
    "exact_top_k": {"candidates": [1, 4], "confidence": [0.5, 1.0]},
    "locate_repair": {"chooser": ["prefix_gradient", "policy", "exact_top_k"], "n": [1, 4],
                      "temperature": [0.0, 1.0]},
}  # fmt: skip


@st.composite
def guided(draw: st.DrawFn, kind: str) -> Program:
    """A guided method in the place of another, for a problem with room for a token."""
    program = draw(together(kind, 1).filter(lambda one: one[0].problem.max_new_tokens > 0))[0]
    method = draw(st.sampled_from([m for m in GUIDED if kind != "outcome" or m != "locate_repair"]))
    options = {name: draw(st.sampled_from(values)) for name, values in GUIDED[method].items()}
    problem = program.problem
    if method == "locate_repair":  # `naive.rollout` knows no stop strings
        problem = dataclasses.replace(problem, stop=())
    return Program(method, configure(method, options), problem)


@pytest.mark.parametrize("kind", ["process", "outcome", "gaps"])
def test_guided_programs(kind: str) -> None:
    own = pair(kind)

    @settings(plain, max_examples=2)
    @given(programs=st.lists(guided(kind), min_size=20, max_size=20), machine=machines)
    def check(programs: list[Program], machine: dict[str, int]) -> None:
        with nothing_left():
            outcomes, held = run_together(programs, own, machine)
        assert held <= machine["past"]
        for program, outcome in zip(programs, outcomes, strict=True):
            written = naive.guided
            if program.method == "locate_repair":
                written = naive.locate_repair
            specified = written(own, program.problem, program.config)
            assert outcome.tokens == specified.tokens, program
            assert outcome.stop == specified.stop and outcome.text == specified.text, program
            for name in ("generated_tokens", "prefix_scorings", "prefix_gradients", "scorings"):
                spent = getattr(outcome.ledger, name)
                assert spent == getattr(specified.ledger, name), (program, name)

    check()

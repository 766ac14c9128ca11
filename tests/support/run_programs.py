"""Runs drawn programs side by side in the engine, and sees to it that nothing of them is left."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from engine_programs import Program
from hypothesis import Phase, settings
from hypothesis import strategies as st

from nabla_eval.engine.batch_cache import PaddedCache
from nabla_eval.engine.drive import drive
from nabla_eval.engine.execute import Executor, Session
from nabla_eval.engine.prefix_cache import CachedPrefix
from nabla_eval.engine.response import Response
from nabla_eval.engine.rollout import Decoder
from nabla_eval.methods.registry import start
from nabla_eval.models.pair import Pair
from nabla_eval.models.prefix import RowCache
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Method, Trajectory

SIZE = 40
UNBOUNDED = 10**9
ENGINE = (
    Session,
    Decoder,
    PaddedCache,
    RowCache,
    CachedPrefix,
    Response,
    Trajectory,
    torch.Tensor,
)

plain = settings(phases=[Phase.generate])
machines = st.fixed_dictionaries(
    {
        "width": st.sampled_from([2, SIZE, SIZE, SIZE]),
        "budget": st.sampled_from([1, 40, UNBOUNDED, UNBOUNDED, UNBOUNDED]),
        "past": st.sampled_from([0, 30, UNBOUNDED, UNBOUNDED]),
    }
)


@contextmanager
def nothing_left() -> Iterator[None]:
    """Fail where a block leaves tensors, rows or caches behind."""
    gc.collect()
    gc.freeze()
    yield
    gc.collect()
    gc.collect()  # what finalisers of the first round let go of
    left = [type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, ENGINE)]
    assert left == []


def engine(own: Pair, machine: dict[str, int]) -> Executor:
    budget, past = machine["budget"], machine["past"]
    return Executor(own, max_batch_tokens=budget, max_cached_tokens=past)


def methods_of(programs: Sequence[Program]) -> Iterator[Method]:
    return (start(program.problem, program.config) for program in programs)


def run_together(
    programs: Sequence[Program], own: Pair, machine: dict[str, int]
) -> tuple[list[Outcome], int]:
    """Outcomes, and the most tokens of prefixes that were cached."""
    executor, held, outcomes = engine(own, machine), [0], {}
    for index, end in drive(methods_of(programs), executor, machine["width"]):
        held.append(executor.caches.policy.tokens)
        assert isinstance(end, Outcome), end
        outcomes[index] = end
    return [outcomes[index] for index in range(len(programs))], max(held)

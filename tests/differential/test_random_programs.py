"""A thousand drawn programs: side by side in the engine, and each alone from naive pieces.

Whatever the batch, outcome and ledger are those of the program alone, and afterwards the engine
holds nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from engine_programs import (
    KINDS,
    SIZE,
    UNBOUNDED,
    Program,
    engine,
    machines,
    methods,
    methods_of,
    nothing_left,
    pair,
    plain,
    run_together,
    together,
)
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from plain_engine import Plain

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.drive import drive, drive_all
from nabla_eval.errors import Fault, RewardError
from nabla_eval.models.pair import Pair
from nabla_eval.options import change
from nabla_eval.outcome import Candidate, Outcome

ROUNDS = {"process": 7, "outcome": 7, "gaps": 7, "chat": 4}  # 1,000 programs


@pytest.fixture(scope="module", autouse=True)
def quick_collections() -> Iterator[None]:
    """Nothing that is there before these tests, or between two rounds, is looked at again."""
    yield
    gc.unfreeze()


def same(ours: Any, theirs: Any) -> bool:
    """Equality, but for the last digits of floats."""
    if dataclasses.is_dataclass(ours):
        names = [f.name for f in dataclasses.fields(ours) if f.compare]
        return type(ours) is type(theirs) and all(
            same(getattr(ours, name), getattr(theirs, name)) for name in names
        )
    if isinstance(ours, tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float):
        return ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    return ours == theirs


def judged(outcome: Outcome, name: str) -> Any:
    """A field; of candidates that tie but for the last digits, as of what ties.

    Tokens that the reward model lacks look alike to it, so that other tokens may well tie.
    """
    value = getattr(outcome, name)
    if name != "candidates":
        return value
    return tuple(
        dataclasses.replace(c, verdict="tie")
        if c.verdict == "rejected" and abs(c.new_reward - _bar(c)) < 1e-9
        else c
        for c in value
    )


def _bar(candidate: Candidate) -> float:
    bar = candidate.compared_reward
    return candidate.old_reward if bar is None else bar


def alone(program: Program, own: Pair, machine: dict[str, int]) -> Outcome:
    plain = Plain(own, keeps=machine["past"] > 0)
    return drive_all(methods_of([program]), plain)[0]


def calm(program: Program) -> Program:
    """Without gradients, which are no better than the reward where that is no number."""
    if program.method != "nabla":
        return program
    config = change(program.config, steps=0, gradient_threshold=0.0)
    return dataclasses.replace(program, config=config)


def without_scores_above(limit: float, own: Pair) -> Pair:
    def head(states: torch.Tensor) -> torch.Tensor:
        scores = own.judge.head(states)
        return scores.masked_fill(scores > limit, torch.nan)

    return dataclasses.replace(own, reward=dataclasses.replace(own.judge, head=head))


class BrokenOffError(Exception):
    """An error that no item is to blame for."""


@contextmanager
def breaks_off(own: Pair, passes: int, judge: bool) -> Iterator[None]:
    """Raise `BrokenOffError` at the pass of that number through one of the models."""
    left = iter(range(passes - 1, -1, -1))

    def count(*_: object) -> None:
        if next(left, 1) == 0:
            raise BrokenOffError

    handle = (own.judge if judge else own.policy).base.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


READING = ("prefills", "prefill_tokens", "flops")


def check_ledger(ours: Ledger, theirs: Ledger, machine: dict[str, int]) -> None:
    """Equal field by field, where the memory allows; where it does not, more is read again."""
    if machine["budget"] == UNBOUNDED and machine["past"] in (0, UNBOUNDED):
        assert ours == theirs
        return
    for name, counted in ours.as_dict().items():
        if name in READING:
            assert counted >= getattr(theirs, name), name
        else:
            assert counted == theirs.as_dict()[name], name


# A failure names its program; to shrink forty at a time would take minutes.


def features(program: Program, outcome: Outcome) -> Iterator[str]:
    """What a program came to, of that which must occur."""
    yield program.method
    yield f"stop: {outcome.stop}"
    yield f"ended: {outcome.ended}"
    yield from (f"verdict: {candidate.verdict}" for candidate in outcome.candidates)
    if not outcome.text:
        yield "empty"
    if len(outcome.tokens) == 1:
        yield "one token"
    if len(program.problem.prompt) > 15:
        yield "at the context limit"
    if outcome.ledger.flips:
        yield "flips"
    if outcome.ledger.speculative_tokens:
        yield "speculative"


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_programs(kind: str) -> None:
    own, seen = pair(kind), Counter[str]()

    @settings(plain, max_examples=ROUNDS[kind])
    @given(programs=together(kind, SIZE), machine=machines)
    def check(programs: tuple[Program, ...], machine: dict[str, int]) -> None:
        with nothing_left():
            outcomes, held = run_together(programs, own, machine)
        assert held <= machine["past"]
        for program, outcome in zip(programs, outcomes, strict=True):
            seen.update(features(program, outcome))
            specified = alone(program, own, machine)
            for field in dataclasses.fields(outcome):
                if field.name != "ledger":
                    ours, theirs = judged(outcome, field.name), judged(specified, field.name)
                    assert same(ours, theirs), (program, field.name, ours, theirs)
            check_ledger(outcome.ledger, specified.ledger, machine)

    wanted = {*methods(kind), "empty", "one token", "at the context limit"}
    wanted |= {"stop: eos", "stop: length", "stop: step", "verdict: accepted", "verdict: rejected"}
    wanted |= {f"ended: {why}" for why in ("done", "budget", "max_calls", "malformed")}
    if kind != "chat":  # whose hundred tokens hardly ever write a stop string
        wanted |= {"stop: stop", "flips"}
    check()
    assert sum(seen[method] for method in methods(kind)) == ROUNDS[kind] * SIZE
    # Hypothesis draws constants of whatever modules are loaded, so what is rare may be missing.
    for more in range(3):
        if wanted <= seen.keys():
            break
        seed(more)(check)()
    assert wanted - seen.keys() == set()


@settings(plain, max_examples=3)
@given(
    programs=together("process", SIZE), machine=machines, limit=st.sampled_from([-0.5, 0.0, 0.5])
)
def test_a_reward_that_is_no_number_fails_its_own_program(
    programs: tuple[Program, ...], machine: dict[str, int], limit: float
) -> None:
    programs = tuple(map(calm, programs))
    broken = without_scores_above(limit, pair("process"))
    with nothing_left():
        ends = dict(drive(methods_of(programs), engine(broken, machine), machine["width"]))
    for number, program in enumerate(programs):
        end = ends[number]
        try:
            specified = alone(program, broken, machine)
        except RewardError:
            assert isinstance(end, Fault) and isinstance(end.error, RewardError)
            continue
        assert isinstance(end, Outcome) and end.tokens == specified.tokens
        check_ledger(end.ledger, specified.ledger, machine)


@settings(plain, max_examples=3)
@given(
    programs=together("gaps", SIZE),
    machine=machines,
    passes=st.integers(1, 40),
    judge=st.booleans(),
)
def test_a_run_that_is_broken_off_holds_nothing_and_can_be_run_again(
    programs: tuple[Program, ...], machine: dict[str, int], passes: int, judge: bool
) -> None:
    own = pair("gaps")
    executor = engine(own, machine)
    with nothing_left(), breaks_off(own, passes, judge), contextlib.suppress(BrokenOffError):
        drive_all(methods_of(programs), executor, machine["width"])
    assert executor.caches.policy.tokens == 0
    again = drive_all(methods_of(programs), executor, machine["width"])
    undisturbed = drive_all(methods_of(programs), engine(own, machine), machine["width"])
    assert [outcome.ledger for outcome in again] == [outcome.ledger for outcome in undisturbed]
    assert [outcome.tokens for outcome in again] == [outcome.tokens for outcome in undisturbed]

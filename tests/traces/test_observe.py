"""Watching a method changes nothing about it, and keeps what its results say about tokens."""

from __future__ import annotations

from typing import Any

import pytest

from nabla_eval.options import DTO, Sampling
from nabla_eval.outcome import Draft, Outcome
from nabla_eval.protocol import (
    Differentiate,
    Generate,
    GradientNorms,
    Problem,
    TemplateAffixes,
    Trajectory,
)
from nabla_eval.randomness import Key
from nabla_eval.traces.observe import Observed

KEY = Key.root(0)
PROBLEM = Problem(
    key=KEY,
    prompt=(1,),
    frame=TemplateAffixes((), ()),
    max_new_tokens=4,
    stop=(),
    text="p",
    id="t/0/0",
)


def trajectory(*tokens):
    entropy = tuple(0.123456 * token for token in tokens)
    top = (0.5,) * len(tokens)
    return Trajectory(tokens, "text", len(tokens), "eos", tokens, entropy, top, KEY)


def outcome(*tokens, first=(7, 8)):
    return Outcome("text", tokens, "eos", drafts=(Draft(0, first, "text", "eos"),))


def method(answer):
    (drawn,) = yield [Generate(PROBLEM, KEY, Sampling())]
    (gradient,) = yield [Differentiate(PROBLEM, drawn, 1, DTO())]
    assert gradient.norms == {1: 3.0}
    yield [Generate(PROBLEM, KEY, Sampling(), prefix=drawn, keep=1, token=9)]
    return answer


RESULTS: list[list[Any]] = [
    [trajectory(7, 8)], [GradientNorms({1: 3.0})], [trajectory(7, 9)],
]  # fmt: skip


def driven(watched):
    next(watched)
    with pytest.raises(StopIteration) as end:
        for results in RESULTS:
            watched.send(results)
    found: Outcome = end.value.value
    return found


def test_the_outcome_and_the_results_pass_through():
    seen = Observed()
    answer = outcome(7, 9)
    assert driven(seen.watch(method(answer))) is answer
    profiles = seen.profiles(answer, lambda token: f"<{token}>")
    assert profiles["first"] == {
        "tokens": ["<7>", "<8>"], "entropy": [0.8642, 0.9876], "gradient_norms": {"1": 3.0},
    }  # fmt: skip
    assert profiles["final"]["tokens"] == ["<7>", "<9>"]
    assert profiles["final"]["gradient_norms"] == {}


def test_an_answer_that_is_the_draft_is_kept_once():
    seen = Observed()
    answer = outcome(7, 8)
    driven(seen.watch(method(answer)))
    assert list(seen.profiles(answer, str)) == ["first"]


def test_what_was_never_seen_has_no_profile():
    assert Observed().profiles(outcome(1), str) == {}


def test_an_error_that_the_driver_throws_in_is_the_methods_to_answer():
    def careful():
        try:
            yield [Generate(PROBLEM, KEY, Sampling())]
        except ValueError:
            yield [Generate(PROBLEM, KEY, Sampling())]
        return outcome(7, 8)

    watched = Observed().watch(careful())
    next(watched)
    assert len(watched.throw(ValueError("too long"))) == 1
    with pytest.raises(StopIteration) as end:
        watched.send([trajectory(7, 8)])
    assert end.value.value == outcome(7, 8)


def test_closing_closes_the_method():
    closed: list[bool] = []

    def careful():
        try:
            yield [Generate(PROBLEM, KEY, Sampling())]
        finally:
            closed.append(True)
        return outcome(1)

    watched = Observed().watch(careful())
    next(watched)
    watched.close()
    assert closed == [True]

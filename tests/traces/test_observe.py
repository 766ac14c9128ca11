"""Watching a method changes nothing about it, and keeps what its results say about tokens."""

from __future__ import annotations

import pytest
from trace_lines import problem

from nabla_eval.options import DTO, Sampling
from nabla_eval.outcome import Draft, Outcome
from nabla_eval.protocol import Differentiate, Generate, GradientNorms, Trajectory
from nabla_eval.traces.observe import Observed

PROBLEM = problem()
DRAW = Generate(PROBLEM, PROBLEM.key, Sampling())


def trajectory(*tokens):
    entropy, top = tuple(0.123456 * token for token in tokens), (0.5,) * len(tokens)
    return Trajectory(tokens, "text", len(tokens), "eos", tokens, entropy, top, PROBLEM.key)


def outcome(*tokens):
    return Outcome("text", tokens, "eos", drafts=(Draft(0, (7, 8), "text", "eos"),))


def method(answer):
    (drawn,) = yield [DRAW]
    (gradient,) = yield [Differentiate(PROBLEM, drawn, 1, DTO())]
    assert gradient.norms == {1: 3.0}
    yield [Generate(PROBLEM, PROBLEM.key, Sampling(), prefix=drawn, keep=1, token=9)]
    return answer


def driven(watched):
    next(watched)
    with pytest.raises(StopIteration) as end:
        for result in (trajectory(7, 8), GradientNorms({1: 3.0}), trajectory(7, 9)):
            watched.send([result])
    return end.value.value


def test_the_outcome_and_the_results_pass_through():
    seen, answer = Observed(), outcome(7, 9)
    assert driven(seen.watch(method(answer))) is answer
    assert seen.profiles(answer, lambda token: f"<{token}>") == {
        "first": {
            "tokens": ["<7>", "<8>"], "entropy": [0.8642, 0.9876], "gradient_norms": {"1": 3.0},
        },
        "final": {
            "tokens": ["<7>", "<9>"], "entropy": [0.8642, 1.111], "gradient_norms": {},
        },
    }  # fmt: skip


def test_an_answer_that_is_the_draft_is_kept_once_and_what_was_never_seen_not_at_all():
    seen = Observed()
    driven(seen.watch(method(outcome(7, 8))))
    assert list(seen.profiles(outcome(7, 8), str)) == ["first"]
    assert Observed().profiles(outcome(1), str) == {}


def test_an_error_that_the_driver_throws_in_is_the_methods_to_answer():
    def careful():
        try:
            yield [DRAW]
        except ValueError:
            yield [DRAW]
        return outcome(7, 8)

    watched = Observed().watch(careful())
    next(watched)
    assert watched.throw(ValueError("too long")) == [DRAW]
    with pytest.raises(StopIteration) as end:
        watched.send([trajectory(7, 8)])
    assert end.value.value == outcome(7, 8)


def test_closing_closes_the_method():
    closed = []

    def careful():
        try:
            yield [DRAW]
        finally:
            closed.append(True)

    watched = Observed().watch(careful())
    next(watched)
    watched.close()
    assert closed == [True]

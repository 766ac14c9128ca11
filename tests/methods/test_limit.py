"""`max_calls` with scripted costs: what is carried out, what is cut, and what the method hears."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import OutOfCalls
from nabla_eval.methods.limit import limited, unless_cut
from nabla_eval.options import DTO, Budget, Sampling
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import (
    Generate,
    Problem,
    Refine,
    Refinement,
    TemplateAffixes,
    Trajectory,
)
from nabla_eval.randomness import Key

KEY = Key.root(0)
PROBLEM = Problem(KEY, (1,), TemplateAffixes((), ()), 10)


def trajectory(length, stop="eos"):
    zeros = (0.0,) * length
    return Trajectory((7,) * length, "x" * length, length, stop, (7,) * length, zeros, zeros, KEY,
                      cost=Ledger(generated_tokens=length))  # fmt: skip


class Writes:
    """Each response wants to be so long; counts what was asked for, round by round."""

    def __init__(self, *lengths):
        self.lengths, self.rounds = list(lengths), []

    def __call__(self, requests):
        self.rounds.append(len(requests))
        return [self.answer(request.longest) for request in requests]

    def answer(self, room):
        wants = self.lengths.pop(0)
        return trajectory(wants) if wants < room else trajectory(room, "length")


def draws(count):
    return [Generate(PROBLEM, KEY / i, Sampling()) for i in range(count)]


def asker(requests, heard):
    """A method that asks once and hands back what it hears."""
    try:
        results = yield requests
        ended = "done"
    except OutOfCalls as cut:
        results, ended = cut.results, cut.budget
    heard += results
    return Outcome("", (), "eos", ended=ended)


def run(requests, script, *, clock=None, **budget):
    heard = []
    ticks = {} if clock is None else {"clock": iter(range(99)).__next__}
    method = limited(asker(requests, heard), Budget(**budget), **ticks)
    (outcome,) = drive_all([method], script)
    return outcome, heard


@pytest.mark.parametrize(
    ("budget", "lengths", "rounds", "written", "ended"),
    [
        ({"max_calls": 20}, (3, 4), [2], [3, 4], "done"),  # what surely fits is asked for at once
        ({"max_calls": 19}, (3, 4, 5), [1, 1, 1], [3, 4, 5], "done"),  # what one leaves is there
        ({"max_calls": 6}, (3, 4), [1, 1], [3, 3], "max_calls"),  # as far as the calls go
        ({"max_calls": 8}, (3, 4), [1, 1], [3, 4], "done"),
        # It ends with the last call: only its stop tells it from a cut one.
        ({"max_calls": 7}, (3, 4), [1, 1], [3, 4], "max_calls"),
        ({"max_calls": 9, "max_item_tokens": 4}, (3, 9), [1, 1], [3, 1], "max_item_tokens"),
        ({"max_calls": 4, "max_item_tokens": 9}, (3, 9), [1, 1], [3, 1], "max_calls"),
        ({"max_calls": 19, "max_item_seconds": 0.5}, (3, 4, 5), [1], [3], "max_item_seconds"),
    ],
)
def test_responses_are_carried_out_as_far_as_the_budget_that_is_used_up_first_goes(
    budget, lengths, rounds, written, ended
):
    script = Writes(*lengths)
    outcome, heard = run(draws(len(lengths)), script, clock=1, **budget)
    assert script.rounds == rounds and outcome.ended == ended
    assert [len(t.tokens) for t in heard] == written
    assert outcome.ledger.model_calls == sum(written)
    assert heard[-1].stop == ("length" if ended in ("max_calls", "max_item_tokens") else "eos")


@pytest.mark.parametrize(
    ("calls", "certain", "ready", "asked"),
    [
        (12, False, False, ["drawn"]),  # three steps, a pass each
        (11, True, False, ["certified"]),  # what costs nothing is always carried out
        (11, False, True, ["certified", "drawn"]),  # the first gradient is known
        (7, False, True, ["certified"]),
        (11, False, False, ["certified", "gradient"]),  # 7 are left of 8
        (3, False, False, ["certified"]),
    ],
)
def test_a_refinement_is_carried_out_as_far_as_its_every_step_is_covered(
    calls, certain, ready, asked
):
    heard = []

    def execute(requests):
        (request,) = requests
        heard.append(request.upto)
        cost = Ledger(gradient_passes=int(request.upto == "gradient"))
        token = 1 if certain or request.upto == "drawn" else None
        return [Refinement((token,), (certain,), ready=ready, cost=cost)]

    refine = Refine(PROBLEM, trajectory(2), 0, (KEY,), Sampling(), DTO(steps=3))
    outcome, results = run([refine], execute, max_calls=calls)
    assert heard == asked and (len(results) == 1) == (certain or "drawn" in asked)
    assert outcome.ledger.gradient_passes == asked.count("gradient")
    heard.clear()
    none = replace(refine, dto=DTO(steps=0))
    assert len(run([none], execute, max_calls=1)[1]) == 1 and len(heard) == 1


def test_a_method_that_asks_after_the_cut_or_does_not_know_of_it_is_a_mistake():
    def stubborn():
        yield from unless_cut(unaware())
        yield draws(1)

    def unaware():
        yield draws(2)
        return Outcome("", (), "eos")

    for method, error in [(stubborn(), RuntimeError), (unaware(), OutOfCalls)]:
        with pytest.raises(error, match="max_calls"):
            drive_all([limited(method, Budget(max_calls=2))], Writes(9, 9, 9))


def test_what_a_response_starts_from_takes_nothing_of_what_is_left():
    asked = []

    def execute(requests):
        asked.extend(requests)
        return [trajectory(3 + request.longest, "length") for request in requests]

    again = Generate(PROBLEM, KEY, Sampling(), prefix=trajectory(5), keep=3)
    outcome, _ = run([again], execute, max_calls=4)
    assert [request.longest for request in asked] == [4] and outcome.ended == "max_calls"

"""`max_calls` with scripted costs: what is carried out, what is cut, and what the method hears."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.drive import drive_all
from nabla_eval.errors import OutOfCalls
from nabla_eval.methods.limit import limited, unless_cut, whole
from nabla_eval.options import DTO, Budget, Sampling
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import (
    Generate,
    Problem,
    Refine,
    Refinement,
    RewardScore,
    Score,
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
    """Each response wants to be so long; what was asked for is noted round by round."""

    def __init__(self, *lengths):
        self.lengths, self.rounds = list(lengths), []

    def __call__(self, requests):
        self.rounds.append([type(request).__name__ for request in requests])
        return [self.answer(request) for request in requests]

    def answer(self, request):
        if isinstance(request, Score):
            return RewardScore(0.0, cost=Ledger(scorings=1))
        wants, room = self.lengths.pop(0), request.longest
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


def run(requests, calls, script):
    heard = []
    (outcome,) = drive_all([limited(asker(requests, heard), Budget(max_calls=calls))], script)
    return outcome, heard


def test_what_surely_fits_is_asked_for_at_once():
    script = Writes(3, 4)
    outcome, heard = run(draws(2), 20, script)
    assert script.rounds == [["Generate", "Generate"]] and outcome.ended == "done"
    assert [len(t.tokens) for t in heard] == [3, 4]


def test_what_one_response_leaves_is_there_for_the_next():
    script = Writes(3, 4, 5)
    outcome, heard = run(draws(3), 19, script)
    assert script.rounds == [["Generate"], ["Generate"], ["Generate"]]
    assert outcome.ended == "done" and outcome.ledger.model_calls == 12 and len(heard) == 3


@pytest.mark.parametrize(("calls", "last", "ended"), [(6, 3, "max_calls"), (8, 4, "done")])
def test_the_response_at_the_limit_is_written_as_far_as_the_calls_go(calls, last, ended):
    outcome, heard = run(draws(2), calls, Writes(3, 4))
    assert [len(t.tokens) for t in heard] == [3, last]
    assert outcome.ended == ended and outcome.ledger.model_calls == 3 + last <= calls


def test_a_response_that_ends_with_the_last_call_is_told_from_a_cut_one_only_by_its_stop():
    outcome, heard = run(draws(2), 7, Writes(3, 4))
    assert outcome.ended == "max_calls" and heard[-1].stop == "length"


def test_nothing_is_carried_out_without_calls():
    requests = [*draws(1), Score(PROBLEM, trajectory(1)), Score(PROBLEM, trajectory(2))]
    outcome, heard = run(requests, 10, Writes(9))
    assert len(heard) == 2 and outcome.ended == "max_calls" and outcome.ledger.scorings == 1


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
    outcome, results = run([refine], calls, execute)
    assert heard == asked and (len(results) == 1) == (certain or "drawn" in asked)
    assert outcome.ledger.gradient_passes == asked.count("gradient")
    heard.clear()
    assert len(run([replace(refine, dto=DTO(steps=0))], 1, execute)[1]) == 1 and len(heard) == 1


def test_a_method_that_goes_on_after_the_cut_is_a_mistake():
    def stubborn():
        yield from unless_cut(part())
        yield draws(1)

    def part():
        yield draws(2)

    with pytest.raises(RuntimeError, match="max_calls"):
        drive_all([limited(stubborn(), Budget(max_calls=2))], Writes(9, 9, 9))


def test_a_method_that_does_not_know_of_the_cut_says_what_it_should_do():
    def unaware():
        yield draws(2)
        return Outcome("", (), "eos")

    with pytest.raises(OutOfCalls, match="return an Outcome"):
        drive_all([limited(unaware(), Budget(max_calls=2))], Writes(9, 9))


def test_tokens_count_responses_and_nothing_else():
    heard = []
    requests = [*draws(1), Score(PROBLEM, trajectory(1)), *draws(2)]
    method = limited(asker(requests, heard), Budget(max_item_tokens=5))
    (outcome,) = drive_all([method], Writes(3, 9, 9))
    assert outcome.ended == "max_item_tokens"
    assert [type(result).__name__ for result in heard] == [
        "Trajectory",
        "RewardScore",
        "Trajectory",
    ]
    assert outcome.ledger.generated_tokens == 5 and outcome.ledger.scorings == 1


def test_the_budget_that_is_used_up_first_is_named():
    for budget, ended in [
        (Budget(max_calls=9, max_item_tokens=4), "max_item_tokens"),
        (Budget(max_calls=4, max_item_tokens=9), "max_calls"),
    ]:
        (outcome,) = drive_all([limited(asker(draws(2), []), budget)], Writes(3, 9))
        assert (outcome.ended, outcome.ledger.model_calls) == (ended, 4)


def test_time_is_looked_at_between_requests_and_the_first_response_is_always_written():
    def patient():
        heard = []
        ended = yield from unless_cut(asks(heard))
        return Outcome("", (), "eos", ended=ended or "done", visited=len(heard))

    def asks(heard):
        for request in draws(3):
            heard += yield [request]

    for seconds, written in [(0.5, 1), (2.5, 2), (3.5, 3), (9.0, 3)]:
        method = limited(patient(), Budget(max_item_seconds=seconds), iter(range(99)).__next__)
        (outcome,) = drive_all([method], Writes(2, 2, 2))
        assert outcome.visited == written
        assert outcome.ended == ("done" if seconds > 3 else "max_item_seconds")


def test_a_token_is_not_written_with_no_calls_left():
    """The score takes the last call: the response after it is not even begun."""
    script = Writes(9)
    outcome, heard = run([Score(PROBLEM, trajectory(1)), *draws(1)], 1, script)
    assert script.rounds == [["Score"]] and len(heard) == 1 and outcome.ended == "max_calls"


def test_what_a_response_starts_from_takes_nothing_of_what_is_left():
    asked = []

    def execute(requests):
        asked.extend(requests)
        return [trajectory(3 + request.longest, "length") for request in requests]

    again = Generate(PROBLEM, KEY, Sampling(), prefix=trajectory(5), keep=3)
    outcome, _ = run([again], 4, execute)
    assert [request.longest for request in asked] == [4] and outcome.ended == "max_calls"


@dataclass(frozen=True)
class Question:
    """A request of a kind that the core does not know, which says what it may cost."""

    problem: Problem
    most_calls: int


@pytest.mark.parametrize("most", [0, 2, 3])
def test_a_question_is_asked_where_the_calls_that_it_names_are_left(most):
    for calls in range(1, 5):
        requests = [Score(PROBLEM, trajectory(1)), Question(PROBLEM, most)]
        _, heard = run(requests, calls, ScoresAlone())
        assert len(heard) == 1 + (most <= calls - 1), calls


class ScoresAlone:
    """Only a `Score` costs anything here."""

    def __call__(self, requests):
        return [RewardScore(0.0, cost=Ledger(scorings=isinstance(r, Score))) for r in requests]


def test_a_budget_of_time_is_used_up_when_it_has_passed_to_the_instant():
    def patient():
        heard = []
        ended = yield from unless_cut(one_by_one(heard))
        return Outcome("", (), "eos", ended=ended or "done", visited=len(heard))

    def one_by_one(heard):
        for request in draws(3):
            heard += yield [request]

    method = limited(patient(), Budget(max_item_seconds=2.0), iter(range(99)).__next__)
    (outcome,) = drive_all([method], Writes(2, 2, 2))
    assert (outcome.visited, outcome.ended) == (1, "max_item_seconds")


def test_time_is_looked_at_between_what_calls_let_through_one_by_one():
    heard = []
    budget = Budget(max_calls=19, max_item_seconds=0.5)
    method = limited(asker(draws(3), heard), budget, iter(range(99)).__next__)
    (outcome,) = drive_all([method], Writes(3, 4, 5))
    assert (len(heard), outcome.ended) == (1, "max_item_seconds")


def test_a_response_is_whole_if_it_ended_or_is_as_long_as_it_may_be():
    assert whole(PROBLEM, trajectory(3, "eos")) and whole(PROBLEM, trajectory(3, "stop"))
    assert whole(PROBLEM, trajectory(10, "length")) and not whole(PROBLEM, trajectory(9, "length"))

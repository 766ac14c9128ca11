"""The driver's bookkeeping, with scripted methods; micro-batches and running out of memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.drive import drive, drive_all
from nabla_eval.engine.execute import HANDLERS, Executor, Handler
from nabla_eval.errors import Fault, ModelError, RewardError
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.pair import Pair
from nabla_eval.models.prefix import WORTH
from nabla_eval.options import Sampling
from nabla_eval.outcome import Outcome
from nabla_eval.protocol import Generate, RewardScore
from nabla_eval.testing import tiny_pair, tiny_problems


def scripted(name: int, rounds: int):
    total = 0.0
    for i in range(rounds):
        answers = yield [(name, i, j) for j in range(name % 3)]
        total += sum(answer.reward for answer in answers)
    return Outcome(str(total), (name,), "eos")


def echo(requests):
    cost = Ledger(scorings=1)
    return [RewardScore(100.0 * name + 10 * i + j, cost=cost) for name, i, j in requests]


@pytest.mark.parametrize("width", [1, 2, 50])
def test_every_method_gets_its_own_results_in_order(width):
    rounds, active = [3, 0, 2, 1, 4, 2], []

    def execute(requests):
        active.append(len({name for name, _, _ in requests}))
        return echo(requests)

    ends = list(drive((scripted(name, count) for name, count in enumerate(rounds)), execute, width))
    assert max(active) <= width
    assert sorted(index for index, _ in ends) == list(range(len(rounds)))
    for name, outcome in ends:
        count = rounds[name]
        expected = sum(100.0 * name + 10 * i + j for i in range(count) for j in range(name % 3))
        assert outcome.text == str(float(expected)) and outcome.tokens == (name,)
        assert outcome.ledger.scorings == count * (name % 3)


@dataclass(frozen=True)
class Look:
    """A request that is answered at once, or takes a pass."""

    problem: Any
    sure: bool
    most_calls = 1


def test_requests_without_an_early_answer_wait_for_those_of_other_problems(monkeypatch):
    answer, batches = RewardScore(0.0), []

    def run(executor, batch):
        batches.append(len(batch))
        return [answer] * len(batch)

    def early(executor, batch):
        return [answer if request.sure else None for request in batch]

    monkeypatch.setitem(HANDLERS, Look, Handler(run, lambda executor, request: 1, early=early))

    def method(problem, looks):
        for _ in range(looks):
            yield [Look(problem, True)]
        yield [Look(problem, False), Look(problem, True)]
        return Outcome("", (looks,), "eos")

    pair = tiny_pair()
    asked = [method(problem, looks) for looks, problem in enumerate(tiny_problems(pair, 4))]
    assert len(drive_all(asked, Executor(pair))) == len(asked)
    assert batches == [len(asked)]


def test_a_server_begins_at_once_and_is_waited_for_when_nothing_else_is_left(monkeypatch):
    answer, events = RewardScore(0.0), []

    class Server:
        def __init__(self):
            self.sent = []

        def decoder(self):
            return self

        def add(self, requests):
            events.append("sent")
            self.sent += requests

        def run(self):
            events.append("waited for")
            sent, self.sent = self.sent, []
            return [(ticket, answer) for ticket, _ in sent]

        def close(self):
            events.append("closed")

    def run(executor, batch):
        events.append("pass")
        return [answer] * len(batch)

    handler = Handler(run, lambda executor, request: 1, early=lambda executor, batch: [None])
    monkeypatch.setitem(HANDLERS, Look, handler)

    def method(request):
        yield [request]
        return Outcome("", (), "eos")

    pair = tiny_pair()
    one, other = tiny_problems(pair, 2)
    asked = [method(Generate(one, one.key, Sampling())), method(Look(other, False))]
    drive_all(asked, Executor(pair, rollout=Server()))
    assert events == ["sent", "pass", "waited for", "closed"]


@pytest.mark.parametrize(
    ("lengths", "budget", "sizes"),
    [
        ([5, 1, 9, 3, 3, 7, 2], 12, [1, 1, 2, 3]),
        ([12] * 100 + [32] + [12] * 46, 10**9, [1, 146]),  # one long one would pad all others
        ([12] * 9 + [32], 10**9, [10]),  # too few to pay for a call
        ([WORTH + 2, 1, 2], 10**9, [1, 2]),
        ([40] * 50 + [20] * 50 + [5] * 50, 10**9, [50, 50, 50]),
        ([9], 1, [1]),
    ],
)
def test_micro_batches_stay_within_the_budget_and_keep_the_order(lengths, budget, sizes):
    """And long items do not pad many short ones."""
    batches = []

    def run(batch):
        batches.append([length for _, length in batch])
        return [i for i, _ in batch]

    items = list(enumerate(lengths))
    assert in_batches(run, items, lambda item: item[1], budget) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(batch) <= budget for batch in batches)
    assert [*map(len, batches)] == sizes


@pytest.mark.parametrize(
    ("kind", "fails"),
    [
        (torch.OutOfMemoryError, lambda batch: len(batch) > 2),
        *((kind, lambda batch: 5 in batch) for kind in
          (torch.OutOfMemoryError, RewardError, RuntimeError)),
    ],
)  # fmt: skip
def test_a_batch_that_fails_is_halved_and_an_item_that_cannot_be_run_fails_alone(kind, fails):
    def run(batch):
        if fails(batch):
            raise kind("simulated")
        return [-item for item in batch]

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        results = in_batches(run, list(range(9)), lambda _: 1, 100)
    assert any("two halves" in str(own.message) for own in told) is (kind is torch.OutOfMemoryError)
    if fails([5]):
        assert isinstance(results[5], Fault) and isinstance(results[5].error, kind)
        results[5] = -5
    assert results == [-i for i in range(9)]


def test_an_error_of_ours_is_no_fault_of_an_item():
    def run(batch):
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        in_batches(run, [1, 2], lambda _: 1, 100)


def test_a_fault_ends_its_method_and_no_other():
    closed = []

    def method(name):
        try:
            results = yield [(name, 0, 0)]
            results = yield [(name, 1, 0)]
        except GeneratorExit:
            closed.append(name)
            raise
        assert results
        return Outcome(name, (), "eos")

    def execute(requests):
        broken = Fault(RewardError("NaN"))
        return [broken if r[:2] == ("b", 1) else RewardScore(0.0) for r in requests]

    ends = dict(drive(map(method, "abc"), execute))
    assert str(ends.pop(1).error) == "NaN" and closed == ["b"]
    assert {index: outcome.text for index, outcome in ends.items()} == {0: "a", 2: "c"}
    with pytest.raises(RewardError, match="NaN"):
        drive_all(map(method, "abc"), execute)


def small(model):
    """Let a model's forward pass run out of memory with more than four rows."""

    def check(_, args, kwargs):
        given = next(kwargs[name] for name in ("input_ids", "inputs_embeds") if name in kwargs)
        if len(given) > 4:
            raise torch.OutOfMemoryError("simulated")

    model.register_forward_pre_hook(check, with_kwargs=True)


@pytest.mark.parametrize("name", ["nabla", "best_of_n"])
def test_a_run_out_of_memory_gives_the_same_result(name):
    pair, cramped = tiny_pair(), tiny_pair()
    config = configure(name, {"n": 4, "temperature": 1.0})
    problems = tiny_problems(pair, 9)
    expected = drive_all([start(p, config) for p in problems], Executor(pair))
    small(cramped.policy.base)
    small(cramped.judge.base)
    with pytest.warns(UserWarning, match="Out of memory"):
        again = drive_all([start(p, config) for p in problems], Executor(cramped))
    for ours, theirs in zip(again, expected, strict=True):
        assert (ours.tokens, ours.stop, ours.ended) == (theirs.tokens, theirs.stop, theirs.ended)
        assert [c.verdict for c in ours.candidates] == [c.verdict for c in theirs.candidates]
        assert ours.ledger.model_calls == theirs.ledger.model_calls
        assert ours.ledger.generated_tokens == theirs.ledger.generated_tokens


def test_a_reward_that_is_missing_or_not_a_number_is_an_error_and_not_a_score():
    pair = tiny_pair()
    config, (problem,) = configure("best_of_n", {"n": 2}), tiny_problems(pair, 1)
    broken = replace(pair.judge, head=lambda hidden: hidden[..., 0] * float("nan"))
    for reward, kind, words in [(broken, RewardError, "nan"), (None, ModelError, "reward")]:
        with pytest.raises(kind, match=words):
            drive_all([start(problem, config)], Executor(Pair(pair.policy, reward)))
    greedy = start(problem, configure("greedy", {}))
    (outcome,) = drive_all([greedy], Executor(Pair(pair.policy, None)))
    assert outcome.reward is None and outcome.tokens

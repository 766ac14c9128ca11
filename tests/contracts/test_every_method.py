"""What every registered method owes, checked for each of them on a tiny pair in float64."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import fields, replace
from functools import cache

import pytest

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import (
    METHODS,
    configure,
    option_names,
    settle,
    spec,
    start,
)
from nabla_eval.options import flatten
from nabla_eval.protocol import Compose, Generate, Refine, Replay, Score
from nabla_eval.testing import CountingExecutor, tiny_pair, tiny_problems
from nabla_eval.traces.read import restore
from nabla_eval.traces.schema import dumps, loads
from nabla_eval.traces.write import record

PAIR = tiny_pair(seed=3)

CHAT = tiny_pair(seed=3, chat=True)
NAMES = sorted(METHODS)
UNREWARDED = (Generate, Compose, Replay)  # every other request is about the reward


def pair_of(name):
    return CHAT if configure(name, METHODS[name].trial).needs_chat else PAIR


def run(name, *, width=32, budget=2**17, seed=0, count=6, execute=None, **options):
    config = configure(name, {**METHODS[name].trial, **options})
    problems = tiny_problems(pair_of(name), count, seed=seed)
    execute = execute or Executor(pair_of(name), max_batch_tokens=budget)
    return drive_all([start(problem, config) for problem in problems], execute, width)


@cache
def usual(name, count=6):
    """Outcomes in one batch, with which others are compared."""
    return run(name, count=count)


@cache
def counted(name, count=6):
    """The same, and the count of what was asked."""
    executor = CountingExecutor(Executor(pair_of(name)))
    return run(name, count=count, execute=executor), executor


@pytest.mark.parametrize("name", NAMES)
def test_the_same_key_gives_the_same_answer_and_another_seed_another(name):
    first = usual(name)
    assert run(name) == first
    if spec(name).samples:
        assert [o.tokens for o in run(name, seed=1)] != [o.tokens for o in first]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("width", "budget"), [(1, 1), (2, 50), (6, 10**9)])
def test_any_batch_size_gives_the_same_answer(name, width, budget):
    """With a width of 1 each problem is answered alone: none depends on its neighbours."""
    for ours, theirs in zip(run(name, width=width, budget=budget), usual(name), strict=True):
        assert ours.tokens == theirs.tokens
        assert [c.verdict for c in ours.candidates] == [c.verdict for c in theirs.candidates]
        assert ours.ledger.model_calls == theirs.ledger.model_calls


@pytest.mark.parametrize("name", NAMES)
def test_the_ledger_equals_an_independent_count(name):
    outcomes, executor = counted(name)
    shares = ("parallel_tokens", "speculative_tokens", "speculative_scorings", "speculative_passes")
    for problem, outcome in zip(tiny_problems(pair_of(name), 6), outcomes, strict=True):
        none = dict.fromkeys(shares, 0)
        own = executor.totals[problem.id]
        assert replace(outcome.ledger, **none) == own
        assert outcome.ledger.model_calls == (
            own.generated_tokens + 4 * own.gradient_passes + own.scorings
            + own.prefix_scorings + 2 * own.prefix_gradients
        )  # fmt: skip
        assert 0 < outcome.ledger.parallel_tokens <= own.generated_tokens


@pytest.mark.parametrize("name", [name for name in NAMES if "n" in option_names(name)])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_the_budget_of_rollouts_is_never_exceeded(name, n):
    executor = CountingExecutor(Executor(PAIR))
    sequential = {"lookahead": 1} if name == "nabla" else {}  # what is speculative comes on top
    outcomes = run(name, n=n, execute=executor, **sequential)
    rollouts = Counter(request.problem.id for request, _ in executor.of(Generate))
    assert max(rollouts.values()) <= n
    assert all(len(o.candidates) + len(o.drafts) <= n for o in outcomes)


def together(name, budgets, count=3):
    """Outcomes under each of the budgets, all in one batch."""
    configs = [configure(name, {**METHODS[name].trial, **budget}) for budget in budgets]
    problems = tiny_problems(pair_of(name), count)
    methods = [start(problem, config) for config in configs for problem in problems]
    outcomes = drive_all(methods, Executor(pair_of(name)), 64)
    return [outcomes[i : i + count] for i in range(0, len(outcomes), count)]


def about_the_reward(executor):
    """Whether something was asked of the reward model."""
    return any(not isinstance(request, UNREWARDED) for request, _ in executor.asked)


@pytest.mark.parametrize("name", NAMES)
def test_methods_without_a_reward_never_ask_for_one(name):
    assert about_the_reward(counted(name)[1]) == configure(name, {}).needs_reward


FREE = [name for name in NAMES if hasattr(spec(name).config, "FALLBACK")]


@pytest.mark.parametrize("name", FREE)
def test_where_there_is_no_reward_model_auto_means_one_that_asks_for_none(name):
    config = configure(name, METHODS[name].trial)
    assert config.needs_reward and settle(config, rewarded=True).needs_reward
    bare = settle(config, rewarded=False)
    pair = CHAT if bare.needs_chat else PAIR
    assert not bare.needs_reward and bare != config
    executor = CountingExecutor(Executor(pair))
    problems = tiny_problems(pair, 3)
    drive_all([start(problem, bare) for problem in problems], executor)
    assert not about_the_reward(executor)


@pytest.mark.parametrize("name", NAMES)
def test_max_calls_cut_a_method_off_with_its_best_answer_so_far(name):
    """At any limit: never exceeded, an answer each, and the same draws as without a limit."""
    unlimited = usual(name, 3)
    highest = max(outcome.ledger.model_calls for outcome in unlimited)
    cut = 0
    limits = [*range(1, 12), *range(12, highest, max(1, highest // 12)), 10**6]
    limited = together(name, [{"max_calls": calls} for calls in limits])
    for calls, found in zip(limits, limited, strict=True):
        for ours, theirs in zip(found, unlimited, strict=True):
            assert 0 < ours.ledger.model_calls <= calls
            assert ours.tokens and ours.text == pair_of(name).policy.decode(ours.tokens)
            best = max((d.reward for d in ours.drafts if d.reward is not None), default=None)
            if METHODS[name].best and best is not None:
                assert ours.reward >= best
            if ours.ended == "max_calls":
                cut += 1
            else:
                assert (ours.tokens, ours.ended) == (theirs.tokens, theirs.ended)
                assert ours.ledger.model_calls == theirs.ledger.model_calls
            assert ours.ledger.model_calls <= theirs.ledger.model_calls
    assert cut > 10


def answered_at_once(name, count):
    """Whether a method asks only once about each problem: time is looked at between requests."""
    config, found = configure(name, METHODS[name].trial), []
    for problem in tiny_problems(pair_of(name), count):
        executor = CountingExecutor(Executor(pair_of(name)))
        drive_all([start(problem, config)], executor)
        found.append(executor.rounds == 1)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_item_budgets_cut_a_method_off_with_its_best_answer_so_far(name):
    unlimited, at_once = usual(name, 3), answered_at_once(name, 3)
    budgets = {"max_item_tokens": 2}, {"max_item_tokens": 7}, {"max_item_seconds": 1e-9}
    for budget, found in zip(budgets, together(name, budgets), strict=True):
        for ours, theirs, once in zip(found, unlimited, at_once, strict=True):
            assert ours.tokens and ours.ledger.model_calls <= theirs.ledger.model_calls
            if ours.ended not in budget:
                assert (ours.tokens, ours.ended) == (theirs.tokens, theirs.ended)
            most = budget.get("max_item_tokens", 10**6)
            assert ours.ledger.generated_tokens <= most
            assert once or "max_item_seconds" not in budget or ours.ended in budget


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_round_trips(name):
    config, decode = configure(name, METHODS[name].trial), pair_of(name).policy.decode
    for problem, outcome in zip(tiny_problems(pair_of(name), 6), usual(name), strict=True):
        line = record(problem, name, config, outcome, 0.5, lambda t: decode([t]), decode)
        again = loads(dumps(line))
        assert restore(again) == outcome
        assert again["config"] == json.loads(json.dumps(flatten(config)))
        assert again["ledger"] == outcome.ledger.as_dict()


def decisions(outcome):
    """Everything but floats, whose last digit may depend on the shape of the batch."""
    judged = [(c.sweep, c.position, c.new_token, c.verdict, c.tokens) for c in outcome.candidates]
    return outcome.tokens, outcome.stop, outcome.ended, judged


@pytest.mark.parametrize("lookahead", [2, 7, "auto"])
def test_lookahead_changes_the_cost_and_nothing_else(lookahead):
    sequential = run("nabla", lookahead=1)
    for ours, theirs in zip(run("nabla", lookahead=lookahead), sequential, strict=True):
        assert decisions(ours) == decisions(theirs)
        assert (ours.visited, ours.positions) == (theirs.visited, theirs.positions)
        surplus = ours.ledger.generated_tokens - theirs.ledger.generated_tokens
        assert surplus == ours.ledger.speculative_tokens


@pytest.mark.parametrize("calls", [9, 14, 20, 30, 45])
def test_lookahead_uses_up_no_calls_that_the_sequential_loop_still_has(calls):
    ours = run("nabla", lookahead=4, max_calls=calls)
    theirs = run("nabla", lookahead=1, max_calls=calls)
    assert [decisions(o) for o in ours] == [decisions(o) for o in theirs]
    assert [o.ledger for o in ours] == [o.ledger for o in theirs]


@pytest.mark.parametrize("lookahead", [1, "auto", 4])
@pytest.mark.parametrize("update", ["first", "all"])
def test_nothing_is_done_twice(lookahead, update):
    """DESIGN 3.6 on the ledger: one pass per trajectory and per flip; no response drawn again from
    the same stream, no sequence scored twice, no position of a trajectory refined twice.
    """
    executor = CountingExecutor(Executor(PAIR))
    outcomes = run("nabla", count=12, execute=executor, lookahead=lookahead, update=update)
    for outcome in outcomes:
        accepted = sum(c.verdict == "accepted" for c in outcome.candidates)
        assert outcome.ledger.gradient_passes <= accepted + 1 + outcome.ledger.flips
    assert sum(outcome.ledger.flips for outcome in outcomes) > 0
    scored = [(r.problem.id, r.trajectory.shown) for r, _ in executor.of(Score)]
    refined = [  # certified draws cost nothing
        (r.problem.id, r.trajectory.key, r.trajectory.tokens, r.position)
        for r, result in executor.of(Refine)
        if result.cost.refinements
    ]
    written = [(r.problem.id, r.key, given(r)) for r, _ in executor.of(Generate)]
    for asked in (scored, refined, written):
        assert len(asked) == len(set(asked)) > 0
    tokens = sum(len(result.tokens) - len(given(r)) for r, result in executor.of(Generate))
    assert tokens == sum(outcome.ledger.generated_tokens for outcome in outcomes)


def given(request):
    """Tokens that a rollout starts from."""
    return () if request.prefix is None else (*request.prefix.tokens[: request.keep], request.token)


@pytest.mark.parametrize("lookahead", [1, "auto"])
def test_a_calm_descent_costs_one_pass_per_trajectory(lookahead):
    calm = run("nabla", lr=1e-6, min_lr=0.0, lookahead=lookahead)
    for outcome in calm:
        accepted = sum(c.verdict == "accepted" for c in outcome.candidates)
        assert outcome.ledger.flips == 0
        assert outcome.ledger.gradient_passes <= accepted + 1


def test_every_field_of_the_ledger_adds_up():
    ones = Ledger(*range(1, 1 + len(fields(Ledger))))
    assert (ones + ones).as_dict() == {k: 2 * v for k, v in ones.as_dict().items()}

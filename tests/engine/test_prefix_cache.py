"""Prefixes that were encoded serve later requests, and never change a token, score or gradient."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import Qwen2ForCausalLM

from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.gradient import Start, take_passes
from nabla_eval.engine.prefix_cache import PrefixCache, PrefixCaches
from nabla_eval.engine.rollout import Decoder, rollout
from nabla_eval.engine.score import score
from nabla_eval.methods.registry import configure, start
from nabla_eval.models import prefix
from nabla_eval.models.load import policy_from
from nabla_eval.models.pair import Pair
from nabla_eval.options import Objective, Sampling
from nabla_eval.protocol import Generate, Problem, RewardScore, Score, Trajectory
from nabla_eval.randomness import Key
from nabla_eval.testing import tiny_pair, tiny_problems

PAIR = tiny_pair(seed=4)
HOT = Sampling(temperature=1.2)
EXACT = {"rtol": 1e-12, "atol": 1e-12}
KEY, OTHER = Key.root(0), Key.root(1)


def kv(tokens: int) -> torch.Tensor:
    return torch.arange(tokens).expand(2, 2, 1, 8, tokens).transpose(-1, -2)


def found(cache: PrefixCache, ids: tuple[int, ...], problem: Key = KEY, kind: str = "") -> int:
    """Tokens that a lookup finds, whose keys, values and scores belong to them."""
    entry = cache.find(problem, ids, kind)
    if entry is None:
        return 0
    assert entry.kv.shape[-2] == len(entry.scores) == entry.tokens
    assert list(entry.scores) == list(ids[: entry.tokens])
    return entry.tokens


def hold(cache: PrefixCache, row: tuple[int, ...], problem: Key = KEY, kind: str = "") -> None:
    cache.add(problem, row, kv(len(row)), tuple(map(float, row)), kind)


def filled(budget: int, *rows: tuple[int, ...]) -> PrefixCache:
    cache = PrefixCache(budget)
    for row in rows:
        hold(cache, row)
    return cache


def test_the_longest_prefix_of_a_problem_and_a_kind_is_found_by_its_tokens() -> None:
    cache = filled(100, (1, 2, 3, 4), (1, 2, 5, 6, 7), (9,))
    cases = [((1, 2, 3), 3), ((1, 2, 3, 9), 3), ((1, 2, 5, 6, 7, 8), 5), ((1, 7), 1), ((9, 9), 1)]
    cases += [((), 0), ((8,), 0)]
    assert [found(cache, ids) for ids, _ in cases] == [count for _, count in cases]
    assert (found(cache, (1, 2, 3), OTHER), found(cache, (1, 2, 3), KEY, "x")) == (0, 0)
    hold(cache, (1, 2), OTHER, "x")
    cache.forget(KEY)
    assert (cache.tokens, found(cache, (1, 2, 3))) == (2, 0)
    assert found(cache, (1, 2), OTHER, "x") == 2
    cache.forget(OTHER)
    assert cache.tokens == 0


def test_the_least_recently_used_are_dropped() -> None:
    cache = filled(10, (1, 1, 1, 1), (2, 2, 2, 2))
    assert found(cache, (1, 5)) == 1  # used
    hold(cache, (3, 3, 3, 3))
    assert [found(cache, (i,) * 4) for i in (1, 2, 3)] == [4, 0, 4] and cache.tokens == 8
    hold(cache, (4,) * 11)  # never fits
    assert cache.tokens == 8
    cache.clear()
    assert (cache.tokens, found(cache, (1,))) == (0, 0)


def test_a_prefix_takes_the_place_of_those_that_it_begins_with() -> None:
    cache = filled(100, (1, 2), (1, 2, 3), (1, 4), (1, 2, 3, 5))
    assert cache.tokens == 2 + 4 and found(cache, (1, 2, 3)) == 3


def test_a_model_on_two_devices_caches_nothing() -> None:
    assert prefix.keepable(PAIR.judge.base)
    split = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta"))
    assert not prefix.keepable(split)


@contextmanager
def forwarded(base: torch.nn.Module) -> Iterator[list[int]]:
    """Tokens of each pass through a model."""
    passes: list[int] = []

    def count(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        passes.append(int(kwargs["attention_mask"][:, -given.shape[1] :].sum()))

    handle = base.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def drafts(problems: list[Problem], count: int = 3) -> list[Generate]:
    return [Generate(p, p.key / "draft" / i, HOT) for p in problems for i in range(count)]


def decoded(
    requests: list[Generate], cache: PrefixCache | None = None, pair: Pair = PAIR, **options: Any
) -> list[Trajectory]:
    decoder = Decoder(pair.policy, prefixes=cache, **options)
    decoder.add(list(enumerate(requests)))
    results: dict[int, Any] = {}
    while len(results) < len(requests):
        results.update(decoder.run())
    return [results[i] for i in range(len(requests))]


def branch(whole: Trajectory, problem: Problem, keep: int) -> Generate:
    """Go on from a prefix with another token than its own."""
    token = 2 + (whole.tokens[keep] - 1) % 9
    return Generate(problem, problem.key / "rival" / keep, HOT, whole, keep, token)


def assert_same(ours: list[Trajectory], theirs: list[Trajectory]) -> None:
    assert [t.tokens for t in ours] == [t.tokens for t in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.states, other.states, **EXACT)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-11)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-11)


@pytest.mark.parametrize("budget", [10**6, 25, 0])
def test_rollouts_go_on_from_cached_prefixes(budget: int) -> None:
    problems, cache = tiny_problems(PAIR, 12, max_new_tokens=12), PrefixCache(budget)
    wholes = decoded(drafts(problems, 1), cache)
    assert cache.tokens <= budget
    if budget == 10**6:  # all but the last token of each, and not the batch that they ran in
        held = [
            cache.find(p.key, (*p.prompt, *w.tokens)) for p, w in zip(problems, wholes, strict=True)
        ]
        lengths = [len(p.prompt) + len(w.tokens) - 1 for p, w in zip(problems, wholes, strict=True)]
        assert [0 if own is None else own.tokens for own in held] == lengths
        for own in filter(None, held):
            assert own.kv.untyped_storage().nbytes() == own.kv.numel() * own.kv.element_size()
    long = [(w, p) for w, p in zip(wholes, problems, strict=True) if len(w.tokens) > 5]
    asked = [branch(w, p, keep) for w, p in long for keep in (0, 2, 5)]
    ours = decoded(asked, cache)
    assert_same(ours, decoded(asked))
    written = [t.cost for t in ours if t.cost.generated_tokens]
    reused = [cost for cost in written if (cost.prefills, cost.prefill_tokens) == (0, 1)]
    assert {10**6: len(reused) == len(written), 0: not reused}.get(budget, reused != [])
    assert budget != 25 or len(reused) < len(written)


def test_the_operations_counted_are_those_of_the_tokens_forwarded() -> None:
    problems, cache = tiny_problems(PAIR, 5, max_new_tokens=12), PrefixCache(10**6)
    with forwarded(PAIR.policy.base) as passes:
        wholes = decoded(drafts(problems), cache)
        places = [(w, problems[i // 3]) for i, w in enumerate(wholes) if len(w.tokens) > 3]
        rivals = decoded([branch(w, p, 2) for w, p in places], cache)
    counted = sum(t.cost.flops for t in [*wholes, *rivals]) / (2 * PAIR.policy.parameters)
    assert counted == sum(passes)


@pytest.mark.parametrize("patience", [0.0, 2.0, 1e9])
@pytest.mark.parametrize("budget", [1, 45, 10**6])
def test_when_rows_are_admitted_changes_no_token(patience: float, budget: int) -> None:
    problems, sizes = tiny_problems(PAIR, 7, max_new_tokens=12), []
    expected = [rollout(PAIR.policy, [request])[0] for request in drafts(problems)]
    handle = PAIR.policy.base.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["attention_mask"].numel()), with_kwargs=True
    )
    ours = decoded(drafts(problems), patience=patience, budget=budget)
    handle.remove()
    assert_same(ours, expected)
    assert budget != 45 or patience or max(sizes) > 20
    assert budget != 45 or max(sizes) <= 45  # the running batch stays within its budget


@pytest.mark.parametrize("window", [3, 64])
def test_a_sliding_window_is_served_without_a_cache(window: int) -> None:
    config = copy.deepcopy(PAIR.policy.base.config)
    config.use_sliding_window, config.sliding_window = True, window
    config.layer_types = ["full_attention", "sliding_attention"]
    model = Qwen2ForCausalLM(config).double().eval()
    model.model.load_state_dict(PAIR.policy.base.state_dict())
    model.tie_weights()
    pair = Pair(policy_from(model, PAIR.policy.tokenizer), PAIR.reward)
    problems, cache = tiny_problems(pair, 6, max_new_tokens=12), PrefixCache(10**6)
    together = decoded(drafts(problems), cache, pair)
    assert_same(together, [rollout(pair.policy, [request])[0] for request in drafts(problems)])
    assert cache.tokens == 0
    nabla = configure("nabla", {"n": 5, "temperature": 1.2})
    outcomes = drive_all([start(p, nabla) for p in problems], Executor(pair))
    alone = [drive_all([start(p, nabla)], Executor(pair))[0] for p in problems]
    assert [o.tokens for o in outcomes] == [o.tokens for o in alone]
    if window == 3:  # else the windows would not have mattered
        assert [t.tokens for t in together] != [
            t.tokens for t in rollout(PAIR.policy, drafts(problems))
        ]


@pytest.mark.parametrize("at", [1, 2, 4, 7])
def test_rows_that_run_out_of_memory_half_written_go_on_where_they_were(at: int) -> None:
    calls = 0

    def fail_once(_: Any, args: Any, kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == at:
            raise torch.OutOfMemoryError("simulated")

    problems = tiny_problems(PAIR, 5, max_new_tokens=12)
    expected = rollout(PAIR.policy, drafts(problems))
    handle = PAIR.policy.base.register_forward_pre_hook(fail_once, with_kwargs=True)
    with pytest.warns(UserWarning, match="Out of memory"):
        again = decoded(drafts(problems), PrefixCache(10**6))
    handle.remove()
    assert_same(again, expected)
    written = [[t.cost.generated_tokens for t in own] for own in (again, expected)]
    assert written[0] == written[1]


WHOLE = (2, 3, 4, 5, 6, 7)
RIVALS = [(2, 3, 9, 5), (2, 3, 4, 5, 6, 8, 9), (8, 3, 4), (2, 3, 4), (2, 3, 4, 5, 6, 7, 9), WHOLE]


def asked(problem: Problem, tokens: tuple[int, ...]) -> Score:
    own = Trajectory(tokens, "", len(tokens), "eos", tokens, (), (), problem.key)
    return Score(problem, own)


def same_scores(ours: Any, theirs: Any) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert isinstance(one, RewardScore) and isinstance(other, RewardScore)
        assert one.reward == pytest.approx(other.reward, abs=1e-12)
        assert one.prefix_scores == pytest.approx(other.prefix_scores, abs=1e-12)
        assert one.cost == other.cost


def alike(tokens: tuple[int, ...], framed: bool) -> int:
    """Tokens that a response begins with as `WHOLE` does; what comes last is encoded anyway."""
    most = len(tokens) if framed else len(tokens) - 1
    pairs = enumerate(zip(tokens[:most], WHOLE, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(most, len(WHOLE)))


@pytest.mark.parametrize("process", [True, False])
@pytest.mark.parametrize("budget", [10**6, 40, 0])
def test_a_score_goes_on_from_what_was_encoded(process: bool, budget: int) -> None:
    pair, caches = tiny_pair(seed=2, process=process), PrefixCaches(2 * budget)
    problems = tiny_problems(pair, 2)
    score(pair.judge, [asked(problem, WHOLE) for problem in problems], caches)
    assert caches.reward.tokens <= budget
    rivals = [asked(problem, own) for problem in problems for own in RIVALS]
    with forwarded(pair.judge.base) as passes:
        ours = score(pair.judge, rivals, caches)
    same_scores(ours, [score(pair.judge, [one])[0] for one in rivals])
    assert all(bool(one.prefix_scores) == process for one in ours if isinstance(one, RewardScore))
    rows = [(p.affixes.before, p.affixes.after, own) for p in problems for own in RIVALS]
    every = sum(len(before) + len(own) + len(after) for before, after, own in rows)
    spared = sum(alike(own, bool(after)) + len(before) for before, after, own in rows)
    assert {10**6: every - spared, 0: every}.get(budget, sum(passes)) == sum(passes) <= every


def test_what_scores_begin_with_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair(seed=2)
    problems = tiny_problems(pair, 2)
    rivals = [asked(problem, own) for problem in problems for own in RIVALS[:2]]
    alone = [score(pair.judge, [one])[0] for one in rivals]
    monkeypatch.setattr(prefix, "WORTH", 1)
    for budget in (0, 10**6):
        with forwarded(pair.judge.base) as passes:
            same_scores(score(pair.judge, rivals, PrefixCaches(budget)), alone)
        shared = sum(len(problem.affixes.before) + 2 for problem in problems)  # they agree on two
        ends = sum(len(problem.affixes.after) for problem in problems)
        assert passes == [shared, 2 * (2 + 5) + 2 * ends]


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_a_gradient_goes_on_from_rollouts_and_scores(weight: float) -> None:
    caches = PrefixCaches(10**6)
    problems = tiny_problems(PAIR, 16, max_new_tokens=12)
    wholes = decoded(drafts(problems, 1), caches.policy)
    own = [(p, w) for p, w in zip(problems, wholes, strict=True) if len(w.tokens) > 4]
    assert len(own) > 2
    score(PAIR.judge, [Score(*both) for both in own], caches)
    starts = [
        # alike up to 3
        Start(p, w, (*w.tokens[:3], 2 + (w.tokens[3] - 1) % 9, *w.tokens[4:]), 2)
        for p, w in own
    ]
    spent: list[int] = []
    results = []
    for cached in (caches, PrefixCaches()):
        with forwarded(PAIR.policy.base) as policy, forwarded(PAIR.judge.base) as reward:
            results.append(take_passes(PAIR, starts, Objective(nll_weight=weight), cached))
        spent += [sum(policy), sum(reward)]
    for one, other in zip(*results, strict=True):
        for name in ("hidden", "policy", "reward"):
            torch.testing.assert_close(getattr(one, name), getattr(other, name), **EXACT)
        assert one.value == pytest.approx(other.value, abs=1e-12)
    assert spent[2] - spent[0] == sum(len(p.prompt) + 2 for p, _ in own)
    assert spent[3] - spent[1] == sum(len(p.affixes.before) + 2 for p, _ in own)


def test_nothing_stays_cached_of_a_method_that_has_ended() -> None:
    pair = tiny_pair(seed=4)
    executor, left = Executor(pair), []
    session, problems = executor.session(), tiny_problems(pair, 2)
    for ticket, problem in enumerate(problems):
        session.submit(ticket, [Generate(problem, problem.key, HOT)])
    while len(left) < 2:
        left += session.collect()
    cached = executor.caches.policy.tokens
    session.submit(1, [Score(problems[1], left[0][1][0])])
    session.collect()
    assert 0 < executor.caches.policy.tokens < cached
    assert executor.caches.policy.find(problems[0].key, problems[0].prompt) is None
    assert executor.caches.policy.find(problems[1].key, problems[1].prompt) is not None


def test_equal_rows_tie_whatever_they_were_batched_with() -> None:
    caches, key = PrefixCaches(), tiny_problems(tiny_pair(), 1)[0].key
    assert caches.alike(key, (1, 2), [0.5]) == [0.5]
    assert caches.alike(key, (1, 2), [0.5000000001]) == [0.5]
    caches.forget(key)
    assert caches.alike(key, (1, 2), [0.25]) == [0.25]

"""Prompts encoded once, prefixes not again, and the running batch: never another token."""

from __future__ import annotations

import copy
import gc
import pickle
from dataclasses import replace

import pytest
import torch
from transformers import Qwen2ForCausalLM

from nabla_eval.engine.cache import Past, Pasts
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.rollout import Decoder, rollout
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.load import policy_from
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling
from nabla_eval.requests import Generate
from nabla_eval.testing import tiny_pair, tiny_problems

PAIR = tiny_pair(seed=4)
HOT = Sampling(temperature=1.2)
EXACT = {"rtol": 0, "atol": 1e-12}


def drafts(problems, count=3):
    """Requests for several responses to each of the problems."""
    return [
        Generate(p, p.key / "draft" / i, HOT, branches=True) for p in problems for i in range(count)
    ]


def decoded(requests, policy=PAIR.policy, **options):
    """Trajectories from a decoder with the given options."""
    decoder = Decoder(policy, **options)
    decoder.add(list(enumerate(requests)))
    found = {}
    while not decoder.idle:
        found.update(decoder.run())
    return [found[i] for i in range(len(requests))]


def branch(whole, problem, keep):
    """Go on from a prefix with another token than its own."""
    token = 2 + (whole.tokens[keep] - 1) % 9
    return Generate(problem, problem.key / "rival" / keep, HOT, whole, keep, token)


def assert_same(ours, theirs):
    assert [t.tokens for t in ours] == [t.tokens for t in theirs]
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.states, other.states, **EXACT)
        assert one.entropy == pytest.approx(other.entropy, abs=1e-11)
        assert one.log_probability == pytest.approx(other.log_probability, abs=1e-11)


def sliding(window):
    """The same pair with a policy whose second layer sees a few tokens back only."""
    config = copy.deepcopy(PAIR.policy.base.config)
    config.use_sliding_window, config.sliding_window = True, window
    config.layer_types = ["full_attention", "sliding_attention"]
    model = Qwen2ForCausalLM(config).double().eval()
    model.model.load_state_dict(PAIR.policy.base.state_dict())
    model.tie_weights()
    return Pair(policy_from(model, PAIR.policy.tokenizer), PAIR.reward)


def test_a_shared_prompt_is_encoded_once_and_gives_the_same_tokens():
    problems = tiny_problems(PAIR, 5, max_new_tokens=12)
    together = rollout(PAIR.policy, drafts(problems))
    singly = [rollout(PAIR.policy, [request])[0] for request in drafts(problems)]
    assert_same(together, singly)
    for problem, i in zip(problems, range(0, 15, 3), strict=True):
        costs = [trajectory.cost for trajectory in together[i : i + 3]]
        assert [cost.prefills for cost in costs] == [1, 0, 0]
        assert sum(cost.prefill_tokens for cost in costs) == len(problem.prompt) + 2
        assert all(t.cost.prefill_tokens == len(problem.prompt) for t in singly[i : i + 3])


@pytest.mark.parametrize("budget", [10**6, 25, 0])
def test_going_on_from_kept_keys_and_values_gives_the_same_tokens(budget):
    problems = tiny_problems(PAIR, 12, max_new_tokens=12)
    pasts = Pasts(budget)
    wholes = decoded(drafts(problems, 1), pasts=pasts)
    assert pasts.tokens <= budget
    long = [(w, p) for w, p in zip(wholes, problems, strict=True) if len(w.tokens) > 5]
    asked = [branch(w, p, keep) for w, p in long for keep in (0, 2, 5)]
    kept = decoded(asked, pasts=pasts)
    fresh = [replace(request, prefix=replace(request.prefix, past=None)) for request in asked]
    assert_same(kept, decoded(fresh))
    written = [t.cost for t in kept if t.cost.generated_tokens]
    reused = [cost for cost in written if (cost.prefills, cost.prefill_tokens) == (0, 1)]
    assert {10**6: len(reused) == len(written), 0: not reused}.get(budget, reused != [])
    assert budget != 25 or len(reused) < len(written)


def test_the_operations_counted_are_those_of_the_tokens_forwarded():
    forwarded = 0

    def count(_, args, kwargs):
        nonlocal forwarded
        mask = kwargs["attention_mask"][:, -kwargs["input_ids"].shape[1] :]
        forwarded += int(mask.sum())

    pair = tiny_pair(seed=4)
    pair.policy.base.register_forward_pre_hook(count, with_kwargs=True)
    problems, pasts = tiny_problems(pair, 5, max_new_tokens=12), Pasts(10**6)
    wholes = decoded(drafts(problems), pair.policy, pasts=pasts)
    places = [(w, problems[i // 3]) for i, w in enumerate(wholes) if len(w.tokens) > 3]
    rivals = decoded([branch(w, p, 2) for w, p in places], pair.policy, pasts=pasts)
    counted = sum(t.cost.flops for t in [*wholes, *rivals]) / (2 * pair.policy.parameters)
    assert counted == forwarded


@pytest.mark.parametrize("patience", [0.0, 2.0, 1e9])
@pytest.mark.parametrize("budget", [1, 45, 10**6])
def test_when_rows_are_admitted_changes_no_token(patience, budget):
    problems = tiny_problems(PAIR, 7, max_new_tokens=12)
    expected = [rollout(PAIR.policy, [request])[0] for request in drafts(problems)]
    assert_same(decoded(drafts(problems), patience=patience, budget=budget), expected)


def test_the_running_batch_stays_within_the_budget():
    sizes = []
    pair = tiny_pair(seed=4)
    pair.policy.base.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(kwargs["attention_mask"].numel()), with_kwargs=True
    )
    problems = tiny_problems(pair, 9, max_new_tokens=12)
    decoded(drafts(problems), pair.policy, budget=60, patience=0.0)
    assert 30 < max(sizes) <= 60


@pytest.mark.parametrize("window", [3, 64])
def test_a_sliding_window_is_served_without_reuse(window):
    pair = sliding(window)
    config = configure("nabla", {"n": 5, "temperature": 1.2})
    problems = tiny_problems(pair, 6, max_new_tokens=12)
    pasts = Pasts(10**6)
    together = decoded(drafts(problems), pair.policy, pasts=pasts)
    assert_same(together, [rollout(pair.policy, [request])[0] for request in drafts(problems)])
    assert pasts.tokens == 0 and all(trajectory.past is None for trajectory in together)
    outcomes = drive_all([start(p, config) for p in problems], Executor(pair))
    alone = [drive_all([start(p, config)], Executor(pair))[0] for p in problems]
    assert [o.tokens for o in outcomes] == [o.tokens for o in alone]
    if window == 3:  # else the windows would not have mattered
        assert [t.tokens for t in together] != [
            t.tokens for t in rollout(PAIR.policy, drafts(problems))
        ]


def test_only_responses_that_others_may_branch_off_leave_something_behind():
    (problem,) = tiny_problems(PAIR, 1, max_new_tokens=12)
    asked = drafts([problem], 2)
    asked[1] = replace(asked[1], branches=False)
    first, second = decoded(asked, pasts=Pasts(100))
    assert first.past.tokens == len(problem.prompt) + len(first.tokens) - 1
    assert second.past is None


def test_what_is_left_behind_goes_with_its_trajectory_and_is_never_copied():
    pasts = Pasts(10**6)
    (problem,) = tiny_problems(PAIR, 1, max_new_tokens=12)
    (whole,) = decoded(drafts([problem], 1), pasts=pasts)
    storage = whole.past.kv.untyped_storage().nbytes()
    assert storage == whole.past.kv.numel() * whole.past.kv.element_size()  # not the batch's
    assert pasts.tokens == whole.past.tokens > 0
    assert copy.deepcopy(whole).past is None and pickle.loads(pickle.dumps(whole)).past is None
    assert pickle.loads(pickle.dumps(whole)) == whole
    del whole
    gc.collect()
    assert pasts.tokens == 0


def test_the_least_recently_used_are_dropped():
    kv = torch.zeros(2, 2, 1, 4, 8)
    pasts, held = Pasts(10), [Past((1,), kv) for _ in range(3)]
    for past in (*held, held[0]):
        pasts.use(past)
    pasts.trim()
    assert [past.tokens for past in held] == [4, 0, 4]


def test_another_prompt_never_takes_up_a_past():
    past = Past((1, 2), torch.zeros(2, 2, 1, 4, 8))
    assert past.of((1, 2), 4) is not None
    assert past.of((1, 3), 4) is None and past.of((1, 2), 5) is None


@pytest.mark.parametrize("at", [1, 2, 4, 7])
def test_rows_that_run_out_of_memory_half_written_go_on_where_they_were(at):
    calls = 0

    def fail_once(_, args, kwargs):
        nonlocal calls
        calls += 1
        if calls == at:
            raise torch.OutOfMemoryError("simulated")

    pair = tiny_pair(seed=4)
    problems = tiny_problems(PAIR, 5, max_new_tokens=12)
    expected = rollout(PAIR.policy, drafts(problems))
    pair.policy.base.register_forward_pre_hook(fail_once, with_kwargs=True)
    with pytest.warns(UserWarning, match="Out of memory"):
        again = decoded(drafts(problems), pair.policy, pasts=Pasts(10**6))
    assert_same(again, expected)
    written = [[t.cost.generated_tokens for t in found] for found in (again, expected)]
    assert written[0] == written[1]

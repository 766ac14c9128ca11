"""The fast engine against `engine/naive.py`, token for token, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nabla_eval.engine import naive
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import configure, start
from nabla_eval.options import flatten
from nabla_eval.testing import tiny_pair, tiny_problems
from nabla_eval.thought import Thought

PAIRS = {process: tiny_pair(seed=3, process=process) for process in (False, True)}


@pytest.fixture(scope="module", autouse=True)
def remembered() -> Iterator[None]:
    """Remember what the specification works out again and again, each a function of its key."""
    logits, refine = naive.next_logits, naive.refine
    known: dict[Any, Any] = {}

    def next_logits(pair, tokens):
        key = id(pair), *tokens
        if key not in known:
            known[key] = logits(pair, tokens)
        return known[key]

    def refined(pair, problem, sequence, position, tau, dto):
        key = (
            id(pair), problem.prompt, tuple(sequence.y), sequence.key, len(sequence.scored),
            position, tau, dto,
        )  # fmt: skip
        if key not in known:
            known[key] = refine(pair, problem, sequence, position, tau, dto)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naive, "next_logits", next_logits)
        patch.setattr(naive, "refine", refined)
        yield


options = st.fixed_dictionaries(
    {
        "n": st.sampled_from([1, 2, 4, 8]),
        "passes": st.sampled_from([1, 3]),
        "stop_reward": st.sampled_from([None, 0.5]),
        "acceptance": st.sampled_from(["strict", "released"]),
        "lookahead": st.sampled_from([1, 2, 5, "auto"]),
        "temperature": st.sampled_from([0.7, 1.0, 1.3]),
        "top_p": st.sampled_from([1.0, 0.9]),
        "top_k": st.sampled_from([0, 5]),
        "resample_temperature": st.sampled_from([None, 0.0, 1.5]),
        "min_probability": st.sampled_from([0.0, 0.02]),
        "uncertainty": st.sampled_from(["entropy", "top_probability"]),
        "gradient_threshold": st.sampled_from([0.0, 0.1, 0.5]),
        "threshold_inclusive": st.booleans(),
        "gradient_norm": st.sampled_from(["logits", "onehot"]),
        "steps": st.sampled_from([0, 1, 6]),
        "lr": st.sampled_from([0.01, 0.3]),
        "schedule": st.sampled_from(["cosine", "clipped_cosine"]),
        "optimizer": st.sampled_from(["adamw", "sgd"]),
        "relaxation_temperature": st.sampled_from([None, 1.0, 0.6]),
        "end_token": st.sampled_from(["template", "kept"]),
        "update": st.sampled_from(["first", "all"]),
        "anchor": st.sampled_from(["argmax", "sampled"]),
        "parameterisation": st.sampled_from(["logits", "latents"]),
        "grad_cache": st.booleans(),
        "certify": st.booleans(),
        "lam": st.sampled_from([1.0, -1.0, 0.0]),
        "nll_weight": st.sampled_from([1.0, 1e-3, 0.0]),
    }
)


def decisions(outcome):
    return (
        outcome.tokens,
        outcome.text,
        outcome.stop,
        [
            (c.sweep, c.position, c.old_token, c.new_token, c.verdict, c.tokens, c.stop)
            for c in outcome.candidates
        ],
    )


def assert_same(fast, slow, chosen):
    assert decisions(fast) == decisions(slow)
    assert fast.reward == pytest.approx(slow.reward, abs=1e-10)
    for a, b in zip(fast.candidates, slow.candidates, strict=True):
        assert a.entropy == pytest.approx(b.entropy, abs=1e-9)
        assert a.top_probability == pytest.approx(b.top_probability, abs=1e-9)
        assert a.old_reward == pytest.approx(b.old_reward, abs=1e-10)
        assert a.new_reward == pytest.approx(b.new_reward, abs=1e-10)
    ours, theirs = fast.ledger, slow.ledger
    # Documented savings: gradients are reused, and no sequence is scored twice. Lookahead pays for
    # candidates that the specification never draws, and says how much.
    assert ours.generated_tokens - ours.speculative_tokens == theirs.generated_tokens
    assert ours.scorings - ours.speculative_scorings <= theirs.scorings
    if chosen["lookahead"] == 1:
        assert (ours.speculative_tokens, ours.speculative_scorings) == (0, 0)
    if chosen["grad_cache"]:
        assert ours.gradient_passes - ours.speculative_passes <= theirs.gradient_passes


@settings(max_examples=30)
@given(
    options=options,
    process=st.booleans(),
    reward_gradient=st.sampled_from(["final", "process"]),
    logits_dtype=st.sampled_from(["float32", "bfloat16"]),
    width=st.sampled_from([1, 3, 16]),
    budget=st.sampled_from([1, 60, 10**6]),
    past=st.sampled_from([0, 25, 10**6]),
    seed=st.integers(0, 10**6),
    stop=st.sampled_from([(), (), ("b",), ("cd", "<pad>"), ("a<pad>", "<pad>b")]),
    thought=st.sampled_from([None, None, Thought("e", "f"), Thought("<pad>", opened=True)]),
)
def test_drawn_configurations(
    options, process, reward_gradient, logits_dtype, width, budget, past, seed, stop, thought
):
    pair = PAIRS[process]
    chosen = {**options, "reward_gradient": reward_gradient, "logits_dtype": logits_dtype}
    if options["optimizer"] == "sgd":  # which has no bfloat16
        chosen |= {"logits_dtype": "float32"}
    if not process:  # an outcome reward has no scores of prefixes
        chosen |= {"reward_gradient": "final"}
    config = configure("nabla", chosen)
    problems = tiny_problems(pair, 4, max_new_tokens=6, seed=seed, stop=stop)
    problems = [replace(problem, thought=thought) for problem in problems]
    executor = Executor(pair, max_batch_tokens=budget, max_cached_tokens=past)
    fast = drive_all([start(problem, config) for problem in problems], executor, width)
    for problem, outcome in zip(problems, fast, strict=True):
        assert_same(outcome, naive.nabla(pair, problem, config), chosen)


def test_the_drawn_configurations_reach_what_matters():
    """Acceptances, rejections and flips all occur on this pair, else nothing was compared."""
    pair = PAIRS[True]
    config = configure("nabla", {"n": 8, "passes": 3, "temperature": 1.0, "lr": 0.3, "steps": 6})
    problems = tiny_problems(pair, 12)
    outcomes = drive_all([start(problem, config) for problem in problems], Executor(pair))
    candidates = [c for outcome in outcomes for c in outcome.candidates]
    assert sum(c.verdict == "accepted" for c in candidates) >= 5
    assert sum(c.verdict == "rejected" for c in candidates) >= 5
    assert sum(c.flips for c in candidates) >= 5


@pytest.mark.parametrize(
    "option",
    [
        {"schedule": "clipped_cosine", "min_lr": 0.25},
        {"optimizer": "sgd", "lr": 20.0},
        {"logits_dtype": "bfloat16"},
        {"logits_dtype": "bfloat16", "parameterisation": "latents"},
        {"relaxation_temperature": 4.0},
        {"end_token": "kept"},
    ],
    ids=str,
)
def test_each_option_of_the_released_code_matters_and_is_the_specification_s(option):
    """Alone, at a rate at which DTO moves tokens: the same in both engines, and not the default."""
    pair, problems = PAIRS[True], tiny_problems(PAIRS[True], 3)
    seen = []
    for own in ({}, option):
        options = {"n": 4, "passes": 1, "temperature": 1.0, "lr": 0.5, "steps": 4, **own}
        config = configure("nabla", options)
        found = drive_all([start(problem, config) for problem in problems], Executor(pair))
        if own:
            for problem, outcome in zip(problems, found, strict=True):
                assert_same(outcome, naive.nabla(pair, problem, config), flatten(config))
        seen.append([(c.new_token, c.moved, c.new_reward) for o in found for c in o.candidates])
    assert seen[0] != seen[1] and all(seen)


def test_certified_draws_are_those_of_the_specification():
    """With the default's small steps most draws are certified; no decision differs, passes do."""
    pair, problems = PAIRS[True], tiny_problems(PAIRS[True], 6)
    spent: dict[bool, int] = {}
    certified: dict[bool, int] = {}
    visited: dict[bool, int] = {}
    for certify in (True, False):
        options = {"n": 6, "passes": 3, "steps": 10, "temperature": 1.0, "certify": certify}
        config = configure("nabla", options)
        found = drive_all([start(problem, config) for problem in problems], Executor(pair))
        spent[certify] = sum(outcome.ledger.gradient_passes for outcome in found)
        for problem, outcome in zip(problems, found, strict=True):
            assert decisions(outcome) == decisions(naive.nabla(pair, problem, config))
            assert sum(c.certified for c in outcome.candidates) <= outcome.certified
            assert all(c.certified or c.gradient_norm is not None for c in outcome.candidates)
        certified[certify] = sum(outcome.certified for outcome in found)
        visited[certify] = sum(outcome.visited for outcome in found)
    assert 0.5 * visited[True] < certified[True] < visited[True] == visited[False]
    assert certified[False] == 0
    assert spent[True] < spent[False]

"""Scores and logits that are no numbers fail their problem, and masked tokens are never chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from broken_pairs import asked, masking, spoilt

from nabla_eval.engine.drive import drive, drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import Fault, PolicyError, RewardError
from nabla_eval.experimental import naive
from nabla_eval.methods.registry import configure, start
from nabla_eval.outcome import Outcome
from nabla_eval.testing import tiny_pair, tiny_problems


def test_a_method_ends_with_the_error_for_that_problem_alone() -> None:
    pair = spoilt(torch.nan)
    problems, config = asked(pair), configure("prefix_gradient", {})
    ends = dict(drive([start(problem, config) for problem in problems], Executor(pair)))
    fault = ends.pop(1)
    assert isinstance(fault, Fault) and isinstance(fault.error, PolicyError)
    assert [type(end) for end in ends.values()] == [Outcome, Outcome]
    with pytest.raises(PolicyError, match="not finite after 3 tokens"):
        naive.guided(pair, problems[1], config)


@pytest.mark.parametrize("method", ["prefix_gradient", "sequential_verify", "exact_top_k"])
def test_masked_tokens_are_never_chosen(method: str) -> None:
    pair = masking(tiny_pair(seed=3), [4, 7])
    options: dict[str, dict[str, Any]] = {
        "sequential_verify": {"tries": 50, "good_score": 100.0},
        "exact_top_k": {"candidates": 50},
    }
    config = configure(method, {"confidence": 1.0, **options.get(method, {})})
    for problem in tiny_problems(pair, 3):
        (found,) = drive_all([start(problem, config)], Executor(pair))
        written = naive.guided(pair, problem, config)
        assert found.tokens == written.tokens and not {4, 7} & {*found.tokens}


def test_a_prefix_score_that_is_no_number() -> None:
    pair = tiny_pair(seed=3, process=True)
    head = pair.judge.head
    reward = replace(pair.judge, head=lambda states: head(states) * torch.nan)
    broken = replace(pair, reward=reward)
    method = start(tiny_problems(pair, 1)[0], configure("prefix_gradient", {"confidence": 1.0}))
    with pytest.raises(RewardError, match="a score or a gradient that is no number after"):
        drive_all([method], Executor(broken))

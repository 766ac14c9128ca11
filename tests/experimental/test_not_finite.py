"""Scores and logits that are no numbers fail their problem, and masked tokens are never chosen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from broken_pairs import masking

from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.errors import RewardError
from nabla_eval.experimental import naive
from nabla_eval.methods.registry import configure, start
from nabla_eval.testing import tiny_pair, tiny_problems


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

"""Options that leave nothing of a prefix-guided method: they are said, and really leave nothing."""

from __future__ import annotations

from typing import Any

import pytest

from nabla_eval import generate
from nabla_eval.methods.registry import configure
from nabla_eval.testing import tiny_pair

GREEDY: tuple[str, dict[str, Any]] = ("greedy", {})


@pytest.mark.parametrize(
    ("method", "options", "said", "other"),
    [
        ("locate_repair", {"n": 1}, "n=1 is the draft alone", ("best_of_n", {"n": 1})),
        ("prefix_gradient", {"beta": 0}, "beta=0 is greedy decoding", GREEDY),
        ("exact_top_k", {"beta": 0}, "beta=0 is greedy decoding", GREEDY),
        ("exact_top_k", {"candidates": 1}, "candidates=1 is greedy decoding", GREEDY),
        ("sequential_verify", {"tries": 1}, "tries=1 is greedy decoding", GREEDY),
    ],
)
def test_they_are_said_and_leave_nothing(
    method: str, options: dict[str, Any], said: str, other: tuple[str, dict[str, Any]]
) -> None:
    assert said in (configure(method, options).idle or "")
    pair = tiny_pair(process=True)
    for problem in ("ab", "cab"):
        ours = generate(pair, problem, method, max_new_tokens=8, **options)
        theirs = generate(pair, problem, other[0], max_new_tokens=8, **other[1])
        assert ours.token_ids == theirs.token_ids


def test_a_flipped_sign_is_a_control_and_not_idle() -> None:
    assert configure("prefix_gradient", {"beta": -3}).idle is None

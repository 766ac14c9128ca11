"""reports/probe: what is regressed, and how options are chosen within a number of calls."""

from __future__ import annotations

from typing import Any

import equal_calls
import pytest
import token_regression
import torch

import nabla_eval as ne
from nabla_eval.outcome import Draft
from nabla_eval.testing import additive_pair


def test_shares_of_a_reward_that_is_a_sum_are_found() -> None:
    """With enough drafts, exactly."""
    generator = torch.Generator().manual_seed(3)
    true = torch.randn(6, dtype=torch.float64, generator=generator)
    drafts = []
    for i in range(200):
        tokens = torch.randint(6, (4 + i % 5,), generator=generator)
        reward = float(true[tokens].sum() / (2 + len(tokens)))
        drafts.append(Draft(i, tuple(tokens.tolist()), "", "length", reward))
    found = token_regression.shares(drafts, 2, 6, ridge=1e-9)
    lengths = sum(2 + len(own.tokens) for own in drafts) / 200
    torch.testing.assert_close(found, true / lengths, rtol=1e-6, atol=1e-6)
    assert not token_regression.shares(drafts[:1], 2, 6, ridge=0.1).any()  # nothing to learn from


def test_a_tilt_favours_the_tokens_that_it_raises() -> None:
    pair = additive_pair()
    by = torch.zeros(pair.policy.vocabulary)
    by[7] = 50.0
    (made,) = ne.generate(
        token_regression.tilted(pair, by), ["abcd"], chat=False, max_new_tokens=5, method="greedy"
    )
    assert made.trace.tokens == (7,) * 5
    (plain,) = ne.generate(pair, ["abcd"], chat=False, max_new_tokens=5, method="greedy")
    assert plain.trace.tokens != (7,) * 5


def test_without_a_tilt_it_is_best_of_n_in_rounds() -> None:
    pair = additive_pair()
    reward, calls = token_regression.answer(
        pair, "abcd", 3, 8, n=2, rounds=2, ridge=0.1, tilt=0.0, temperature=1.0
    )
    rounds = [
        ne.generate(
            pair, ["abcd"], seed=6 + i, max_new_tokens=8, chat=False, method="best_of_n", n=2,
            temperature=1.0,
        )[0]
        for i in range(2)
    ]  # fmt: skip
    assert reward == max(own.trace.reward for own in rounds)
    assert calls == sum(own.stats["model_calls"] for own in rounds)


def test_options_are_chosen_by_reward_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equal_calls, "TRIED", {"own": {"n": [1, 2, 3]}})
    monkeypatch.setattr(equal_calls, "LIMITS", (150, 1000))

    def run(options: dict[str, int], split: str) -> list[tuple[float, float]]:
        gain = {1: 1.0, 2: 3.0, 3: 2.0}[options["n"]]
        test = 10.0 * (split == "test")
        return [(gain + test, 100.0 * options["n"]), (gain + test + 1, 100.0 * options["n"])]

    made = equal_calls.study("own", run)
    assert [row["options"]["n"] for row in made["rows"]] == [1, 2]
    assert made["rows"][1]["rewards"] == [13.0, 14.0]
    assert made["rows"][1]["calls"]["value"] == 200.0


def test_leads_are_paired() -> None:
    """Though rewards vary, a lead that is the same on every problem has no width."""

    def method(name: str, rewards: list[float]) -> dict[str, Any]:
        rows = [
            {"limit": limit, "options": {"n": 2}, "calls": {"value": 9.0}, "rewards": rewards}
            for limit in equal_calls.LIMITS
        ]
        return {"method": name, "tried": {"n": [2, 3]}, "rows": rows}

    told = equal_calls.paired([method("ours", [3.0, 9.0, 1.5]), method("theirs", [1.0, 7.0, -0.5])])
    assert told[1]["rows"][0]["lead"]["ci95"] == [2.0, 2.0]
    assert "| 100 | theirs | n 2 | 9 | 2.50 | +2.00 (+2.00 to +2.00) |" in equal_calls.table(told)
    assert equal_calls.section([], 40) == ""

"""Batches of gradients that fit a GPU's free memory, by arithmetic."""

from __future__ import annotations

import pytest

from nabla_eval.engine import gradient
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.gradient import MOST, affordable
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.memory import checkpoint_gradients
from nabla_eval.testing import tiny_pair, tiny_problems


def free(monkeypatch: pytest.MonkeyPatch, size: int | None) -> None:
    monkeypatch.setattr(gradient, "free_bytes", lambda device: size)


def test_tokens_follow_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = tiny_pair()
    assert affordable(pair) == MOST, "the CPU has no such bound"
    found = []
    for size in (0, 2**28, 2**29, 2**50):
        free(monkeypatch, size)
        found.append(affordable(pair))
    assert found[0] == 1 and found[3] == MOST
    assert found[2] == pytest.approx(2 * found[1], rel=1e-3)
    free(monkeypatch, 2**28)
    assert affordable(checkpoint_gradients(tiny_pair())) > found[1]


def test_little_memory_changes_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, taken = tiny_pair(seed=3), []
    config = configure("nabla", {"n": 8, "passes": 3, "temperature": 1.0, "lr": 0.3, "steps": 6})
    outcomes = []
    inner = gradient.differentiate
    monkeypatch.setattr(gradient, "differentiate", lambda *a: taken.append(len(a[1])) or inner(*a))
    for size in (None, 1):
        free(monkeypatch, size)
        taken.clear()
        problems = tiny_problems(pair, 6)
        found = drive_all([start(own, config) for own in problems], Executor(pair))
        outcomes.append(
            [(o.tokens, [(c.tokens, c.verdict) for c in o.candidates], o.ledger) for o in found]
        )
        assert (max(taken) == 1) is (size == 1)
    assert outcomes[0] == outcomes[1]

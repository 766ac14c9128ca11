"""reports/straight_through: the two gradients, against autograd and enumeration."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import nabla_eval as ne
from nabla_eval.engine import naive
from nabla_eval.options import Objective
from nabla_eval.randomness import Key

HOME = Path(__file__).parent


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("straight_through", HOME / "measure.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["straight_through"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["straight_through"]


def test_swapping_in_a_token_gives_that_response_its_loss(script: ModuleType) -> None:
    pair = ne.load_pair(dtype="float64")
    prompt = "20,14,7=39?"
    asked = pair.problem(
        pair.policy.encode(prompt),
        Key.root(0) / "test",
        messages=[{"role": "user", "content": prompt}],
        max_new_tokens=12,
    )
    tokens = list(pair.policy.encode("20-14=6", special=False))
    likelihood, reward = script.swapped(pair, asked, tokens, len(tokens), 1)
    for token in (tokens[1], 0, 5):
        changed = [tokens[0], token, *tokens[2:]]
        y = naive.one_hot(changed, pair.policy.vocabulary)
        for lam, weight in ((0.0, 1.0), (1.0, 1.0)):
            objective = Objective(lam=lam, nll_weight=weight)
            expected = float(naive.loss(pair, asked, y, len(tokens), objective).detach())
            found = float(weight * likelihood[token] + lam * reward[token])
            assert found == pytest.approx(expected, abs=1e-9)


def test_gradients_go_to_the_logits_through_the_softmax(script: ModuleType) -> None:
    z = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    g = torch.tensor([1.0, 4.0, -2.0], dtype=torch.float64)
    (expected,) = torch.autograd.grad(torch.softmax(z, -1) @ g, z)
    torch.testing.assert_close(script.onto_logits(torch.softmax(z, -1).detach(), g), expected)


def test_the_page_says_what_was_measured() -> None:
    stored = json.loads((HOME / "measured.json").read_text())
    page = (HOME / "README.md").read_text()
    assert f"{stored['positions']} positions" in page
    for name, row in stored["losses"].items():
        value, low, high = row["cosine"]
        assert -1 <= low <= value <= high <= 1
        assert f"| {name} | {value:.2f} ({low:.2f} to {high:.2f}) " in page

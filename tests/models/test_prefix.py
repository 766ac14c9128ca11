"""Prefixes that are encoded once, and without a graph, change no state, score or gradient."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import model_builders as build
import pytest
import torch

from nabla_eval.dto.objective import Site, differentiate, row_gradient
from nabla_eval.engine import naive
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import configure, start
from nabla_eval.models import prefix
from nabla_eval.models.load import policy_from, reward_from
from nabla_eval.models.pair import Pair
from nabla_eval.models.prefix import batching, forward
from nabla_eval.options import Objective
from nabla_eval.testing import tiny_pair, tiny_problems


def same(ours: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal to 1e-12 of the largest entry."""
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12 * scale)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut however little it spares, as large models do."""
    monkeypatch.setattr(prefix, "WORTH", -(10**9))


def batch(pair: Pair, lengths: tuple[int, ...] = (5, 1, 9, 12)) -> list[Site]:
    problems, words = tiny_problems(pair, len(lengths)), pair.policy.vocabulary
    tokens = [tuple((3 * i + 5 * j) % words for j in range(n)) for i, n in enumerate(lengths)]
    return [
        Site(problem.prompt, problem.affixes, own, len(own) - i % 2)
        for i, (problem, own) in enumerate(zip(problems, tokens, strict=True))
    ]


def as_whole(
    pair: Pair, objective: Objective, firsts: Iterable[tuple[int, ...]], patch: pytest.MonkeyPatch
) -> None:
    """Gradients from these positions of each site on are those of the whole pass."""
    sites, firsts = batch(pair), list(firsts)
    cut = [differentiate(pair, sites, objective, own) for own in firsts]
    patch.setattr(prefix, "WORTH", 10**9)
    expected = differentiate(pair, sites, objective)
    for own, found in zip(firsts, cut, strict=True):
        for site, first, ours, full in zip(sites, own, found, expected, strict=True):
            rows = range(first, len(site.tokens))
            assert ours.policy.shape[0] == len(rows)
            assert ours.value == pytest.approx(full.value, abs=1e-12)
            same(*(row_gradient(pair, backward, rows, objective) for backward in (ours, full)))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("kind", ["final", "process"])
@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_gradients_from_any_position_on_are_those_of_the_whole_pass(
    kind: Any, weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Objective(nll_weight=weight, reward_gradient=kind)
    firsts = itertools.product((0, 2, 4), (0,), (0, 8), (0, 5, 11))
    as_whole(tiny_pair(seed=1), objective, firsts, monkeypatch)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama", "mistral", "gpt2"])
def test_families_with_a_plain_cache(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"sliding_window": None} if family == "mistral" else {}
    tokenizer = build.word_tokenizer()
    policy = policy_from(build.tiny("policy", tokenizer, family, **options), tokenizer)
    judge = build.tiny("outcome", tokenizer, family, seed=1, **options)
    pair = Pair(policy, reward_from(judge, tokenizer, policy))
    assert batching(pair.policy.base).reusable and batching(pair.judge.base).reusable
    as_whole(pair, Objective(nll_weight=0.5), [(3, 0, 6, 2)], monkeypatch)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("mistral", {"sliding_window": 4}),
        ("gemma2", {"sliding_window": 4}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_other_caches_run_whole(family: str, options: dict[str, Any]) -> None:
    tokenizer = build.word_tokenizer()
    model = build.tiny("policy", tokenizer, family, **options)
    assert not batching(model.base_model).reusable
    found = batching(policy_from(model, tokenizer).base)
    assert found.cached and not found.reusable  # it may still be decoded


def test_what_is_cut_keeps_no_graph_and_shares_equal_prefixes(always: None) -> None:
    pair = tiny_pair()
    rows = [(2, 3, 4, 5, 6), (2, 3, 4, 7), (9, 8, 7, 6)]
    policy = pair.policy
    run = forward(
        policy.base, policy.embedding.__getitem__, rows, [3, 3, 2], policy.device, grad=True
    )
    assert run.prefixes is not None and run.prefixes.owner == [0, 0, 1]
    assert run.embeds.shape[1] == 2 and run.states.requires_grad
    assert not run.prefixes.states.requires_grad
    assert not any(t.requires_grad for pair_ in run.prefixes.layers for t in pair_)
    for i, row in enumerate(rows):
        alone = policy.base(input_ids=torch.tensor([row])).last_hidden_state[0]
        count = len(row) - [3, 3, 2][i]
        same(run.tail(i, count), alone[-count:])
        same(run.before(i, count), alone[-count - 1 : -count])


def test_rows_before_the_first_are_refused(always: None) -> None:
    pair, objective = tiny_pair(), Objective()
    backwards = differentiate(pair, batch(pair), objective, [2, 0, 0, 0])
    with pytest.raises(ValueError, match="from position 2 on, and 1 was asked"):
        row_gradient(pair, backwards[0], [3, 1], objective)


@pytest.mark.usefixtures("always")
def test_decisions_are_those_of_the_specification() -> None:
    pair = tiny_pair(seed=3)
    options = {"n": 8, "passes": 3, "temperature": 1.0, "lr": 0.3, "steps": 6, "update": "all"}
    config = configure("nabla", options)
    problems = tiny_problems(pair, 3, seed=4)
    fast = drive_all([start(problem, config) for problem in problems], Executor(pair))
    for problem, outcome in zip(problems, fast, strict=True):
        slow = naive.nabla(pair, problem, config)
        assert (outcome.tokens, outcome.stop) == (slow.tokens, slow.stop)
        assert [c.tokens for c in outcome.candidates] == [c.tokens for c in slow.candidates]
        assert [c.verdict for c in outcome.candidates] == [c.verdict for c in slow.candidates]
    assert sum(c.flips for outcome in fast for c in outcome.candidates) > 0

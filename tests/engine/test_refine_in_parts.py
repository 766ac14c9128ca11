"""DTO on many rows, and gradients in little memory: parts at a time, with the same result."""

from __future__ import annotations

import gc
import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from live_bytes import peak

from nabla_eval.dto import loop, objective
from nabla_eval.engine import gradient, refine
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.gradient import MOST, Gradients, affordable, gradient_norms
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.refine import Solution, start_of
from nabla_eval.engine.teacher_force import teacher_force
from nabla_eval.errors import Fault
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.memory import checkpoint_gradients
from nabla_eval.models.pair import Pair
from nabla_eval.options import DTO, Sampling
from nabla_eval.protocol import Differentiate, Refine
from nabla_eval.testing import tiny_pair, tiny_problems


def asks(pair: Pair, dto: DTO, tokens: int, count: int = 3) -> list[Refine]:
    problems = tiny_problems(pair, count, max_new_tokens=tokens)
    rows = [tuple(2 + (i + 3 * j) % 9 for j in range(tokens)) for i in range(count)]
    known = teacher_force(pair.policy, list(zip(problems, rows, strict=True)))
    return [
        Refine(problem, own, i, (problem.key,), Sampling(), dto)
        for i, (problem, own) in enumerate(zip(problems, known, strict=True))
    ]


def optimise_rows(pair: Pair, requests: list[Refine]) -> Solution:
    return refine.optimise_rows(pair, requests, PrefixCaches(), Gradients())


def in_parts(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    for module in (loop, objective, refine):
        monkeypatch.setattr(module, "_ELEMENTS", elements)


@pytest.mark.parametrize(
    ("anchor", "parameterisation", "grad_cache"),
    [*itertools.product(["argmax", "sampled"], ["logits", "latents"], [True, False])],
)
def test_parts_change_nothing(
    anchor: Any, parameterisation: Any, grad_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = tiny_pair(seed=3)
    dto = DTO(
        steps=6, lr=0.5, update="all", anchor=anchor, parameterisation=parameterisation,
        grad_cache=grad_cache,
    )  # fmt: skip
    requests = asks(pair, dto, 7)
    whole = optimise_rows(pair, requests)
    in_parts(monkeypatch, 2 * pair.policy.vocabulary)
    parts = optimise_rows(pair, requests)
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-10)
    assert torch.equal(parts.start, whole.start)
    assert (parts.passes, parts.flips) == (whole.passes, whole.flips)
    assert sum(whole.passes) > 0


def test_what_is_kept_at_flips_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descents at other rates find it, and are what they are without."""
    pair, gradients = tiny_pair(seed=3), Gradients()
    asked, taken = asks(pair, DTO(steps=8, lr=0.5, update="first"), 7), [0]
    real = gradient.take_passes

    def counted(pair: Pair, starts: Any, *rest: Any) -> Any:
        taken[-1] += len(starts)
        return real(pair, starts, *rest)

    for lr in (0.5, 0.5, 1.0):
        requests = [replace(own, dto=replace(own.dto, lr=lr)) for own in asked]
        plain = optimise_rows(pair, requests)
        assert min(plain.passes) > 0, "the rates must flip tokens"
        monkeypatch.setattr(gradient, "take_passes", counted)
        kept = refine.optimise_rows(pair, requests, PrefixCaches(), gradients, keep_flips=True)
        monkeypatch.undo()
        torch.testing.assert_close(kept.logits, plain.logits, rtol=0, atol=1e-10)
        assert (kept.passes, kept.flips) == (plain.passes, plain.flips)
        taken.append(0)
    first, again, faster, _ = taken
    assert first > len(asked), "a pass for each start, and for flips"
    assert again == 0 and faster <= sum(plain.passes)


def used(pair: Pair, request: Refine) -> float:
    """Peak bytes over those of one float32 number per free row and token."""
    found: list[Solution] = []
    gradients = Gradients()
    gradients.take(pair, [start_of(request)], request.dto.objective, PrefixCaches())
    most = peak(
        lambda: found.append(refine.optimise_rows(pair, [request], PrefixCaches(), gradients))
    )
    return most / (4 * found[0].logits.numel())


def test_memory_is_a_few_numbers_per_row_and_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start, z, two moments, dL/dy, the result and the anchor: 7, where all at once took 17.

    An eighth is the first dL/dy, which the shape checker of the tests holds on to.
    """
    pair = tiny_pair(vocabulary=2048, dtype=torch.float32)
    request = asks(pair, DTO(steps=4, lr=0.1, update="all", anchor="sampled"), 48, count=1)[0]
    whole = used(pair, request)
    in_parts(monkeypatch, 2 * pair.policy.vocabulary)
    assert 7 <= used(pair, request) < 9 < 12 < whole


@pytest.mark.parametrize("norm", ["logits", "onehot"])
@pytest.mark.parametrize("update", ["first", "all"])
def test_a_refinement_knows_the_norm_that_a_gate_would_have_asked_for(
    norm: Any, update: Any
) -> None:
    pair = tiny_pair(seed=3)
    dto = DTO(steps=2, anchor="sampled", update=update)
    requests = [replace(ask, norm=norm, relaxation=0.7) for ask in asks(pair, dto, 7)]
    gates = [
        Differentiate(ask.problem, ask.trajectory, ask.position, dto, norm=norm, temperature=0.7)
        for ask in requests
    ]
    known = gradient_norms(pair, gates, PrefixCaches(), Gradients())
    expected = [own.norms[ask.position] for ask, own in zip(requests, known, strict=True)]
    drawn = refine.refine(pair, requests)
    assert min(expected) > 0 and len(set(expected)) == len(expected)
    assert [draw.norm for draw in drawn] == pytest.approx(expected, rel=1e-9)
    twins = refine.refine(pair, [replace(ask, dto=DTO(steps=0)) for ask in requests])
    assert [twin.norm for twin in twins] == [None] * len(requests)
    assert [(own.certified, own.ready) for own in (*drawn, *twins)] == [((False,), True)] * 6


def test_a_gradient_is_taken_once_a_trajectory_and_goes_with_it() -> None:
    """Whoever asks first is charged; argmax anchors give each position a sequence of its own."""
    pair, gradients, caches = tiny_pair(seed=3), Gradients(), PrefixCaches()
    (first, *_) = asks(pair, DTO(steps=1, anchor="sampled"), 7)
    gate = Differentiate(first.problem, first.trajectory, 2, first.dto, rows=(1, 2, 5))
    (norms,) = gradient_norms(pair, [gate], caches, gradients)
    assert norms.cost.gradient_passes == 1 and norms.norms.keys() == {1, 2, 5}
    requests = [replace(first, position=i) for i in (1, 2, 6)]
    (early,) = refine.refine(pair, [replace(first, upto="certified")], caches, gradients)
    assert not isinstance(early, Fault) and early.tokens == (None,) and not early.ready
    drawn = refine.refine(pair, requests, caches, gradients)
    assert [own.cost.gradient_passes for own in drawn] == [0, 0, 0]
    (again,) = refine.refine(pair, [replace(first, upto="gradient")], caches, gradients)
    assert again.cost.gradient_passes == 1 and again.tokens == (None,)  # from position 0 on
    twins = [replace(first, trajectory=replace(first.trajectory, scored=6)), first]
    costs = [own.cost.gradient_passes for own in refine.refine(pair, twins, caches, gradients)]
    assert costs == [1, 0]
    own = first.trajectory
    apart = replace(own, argmax=tuple(2 + token % 9 for token in own.tokens))
    literal = [
        replace(first, trajectory=apart, position=i, dto=replace(first.dto, anchor="argmax"))
        for i in (0, 0, 3)
    ]
    found = refine.refine(pair, literal, caches, gradients)
    assert [one.cost.gradient_passes for one in found] == [1, 0, 1]
    assert len(gradients._taken) == 1
    del first, gate, requests, twins, own, apart, literal
    gc.collect()
    assert len(gradients._taken) == 0


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

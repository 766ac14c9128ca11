"""What was encoded for one response serves those that begin like it, and changes nothing else."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.cache import Pasts
from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.engine.gradient import gradients
from nabla_eval.engine.rollout import Decoder
from nabla_eval.engine.score import score
from nabla_eval.methods.registry import configure, start
from nabla_eval.models.pair import Pair
from nabla_eval.models.prefix import WORTH, keepable
from nabla_eval.options import Objective
from nabla_eval.requests import (
    Differentiate,
    Generate,
    Judgement,
    Problem,
    Score,
    Trajectory,
)
from nabla_eval.testing import tiny_pair, tiny_problems

SAME = {"rtol": 1e-12, "atol": 1e-12}


def written(problem: Problem, tokens: tuple[int, ...], scored: int) -> Trajectory:
    return Trajectory(tokens, "", scored, "eos", tokens, (), (), problem.key)


@contextmanager
def forwarded(base: torch.nn.Module) -> Iterator[list[int]]:
    """Tokens of each pass through a model."""
    passes: list[int] = []

    def count(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        given = kwargs.get("inputs_embeds", kwargs.get("input_ids"))
        passes.append(int(kwargs["attention_mask"][:, -given.shape[1] :].sum()))

    handle = base.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


WHOLE = (2, 3, 4, 5, 6, 7)
RIVALS = [(2, 3, 9, 5), (2, 3, 4, 5, 6, 8, 9), (8, 3, 4), (2, 3, 4), (2, 3, 4, 5, 6, 7, 9), WHOLE]


def alike(tokens: tuple[int, ...], framed: bool) -> int:
    """Tokens that a response begins with as `WHOLE` does; what comes last is read anyway."""
    most = len(tokens) if framed else len(tokens) - 1
    pairs = enumerate(zip(tokens[:most], WHOLE, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(most, len(WHOLE)))


@pytest.mark.parametrize("process", [True, False])
@pytest.mark.parametrize("budget", [10**6, 40, 0])
def test_a_score_goes_on_from_what_was_read(process: bool, budget: int) -> None:
    pair, pasts = tiny_pair(seed=2, process=process), Pasts(budget)
    problems = tiny_problems(pair, 2)
    asks = [Score(p, written(p, WHOLE, len(WHOLE)), branches=True) for p in problems]
    known = score(pair.judge, asks, pasts)
    assert pasts.tokens <= budget
    rivals = [
        Score(problem, written(problem, own, len(own)), like=like)
        for problem, like in zip(problems, known, strict=True)
        for own in RIVALS
        if isinstance(like, Judgement)
    ]
    with forwarded(pair.judge.base) as passes:
        ours = score(pair.judge, rivals, pasts)
    alone = [score(pair.judge, [replace(one, like=None)])[0] for one in rivals]
    for one, other in zip(ours, alone, strict=True):
        assert isinstance(one, Judgement) and isinstance(other, Judgement)
        assert one.reward == pytest.approx(other.reward, abs=1e-12)
        assert one.prefix_scores == pytest.approx(other.prefix_scores, abs=1e-12)
        assert len(one.prefix_scores) == (0 if not process else len(other.prefix_scores))
        assert one.cost == other.cost and one.past is None
    rows = [(p.frame.before, p.frame.after, own) for p in problems for own in RIVALS]
    every = sum(len(before) + len(own) + len(after) for before, after, own in rows)
    spared = sum(alike(own, bool(after)) + len(before) for before, after, own in rows)
    assert {10**6: every - spared, 0: every}.get(budget, sum(passes)) == sum(passes) <= every


def test_what_a_judgement_keeps_goes_on_growing() -> None:
    pair, pasts = tiny_pair(seed=2), Pasts(10**6)
    (problem,) = tiny_problems(pair, 1)
    like: Judgement | None = None
    for length in (2, 4, 7):
        ask = Score(problem, written(problem, tuple(range(2, 2 + length)), length), branches=True)
        with forwarded(pair.judge.base) as passes:
            (found,) = score(pair.judge, [replace(ask, like=like)], pasts)
        before = 0 if like is None else length - {4: 2, 7: 3}[length]
        frame = len(problem.frame.before) * (like is None) + len(problem.frame.after)
        assert passes == [length - before + frame]
        (alone,) = score(pair.judge, [replace(ask, branches=False)])
        assert isinstance(found, Judgement) and isinstance(alone, Judgement)
        assert found.reward == pytest.approx(alone.reward, abs=1e-12)
        assert found.prefix_scores == pytest.approx(alone.prefix_scores, abs=1e-12)
        like = found


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_a_gradient_goes_on_from_rollouts_and_scores(weight: float) -> None:
    pair, pasts = tiny_pair(seed=4), Pasts(10**6)
    problems = tiny_problems(pair, 16, max_new_tokens=12)
    decoder = Decoder(pair.policy, pasts=pasts)
    sampling = configure("nabla", {"temperature": 1.2}).sampling
    decoder.add(
        [(i, Generate(p, p.key / "draft", sampling, branches=True)) for i, p in enumerate(problems)]
    )
    found: dict[int, Trajectory] = {}
    while not decoder.idle:
        found.update(decoder.run())
    chosen = [i for i in range(16) if len(found[i].tokens) > 4]
    assert len(chosen) > 2
    judged = score(pair.judge, [Score(problems[i], found[i], branches=True) for i in chosen], pasts)
    asks = []
    for i, judgement in zip(chosen, judged, strict=True):
        assert isinstance(judgement, Judgement)
        tokens = found[i].tokens
        hard = (*tokens[:3], 2 + (tokens[3] - 1) % 9, *tokens[4:])  # alike up to 3
        asks.append(
            Differentiate(
                problems[i], found[i], hard, Objective(nll_weight=weight), rows=(2, 3),
                judgement=judgement,
            )
        )  # fmt: skip
    bare = [
        replace(one, trajectory=replace(one.trajectory, past=None), judgement=None) for one in asks
    ]
    spent: list[int] = []
    results = []
    for batch in (asks, bare):
        with forwarded(pair.policy.base) as policy, forwarded(pair.judge.base) as reward:
            results.append(gradients(pair, batch))
        spent += [sum(policy), sum(reward)]
    for one, other in zip(*results, strict=True):
        assert one.norms == pytest.approx(other.norms, abs=1e-10)
        for name in ("hidden", "policy", "reward"):
            torch.testing.assert_close(
                getattr(one.handle, name), getattr(other.handle, name), **SAME
            )
        assert one.handle.value == pytest.approx(other.handle.value, abs=1e-12)
        assert one.cost == other.cost
    prompts = sum(len(problems[i].prompt) + 2 for i in chosen)
    frames = sum(len(problems[i].frame.before) + 2 for i in chosen)
    assert spent[2] - spent[0] == prompts and spent[3] - spent[1] == frames


def test_a_hard_sequence_that_differs_early_is_encoded_whole() -> None:
    pair, pasts = tiny_pair(seed=4), Pasts(10**6)
    (problem,) = tiny_problems(pair, 1)
    own = written(problem, WHOLE, len(WHOLE))
    (judgement,) = score(pair.judge, [Score(problem, own, branches=True)], pasts)
    assert isinstance(judgement, Judgement)
    ask = Differentiate(
        problem, own, (2, 9, *WHOLE[2:]), Objective(), rows=(4,), norm=None, judgement=judgement
    )
    with forwarded(pair.judge.base) as passes:
        (ours,) = gradients(pair, [ask])
    (alone,) = gradients(pair, [replace(ask, judgement=None)])
    assert sum(passes) == len(WHOLE) + len(problem.frame.before) + len(problem.frame.after)
    torch.testing.assert_close(ours.handle.reward, alone.handle.reward, **SAME)


def run(pair: Pair, past: int) -> tuple[list[tuple[int, ...]], list[Ledger], int, int]:
    """Tokens, ledgers, tokens that the reward model read, and those that are kept at the end."""
    executor = Executor(pair, max_past_tokens=past)
    problems = tiny_problems(pair, 12, max_new_tokens=12)
    config = configure("nabla", {"n": 6, "temperature": 1.2})
    with forwarded(pair.judge.base) as passes:
        outcomes = drive_all([start(problem, config) for problem in problems], executor)
    gc.collect()
    ledgers = [outcome.ledger for outcome in outcomes]
    return [o.tokens for o in outcomes], ledgers, sum(passes), executor.reward_pasts.tokens


def test_nabla_reads_less_and_comes_to_the_same() -> None:
    pair = tiny_pair(seed=4)
    tokens, ledgers, read, kept = run(pair, 10**6)
    others, theirs, read_without, _ = run(pair, 0)
    assert tokens == others and kept == 0
    assert read < 0.8 * read_without
    names = ("scorings", "gradient_passes", "generated_tokens", "flips")
    for one, other in zip(ledgers, theirs, strict=True):
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]


def test_a_model_on_two_devices_keeps_nothing() -> None:
    pair = tiny_pair(seed=2)
    assert keepable(pair.judge.base)
    split = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta"))
    assert not keepable(split)


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([12] * 100 + [32] + [12] * 46, [1, 146]),  # one long one would pad all others
        ([12] * 9 + [32], [10]),  # too few to pay for a call
        ([WORTH + 2, 1, 2], [1, 2]),
        ([40] * 50 + [20] * 50 + [5] * 50, [50, 50, 50]),
        ([1], [1]),
    ],
)
def test_long_items_do_not_pad_many_short_ones(lengths: list[int], sizes: list[int]) -> None:
    batches: list[int] = []

    def together(batch: list[tuple[int, int]]) -> list[int]:
        batches.append(len(batch))
        return [i for i, _ in batch]

    items = list(enumerate(lengths))
    assert in_batches(together, items, lambda item: item[1], 10**9) == list(range(len(lengths)))
    assert batches == sizes


def test_out_of_memory_drops_what_is_kept_and_changes_nothing() -> None:
    pair = tiny_pair(seed=4)
    tokens, _, read, _ = run(pair, 10**6)

    def limited(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        if len(kwargs["inputs_embeds"]) > 4:
            raise torch.OutOfMemoryError("simulated")

    handle = pair.judge.base.register_forward_pre_hook(limited, with_kwargs=True)
    with pytest.warns(UserWarning, match="Out of memory"):
        others, _, more, _ = run(pair, 10**6)
    handle.remove()
    assert others == tokens and more > read

"""What the engine gains, and what it costs beside the bare models (figures a to d and g)."""

from __future__ import annotations

import random
from dataclasses import replace
from statistics import median
from typing import Any

import pytest
import torch
from clock import Clock, embedded_problems, solve
from random_pairs import QWEN2_5_HALF_B, SMALL, random_pair, random_problems
from references import Refining, written, written_by_transformers
from transformers import AutoModelForCausalLM

from nabla_eval import embedded as weights
from nabla_eval.api import load_pair
from nabla_eval.engine import naive
from nabla_eval.engine.rollout import rollout
from nabla_eval.methods.registry import configure
from nabla_eval.models.pair import Pair
from nabla_eval.options import Sampling
from nabla_eval.protocol import Generate

pytestmark = pytest.mark.benchmark(group="engine")


def test_fast_engine_against_the_specification(clock: Clock) -> None:
    """(a) 32 problems as one batch, and the specification's loops on a share of the same."""
    pair = load_pair(device="cpu", dtype="float64")  # where both must come to the same tokens
    problems = embedded_problems(pair, clock.of(32, 2))
    share = problems[: clock.of(4, 1)]
    options = {"n": clock.of(8, 2)}
    config = configure("nabla", options)
    fast, slow = [], []
    spent = clock.turns(
        lambda: fast.append(solve(pair, problems, "nabla", **options)),
        rounds=2,
        warm=0,
        naive=lambda: slow.append([naive.nabla(pair, problem, config) for problem in share]),
    )
    assert [o.tokens for o in fast[-1][: len(share)]] == [o.tokens for o in slow[-1]]
    if spent:
        scale = len(problems) / len(share)
        ratios = [scale * a / b for a, b in zip(spent["naive"], spent["subject"], strict=True)]
        clock.note("a", ratios=ratios, problems=len(problems), naive_problems=len(share))


@pytest.mark.parametrize("stop", [None, 0.0], ids=["no_stop", "stop"])
@pytest.mark.parametrize(
    ("rows", "lookahead"),
    [("problems", 1), ("problems", "auto"), ("rows", 1), ("rows", "auto"), ("many rows", 1)],
)
def test_nabla_against_best_of_n(
    clock: Clock, embedded: Pair, rows: str, lookahead: int | str, stop: float | None
) -> None:
    """(b) The same problems at the same N; as many problems, or as many responses, in flight."""
    n = 8
    sizes = {"problems": (128, 32, 32), "rows": (128, 128, 16), "many rows": (512, 512, 64)}
    count, width, other = sizes[rows]
    problems = embedded_problems(embedded, clock.of(count, 4))
    shared: dict[str, Any] = {"n": n} if stop is None else {"n": n, "stop_reward": stop}
    calls: dict[str, float] = {}
    flops: dict[str, float] = {}

    def run(method: str, width: int, **options: Any) -> None:
        outcomes = solve(embedded, problems, method, width, **shared, **options)
        calls[method] = sum(outcome.ledger.model_calls for outcome in outcomes) / len(outcomes)
        flops[method] = sum(outcome.ledger.flops for outcome in outcomes)

    spent = clock.turns(
        lambda: run("nabla", width, lookahead=lookahead),
        rounds=3,
        best_of_n=lambda: run("best_of_n", other),
    )
    if spent:
        ratios = [a / b for a, b in zip(spent["subject"], spent["best_of_n"], strict=True)]
        clock.note(
            "b",
            ratios=ratios,
            equal=rows,
            lookahead=lookahead,
            stop=stop is not None,
            calls=calls["nabla"],
            calls_best_of_n=calls["best_of_n"],
            flops=flops["nabla"] / flops["best_of_n"],
            problems=len(problems),
            width=width,
            width_best_of_n=other,
        )


@pytest.mark.parametrize("kind", ["unequal", "embedded"])
def test_decode_loop_against_generate(clock: Clock, embedded: Pair, kind: str) -> None:
    """(c) Tokens per second of our decode loop by those of `model.generate` on the same batch."""
    if kind == "unequal":
        pair, model = random_pair()
        draw = random.Random(0)
        longest = clock.of(256, 16)
        lengths = [draw.randint(longest // 16, longest) for _ in range(clock.of(32, 4))]
        problems = random_problems(pair, lengths)
    else:
        pair, lengths = embedded, None
        model = AutoModelForCausalLM.from_pretrained(weights.paths()[0]).eval()
        problems = embedded_problems(pair, clock.of(256, 4))
    ours, theirs = [], []
    spent = clock.turns(
        lambda: ours.append(written(pair, problems)),
        generate=lambda: theirs.append(written_by_transformers(pair, model, problems, lengths)),
    )
    if lengths is not None:
        assert ours[-1] == theirs[-1] == sum(lengths)
    if spent:
        speeds = zip(spent["subject"], spent["generate"], strict=True)
        ratios = [ours[-1] / a / (theirs[-1] / b) for a, b in speeds]
        clock.note(
            "c",
            ratios=ratios,
            batch=kind,
            rows=len(problems),
            tokens=ours[-1],
            per_second=ours[-1] / median(spent["subject"]),
        )


@pytest.mark.parametrize("kind", ["small", "embedded", "gated", "real"])
def test_dto_against_a_bare_pass(clock: Clock, embedded: Pair, kind: str) -> None:
    """(d) Gradient and T steps at one position a row, where nothing flips.

    Where a gate looks at gradient norms, those of all uncertain positions come on top: of two slim
    layers, beside which rows over the vocabulary are large, and of a real model's shape.
    """
    if kind == "embedded":
        pair, problems = embedded, embedded_problems(embedded, clock.of(32, 2))
    elif kind == "real":
        size = clock.of(QWEN2_5_HALF_B, SMALL)
        pair, _ = random_pair(clock.of(152_064, 64), size, size)
        problems = random_problems(pair, [clock.of(128, 8)] * 2)
    else:
        pair, _ = random_pair(vocabulary=clock.of(8192, 64))
        problems = random_problems(pair, [clock.of(256, 8)] * clock.of(8, 2))
    gated = kind in ("gated", "real")
    refine = Refining(pair, problems, gated)
    spent = clock.turns(refine, rounds=3 if kind == "real" else 9, bare=refine.bare)
    assert all(draw.flips == 0 for draw in refine.drawn)
    if spent:
        ratios = [a / b for a, b in zip(spent["subject"], spent["bare"], strict=True)]
        clock.note(
            "d",
            ratios=ratios,
            pair=kind if kind in ("embedded", "real") else "small",
            gated=gated,
            rows=len(refine.chosen),
            tokens=refine.tokens,
            vocabulary=pair.policy.vocabulary,
            steps=refine.config.dto.steps,
        )


def test_top_p_in_a_decode_step(clock: Clock) -> None:
    """(g) Decoding with top-p by decoding without, over a real vocabulary and 24 layers.

    The head is scaled until the nucleus is as small as a language model's: random weights spread
    the mass over nearly all tokens.
    """
    size = clock.of(QWEN2_5_HALF_B, SMALL)
    pair, _ = random_pair(vocabulary=clock.of(152_064, 512), policy=size, reward=SMALL)
    head = pair.policy.head
    with torch.no_grad():
        spread = head(torch.randn(4, size.hidden, generator=torch.manual_seed(0))).std()
    policy = replace(pair.policy, head=replace(head, scale=4.0 / float(spread)))
    rows, tokens = clock.of(16, 2), clock.of(8, 2)
    problems = random_problems(pair, [tokens] * rows)

    def run(top_p: float) -> None:
        sampling = Sampling(temperature=0.6, top_p=top_p)
        rollout(policy, [Generate(problem, problem.key, sampling) for problem in problems])

    spent = clock.turns(lambda: run(0.95), rounds=7, plain=lambda: run(1.0))
    if spent:
        ratios = [a / b for a, b in zip(spent["subject"], spent["plain"], strict=True)]
        clock.note(
            "g", ratios=ratios, rows=rows, layers=size.layers, vocabulary=pair.policy.vocabulary
        )

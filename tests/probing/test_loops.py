"""The two loops as one run that splits: draws as the engine makes them, and an unbiased margin."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from nabla_eval.engine.drive import drive, drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.nabla import nabla
from nabla_eval.methods.nabla_options import Nabla, uncertain
from nabla_eval.methods.registry import configure
from nabla_eval.options import change
from nabla_eval.probing import reach
from nabla_eval.probing.advantage import expected
from nabla_eval.probing.loops import first_differences, side_by_side, split_runs, systematic
from nabla_eval.probing.plan import Plan, ProbedProblem
from nabla_eval.probing.reach import couples
from nabla_eval.protocol import Differentiate, Generate, Part, Problem
from nabla_eval.testing import tiny_pair, tiny_problems


def test_the_chance_of_a_first_difference_is_that_of_none_before() -> None:
    weights, chance = first_differences([0.5, 0.0, 0.25, 1.0])
    assert weights == [0.5, 0.0, 0.125, 0.375]
    assert chance == 1.0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_places_are_drawn_in_proportion_to_their_weights(count: int) -> None:
    weights, grid = [0.0, 0.1, 0.0, 0.3, 0.0], 4000
    drawn = [i for k in range(grid) for i in systematic(weights, count, (k + 0.5) / grid)]
    assert {i: drawn.count(i) / len(drawn) for i in set(drawn)} == pytest.approx({1: 0.25, 3: 0.75})


def test_parts_write_their_responses_as_one_batch() -> None:
    """A part that is done with its quick requests waits for those of the others."""
    (problem,) = tiny_problems(tiny_pair(), 1)
    write = Generate(problem, problem.key, Nabla().sampling)

    def part(name: str, quick: int) -> Part:
        for i in range(quick):
            assert (yield [f"{name}{i}"]) == [f"<{name}{i}>"]
        assert (yield [write, write]) == ["text", "text"]
        return name

    def nothing() -> Part:
        return "nothing"
        yield []

    whole, rounds = side_by_side([part("a", 2), nothing(), part("b", 0)]), []
    answers: Any = None
    try:
        while True:
            rounds.append(whole.send(answers))
            answers = ["text" if own is write else f"<{own}>" for own in rounds[-1]]
    except StopIteration as stop:
        assert stop.value == ["a", "nothing", "b"]
    assert rounds == [["a0"], ["a1"], [write] * 4]


@pytest.mark.parametrize(
    "options",
    [{"lr": 0.5}, {"lr": 0.3, "update": "all"}, {"optimizer": "sgd", "lr": 1.0, "top_p": 0.8}],
    ids=str,
)
def test_coupled_draws_are_those_of_the_engine(options: dict[str, Any]) -> None:
    """DTO's and the twin's, key by key; a token that only one of both has more of is its own."""
    pair, config = tiny_pair(), Nabla(**options, min_probability=0.0)
    execute = Executor(pair)
    (problem,) = tiny_problems(pair, 1)
    (draft,) = execute([Generate(problem, problem.key / "draft", config.sampling)])
    asked: list[Any] = couples(problem, draft, range(len(draft.tokens)), config, draws=20)
    couplings = execute(asked)
    refines = [own.refine for own in asked]
    twins = [replace(own, dto=change(config, steps=0).dto) for own in refines]
    assert [own.dto for own in couplings] == [own.tokens for own in execute(refines)]
    assert [own.twin for own in couplings] == [own.tokens for own in execute(twins)]
    assert any(own.variation > 0.02 for own in couplings)
    for own in couplings:
        assert 0 <= own.variation <= 1
        assert not own.variation or set(own.more).isdisjoint(own.less)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"top_p": 0.8}, {"resample_top_p": 0.5}, {"resample_top_k": 2}, {"top_k": 4},
        {"update": "all", "anchor": "argmax"}, {"gradient_threshold": 1e-4}, {"lam": -2.0},
        {"resample_temperature": 0.5}, {"optimizer": "sgd"}, {"logits_dtype": "bfloat16"},
    ],
    ids=str,
)  # fmt: skip
def test_certified_draws_do_not_differ_and_nothing_moves_beyond_its_bound(
    options: dict[str, Any],
) -> None:
    pair, config = tiny_pair(), Nabla(**{"lr": 0.03, **options})
    execute, rows = Executor(pair), []
    for problem in tiny_problems(pair, 6):
        (draft,) = execute([Generate(problem, problem.key / "draft", config.sampling)])
        asked: list[Any] = couples(problem, draft, range(len(draft.tokens)), config, draws=50)
        found = execute(asked)
        rows += found
        for own in found:
            drawn = zip(own.certified, own.dto, own.twin, strict=True)
            assert not any(sure and a != b for sure, a, b in drawn)
    assert any(any(own.certified) for own in rows) == (set(options) <= BOUNDED)
    moved = dict.fromkeys(reach.settings(config), reach._sums(rows))
    bound = reach.summary([{"reach": moved}] * 2, config)["settings"][0]["variation_bound"]
    assert (bound is not None) == (set(options) <= BOUNDED | {"gradient_threshold"})
    assert bound is None or max(own.variation for own in rows) <= bound + 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {}, {"anchor": "argmax"}, {"gradient_norm": "onehot"}, {"reward_gradient": "process"},
        {"preset": "paper"}, {"preset": "released"}, {"resample_temperature": 0.5},
    ],
    ids=str,
)  # fmt: skip
def test_positions_are_those_that_pass_both_gates(options: dict[str, Any]) -> None:
    """Each norm taken by itself, against a threshold amid them."""
    own = dict(options)
    base = configure("nabla", own, own.pop("preset", None))
    pair, kept, unsure = tiny_pair(), 0, 0
    for problem in tiny_problems(pair, 4):
        (draft,) = Executor(pair)([Generate(problem, problem.key / "draft", base.sampling)])
        rest = {"norm": base.gradient_norm, "temperature": base.relaxation}
        norms = {
            i: Executor(pair)([Differentiate(problem, draft, i, base.dto, **rest)])[0].norms[i]
            for i in uncertain(draft, base)
        }
        middle = sorted(norms.values())[(len(norms) - 1) // 2 :][:2]
        config = change(base, gradient_threshold=sum(middle) / len(middle))
        part = reach.refined(problem, draft, config)
        with pytest.raises(StopIteration) as end:
            part.send(Executor(pair)(next(part)))
        assert end.value.value == [i for i, norm in norms.items() if config.steep(norm)]
        kept, unsure = kept + len(end.value.value), unsure + len(norms)
    assert 0 < kept < unsure


BOUNDED = {"update", "anchor", "lam", "resample_temperature"}


def loops(problem: Problem, config: Nabla, plan: Plan) -> Part:
    runs = yield from split_runs(
        problem, config, plan, lambda own: {"reward": own.reward, "right": None}
    )
    return ProbedProblem({"loops": runs})


def test_the_expected_margin_is_that_of_both_methods_run_apart() -> None:
    """Two independent estimates of one margin: apart by 4 standard errors once in 16,000 times."""
    pair = tiny_pair()
    config = Nabla(n=3, passes=2, lr=1.0, lam=3.0, gradient_threshold=1e-3)
    execute, plan = Executor(pair), Plan(repeats=1, splits=1)
    problems = tiny_problems(pair, 240, max_new_tokens=4)
    split = [
        end.figures["loops"]  # type: ignore[union-attr]
        for _, end in drive([loops(p, config, plan) for p in problems[:120]], execute, 120)
    ]
    told = expected(split, "reward")
    assert 0.1 < sum(run["differ"] for own in split for run in own) / len(split) < 1
    twin = change(config, steps=0)
    ours, theirs = (
        [
            float(own.reward or 0)
            for own in drive_all([nabla(p, c) for p in problems[120:]], execute, 120)
        ]
        for c in (config, twin)
    )
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean = sum(apart) / len(apart)
    error = math.sqrt(sum((own - mean) ** 2 for own in apart)) / len(apart)
    assert abs(told.value - mean) < 4 * math.hypot(told.se, error)


@pytest.mark.parametrize(
    "options",
    [
        {}, {"certify": False}, {"top_p": 0.8}, {"resample_top_k": 3}, {"grad_cache": False},
        {"gradient_threshold": 1e-4}, {"gradient_threshold": 0.01, "gradient_norm": "onehot"},
        {"gradient_threshold": 1e9}, {"anchor": "argmax", "update": "all", "certify": False},
        {"anchor": "argmax", "gradient_threshold": 1e-4}, {"preset": "paper"},
        {"preset": "released", "gradient_threshold": 0.01}, {"parameterisation": "latents"},
    ],
    ids=str,
)  # fmt: skip
def test_gradients_are_counted_as_the_method_takes_them(options: dict[str, Any]) -> None:
    """At a rate that changes no draw both runs are one, and the ledger says what it took."""
    pair = tiny_pair()
    few = {"n": 4, "passes": 3, "lr": 1e-6, "min_lr": 1e-7, "lookahead": 1, **options}
    config = configure("nabla", few, few.pop("preset", None))
    assert isinstance(config, Nabla)
    execute, problems = Executor(pair), tiny_problems(pair, 6)
    counts, plan = [], Plan(repeats=1)
    for _, end in sorted(drive([loops(p, config, plan) for p in problems], execute)):
        (run,) = end.figures["loops"]  # type: ignore[union-attr]
        assert run["differ"] < 1e-3
        counts.append((run["draws"], run["gradient_passes"]))
    ends = drive_all([nabla(p, config) for p in problems], Executor(pair))
    assert counts == [(own.visited, own.ledger.gradient_passes) for own in ends]
    assert any(passes for _, passes in counts) or config.certifies


def test_without_reach_nothing_is_rolled_out_twice() -> None:
    """In bfloat16 at a tiny rate no logit moves: no split, and a margin of exactly 0."""
    pair = tiny_pair()
    config = Nabla(n=3, lr=1e-6, min_lr=0.0, logits_dtype="bfloat16")
    (problem,) = tiny_problems(pair, 1)
    ((_, end),) = drive([loops(problem, config, Plan())], Executor(pair))
    runs = end.figures["loops"]  # type: ignore[union-attr]
    assert [(run["differ"], run["splits"]) for run in runs] == [(0, []), (0, [])]
    assert expected([runs], "reward").value == 0

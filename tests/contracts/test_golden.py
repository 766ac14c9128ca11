"""Same seeds, same answers: every method on tiny problems against a trace that is kept in git.

`golden.jsonl` is an ordinary trace, so it also shows that traces of its day are still read, also
those of options that were removed since. Where a method is meant to answer otherwise, run this file
as a script: it writes the trace again, but for those.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nabla_eval.engine.drive import drive_all
from nabla_eval.engine.execute import Executor
from nabla_eval.methods.registry import METHODS, configure, start
from nabla_eval.options import REMOVED
from nabla_eval.testing import tiny_pair, tiny_problems
from nabla_eval.traces.read import read, restore
from nabla_eval.traces.schema import seal
from nabla_eval.traces.write import record

GOLDEN = Path(__file__).with_name("golden.jsonl")
PROBLEMS = 2
WARM = {"n": 5, "temperature": 1.2}
AT_C = {"step": "regex", "step_regex": "c", "temperature": 1.2}
SMALL = {"iterations": 3, "branching": 2}
DTO = {**WARM, "passes": 3, "lr": 0.3, "steps": 5}
SEARCH = {**AT_C, "breadth": 2, "proposals": 2, "depth": 3}

# Name of a case -> method, preset, options. An outcome reward judges the cases named "outcome ...".
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "nabla": ("nabla", None, DTO),
    "outcome nabla": ("nabla", None, DTO),
    "twin": ("nabla", None, {**DTO, "steps": 0}),
    "defaults": ("nabla", None, {}),
    "paper": ("nabla", "paper", {}),
    "released": ("nabla", "released", {"gradient_threshold": 0.1}),
    "released_amc": ("nabla", "released_amc", {"acceptance": "released", "lr": 0.5}),
    "all": ("nabla", None, {**DTO, "update": "all", "anchor": "argmax", "lookahead": "auto"}),
    "latents": ("nabla", None, {**DTO, "parameterisation": "latents", "grad_cache": False}),
    "sgd": ("nabla", None, {**DTO, "optimizer": "sgd", "lr": 20.0, "lookahead": 3}),
    "gated": ("nabla", None, {**DTO, "gradient_threshold": 0.1, "uncertainty": "top_probability"}),
    "process": ("nabla", None, {**DTO, "reward_gradient": "process", "certify": False}),
    "negated": ("nabla", None, {**DTO, "lam": -1.0, "stop_reward": 0.5}),
    "cut off": ("nabla", None, {**DTO, "max_calls": 40}),
    "greedy": ("greedy", None, {}),
    "best_of_n": ("best_of_n", None, WARM),
    "outcome best_of_n": ("best_of_n", "paper", {"stop_reward": 0.0}),
    "majority": ("best_of_n", None, {**WARM, "evaluator": "majority"}),
    "self_consistency": ("self_consistency", None, WARM),
    "weighted_best_of_n": ("weighted_best_of_n", None, {**WARM, "weighting": "borda"}),
    "beam": ("beam", None, {**AT_C, "width": 3, "beams": 2}),
    "dvts": ("dvts", None, {**AT_C, "width": 3}),
    "paper dvts": ("dvts", "paper", {"step": "tokens", "step_tokens": 2, "step_score": "prod"}),
    "particle_filtering": ("particle_filtering", None, {**AT_C, "particles": 4}),
    "sampled particle_filtering": (
        "particle_filtering", None,
        {
            **AT_C, "particles": 4, "resampling": "systematic", "ess_threshold": 0.6,
            "answer": "sample", "weight_temperature": 0.5, "step_score": "min",
        },
    ),
    "tree_of_thought": ("tree_of_thought", None, SEARCH),
    "asked tree_of_thought": (
        "tree_of_thought", None,
        {**SEARCH, "evaluator": "self", "evaluation": "vote", "reply_tokens": 20},
    ),
    "rap": ("rap", None, {**AT_C, **SMALL, "depth": 3}),
    "likely rap": ("rap", None, {**AT_C, **SMALL, "depth": 2, "evaluator": "likelihood"}),
    "tpo": ("tpo", None, {"temperature": 1.0, "top_p": 1.0, "iterations": 1, "reply_tokens": 30}),
    "prefix_gradient": ("prefix_gradient", None, {}),
    "outcome prefix_gradient": ("prefix_gradient", None, {"guidance": "lazy"}),
    "sequential_verify": ("sequential_verify", None, {}),
    "exact_top_k": ("exact_top_k", None, {}),
    "locate_repair": ("locate_repair", None, {**WARM, "error_below": 1.0}),
    "exact locate_repair": (
        "locate_repair", None, {**WARM, "error_below": 1.0, "chooser": "exact_top_k"},
    ),
}  # fmt: skip


@cache
def pair_of(kind: str):
    return tiny_pair(seed=3, process=kind != "outcome", chat=kind == "chat")


def answered(name: str) -> list[dict[str, Any]]:
    """Records of a case's problems."""
    method, preset, options = CASES[name]
    sequential = {"lookahead": 1} if method == "nabla" else {}
    config = configure(method, {**sequential, **options}, preset)
    chat = config.needs_chat or name.startswith("asked")
    pair = pair_of("chat" if chat else "outcome" if name.startswith("outcome") else "process")
    problems = tiny_problems(pair, PROBLEMS, seed=1)
    outcomes = drive_all([start(problem, config) for problem in problems], Executor(pair))
    decode = pair.policy.decode
    return [
        {
            **record(problem, method, config, outcome, 0.0, lambda t: decode([t]), decode),
            "id": f"{name}/{i}/0",
            "versions": {},
        }
        for i, (problem, outcome) in enumerate(zip(problems, outcomes, strict=True))
    ]


@cache
def golden() -> dict[str, Any]:
    return {stored["id"]: stored for stored in read(GOLDEN)}


def alike(ours: Any, theirs: Any, at: str) -> None:
    """Equal, and floats to the last few digits, which depend on the machine."""
    if isinstance(ours, float) and isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-8), at
    elif isinstance(ours, Mapping):
        assert ours.keys() == theirs.keys(), at
        for key, value in ours.items():
            alike(value, theirs[key], f"{at} {key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), at
        for i, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            alike(one, other, f"{at} {i}")
    else:
        assert ours == theirs, at


def test_every_method_is_in_the_golden_run() -> None:
    assert METHODS.keys() <= {method for method, _, _ in CASES.values()}
    assert {name for name in CASES if CASES[name][0] in METHODS} <= {
        identifier.split("/")[0] for identifier in golden()
    }


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0] in METHODS])
def test_tokens_candidates_verdicts_and_rewards_are_those_of_the_golden_run(name: str) -> None:
    for ours in answered(name):
        theirs = golden()[ours["id"]]
        for part in ("key", "problem_hash", "prompt", "outcome", "drafts", "candidates", "steps"):
            alike(ours[part], theirs[part], f"{ours['id']} {part}")
        alike(ours.get("choices"), theirs.get("choices"), f"{ours['id']} choices")
        if ours["config"].get("lookahead") != "auto":  # how much is speculative is no promise
            alike(ours["ledger"], theirs["ledger"], f"{ours['id']} ledger")
        assert {k: theirs["config"][k] for k in ours["config"]} == ours["config"]


def test_traces_of_then_are_read_and_restored() -> None:
    for stored in golden().values():
        outcome = restore(stored)
        assert outcome.tokens == stored["outcome"]["tokens"]
        assert len(outcome.candidates) == len(stored["candidates"])
        assert outcome.ledger.as_dict() == stored["ledger"]


def test_removed_options_that_did_something_are_still_told() -> None:
    for name, option in (
        ("error_below", 0.0), ("anchor_offset", "margin"), ("weight_decay", 0.1),
    ):  # fmt: skip
        case = f"removed {name.replace('anchor_offset', 'margin')}/0/0"
        assert golden()[case]["config"][name] == option
    assert not REMOVED.keys() & golden()["nabla/0/0"]["config"].keys()


if __name__ == "__main__":
    old = [line for line in GOLDEN.read_bytes().splitlines(True) if b'"id":"removed' in line]
    GOLDEN.write_bytes(b"".join([*(seal(own) for n in CASES for own in answered(n)), *old]))

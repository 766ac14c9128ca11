"""Records of made-up problems, for tests of what happens to them on disk."""

from __future__ import annotations

import dataclasses

from nabla_eval.cost.ledger import Ledger
from nabla_eval.methods.nabla_options import Nabla
from nabla_eval.outcome import Candidate, Draft, Outcome
from nabla_eval.protocol import Problem, TemplateAffixes
from nabla_eval.randomness import Key
from nabla_eval.traces import record

CONFIG = Nabla(n=4)
MODELS = {"policy": "tiny", "reward": "tiny-rm"}


def problem(index: int = 0, seed: int = 0, **changes) -> Problem:
    base = Problem(
        key=Key.root(seed) / index,
        prompt=(5, 6, 7 + index),
        affixes=TemplateAffixes((1,), (2,)),
        max_new_tokens=18,
        stop=(";",),
        text=f"problem {index}",
        id=f"task/{index}/0",
    )
    return dataclasses.replace(base, **changes)


def candidate(**changes) -> Candidate:
    base = Candidate(
        index=0,
        sweep=1,
        position=2,
        entropy=0.7,
        top_probability=0.5,
        gradient_norm=3.25,
        old_token=10,
        new_token=11,
        old_reward=-0.5,
        new_reward=0.25,
        verdict="accepted",
        tokens=(1, 2, 11, 4),
        text="1 2 11 4",
        stop="eos",
        flips=1,
        moved=0.125,
    )
    return dataclasses.replace(base, **changes)


OUTCOME = Outcome(
    text="1 2 11 4",
    tokens=(1, 2, 11, 4),
    stop="eos",
    reward=0.25,
    drafts=(Draft(0, (1, 2, 10, 4), "1 2 10 4", "eos", -0.5), Draft(1, (), "", "length")),
    candidates=(candidate(), candidate(index=1, gradient_norm=None, verdict="tie")),
    visited=3,
    positions=4,
    ended="budget",
    ledger=Ledger(generated_tokens=9, gradient_passes=2, scorings=3, flops=1e18),
)


def line(index: int = 0, outcome: Outcome = OUTCOME, **changes):
    return record(
        problem(index, **changes),
        "nabla",
        CONFIG,
        outcome,
        0.5,
        token_text=lambda token: f"<{token}>",
        decode=lambda tokens: " ".join(map(str, tokens)),
        models=MODELS,
    )

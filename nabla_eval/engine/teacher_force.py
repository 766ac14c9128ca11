"""Trajectories of tokens that were written elsewhere: one forward pass over each, no cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger, forward_flops
from nabla_eval.engine.response import no_distribution, statistics
from nabla_eval.errors import ContextError
from nabla_eval.models.pair import Policy
from nabla_eval.models.prefix import padded, position_ids
from nabla_eval.protocol import Problem, Replay, Trajectory

_ELEMENTS = 2**25  # of positions x V formed at once


@dataclass(frozen=True)
class Written:
    """A sequence whose last `count` tokens are new to the local policy."""

    tokens: tuple[int, ...]
    count: int
    problem: Problem | None = None


@torch.inference_mode(False)
@torch.no_grad()
def read(policy: Policy, rows: Sequence[Written]) -> list[tuple[dict[str, list[Any]], Tensor]]:
    """Return statistics and states `[count, D]` at the new tokens of each sequence, as one batch.

    Raises `PolicyError` where the policy's logits are not finite.
    """
    ids, mask = padded([row.tokens[:-1] for row in rows], policy.device)
    hidden = policy.base(
        input_ids=ids, attention_mask=mask, position_ids=position_ids(mask), use_cache=False
    ).last_hidden_state
    states = [hidden[i, -row.count :].clone() for i, row in enumerate(rows)]
    return [(_columns(policy, own, row), own) for own, row in zip(states, rows, strict=True)]


def _columns(policy: Policy, states: Tensor, row: Written) -> dict[str, list[Any]]:
    """Take statistics at every position, in parts so that L x V is never held at once."""
    columns: dict[str, list[Any]] = {}
    size = max(1, _ELEMENTS // policy.vocabulary)
    written = torch.tensor(row.tokens[-row.count :], device=policy.device)
    for part, drawn in zip(states.split(size), written.split(size), strict=True):
        for name, values in statistics(policy.head(part), drawn).items():
            columns.setdefault(name, []).extend(values.tolist())
    broken = [i for i, top in enumerate(columns["top_probability"]) if math.isnan(top)]
    if broken:
        before = 0 if row.problem is None else len(row.problem.prompt)
        raise no_distribution(policy, row.problem, len(row.tokens) - row.count - before + broken[0])
    return columns


def replay(policy: Policy, requests: Sequence[Replay]) -> list[Trajectory]:
    """Return trajectories of given texts, each the prefix's tokens and those of the text.

    They end as a step does, since what follows a text is open. Raises as `teacher_force` does.
    """
    rows = []
    for request in requests:
        before = () if request.prefix is None else request.prefix.tokens
        rows.append((request.problem, before + policy.encode(request.text, special=False)))
    return [
        replace(trajectory, stop="step" if trajectory.stop == "length" else trajectory.stop)
        for trajectory in teacher_force(policy, rows)
    ]


def teacher_force(
    policy: Policy, rows: Sequence[tuple[Problem, tuple[int, ...]]]
) -> list[Trajectory]:
    """Return trajectories of given response tokens, as one left-padded batch.

    Raises `ContextError` for a response that is too long, or of no tokens, and `PolicyError` where
    the policy's logits are not finite.
    """
    for problem, tokens in rows:
        if len(problem.prompt) + len(tokens) > policy.context or not problem.prompt or not tokens:
            raise ContextError(
                f"A prompt of {len(problem.prompt)} tokens and a response of {len(tokens)} were "
                f"given. Give {policy.name} at least one of each, and at most {policy.context} "
                "together."
            )
    written = [
        Written((*problem.prompt, *tokens), len(tokens), problem) for problem, tokens in rows
    ]
    found = []
    for own, (columns, states) in zip(written, read(policy, written), strict=True):
        tokens, ended = own.tokens[-own.count :], own.tokens[-1] in policy.end_ids
        scored = own.count - ended
        assert own.problem is not None
        flops = forward_flops(policy.parameters, len(own.tokens) - 1)
        found.append(
            Trajectory(
                tokens=tokens,
                text=policy.shown(tokens[:scored], own.problem.thought),
                scored=scored,
                stop="eos" if ended else "length",
                key=own.problem.key,
                states=states,
                cost=Ledger(scorings=1, flops=flops),
                **{name: tuple(values) for name, values in columns.items()},
            )
        )
    return found

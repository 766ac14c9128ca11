"""Teacher forcing of tokens that were written elsewhere: one forward pass, no cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nabla_eval.engine.batching import left_pad, positions
from nabla_eval.engine.response import no_distribution, statistics
from nabla_eval.models.pair import Policy
from nabla_eval.protocol import Problem

_ELEMENTS = 2**25  # of positions x V formed at once


@dataclass(frozen=True)
class Written:
    """A sequence whose last `count` tokens are new to the local policy."""

    tokens: tuple[int, ...]
    count: int
    problem: Problem | None = None


@torch.inference_mode(False)
@torch.no_grad()
def reread(policy: Policy, rows: Sequence[Written]) -> list[tuple[dict[str, list[Any]], Tensor]]:
    """Statistics and states `[count, D]` at the new tokens of each sequence, as one batch.

    Raises `PolicyError` where the policy's logits are not finite.
    """
    ids, mask = left_pad([row.tokens[:-1] for row in rows], policy.pad_id, policy.device)
    hidden = policy.base(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
    ).last_hidden_state
    states = [hidden[i, -row.count :].clone() for i, row in enumerate(rows)]
    return [(_columns(policy, own, row), own) for own, row in zip(states, rows, strict=True)]


def _columns(policy: Policy, states: Tensor, row: Written) -> dict[str, list[Any]]:
    """Statistics at every position, in parts so that L x V is never held at once."""
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

"""Gradients of L at hard sequences: taken once each, for `Refine` and for the norms of its gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nabla_eval.cost.ledger import Ledger, gradient_flops
from nabla_eval.dto.objective import (
    EmbeddingGradients,
    Site,
    differentiate,
    reward_rows,
    row_gradients,
    spans,
    widen,
)
from nabla_eval.dto.relaxation import soft_backward
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.prefix_cache import PrefixCaches, agreement
from nabla_eval.errors import Fault, PolicyError
from nabla_eval.models import memory
from nabla_eval.models.memory import Shape, Use
from nabla_eval.models.pair import Pair
from nabla_eval.options import DTO, Objective
from nabla_eval.protocol import Differentiate, GradientNorms, Problem, Trajectory

MOST = 2**17  # padded tokens of a batch of gradients
_ELEMENTS = 2**25  # of rows x V formed at once for norms
_SHARE = 0.8  # of the free memory; the rest is for what a pass uses and does not keep
_TYPICAL = 2048  # tokens of a sequence: its mask grows with their square

Hard: TypeAlias = tuple[int, ...]


def hard_sequence(trajectory: Trajectory, committed: int, dto: DTO) -> Hard:
    """Return the one-hot sequence at which L is differentiated when `committed` tokens are fixed.

    anchor=sampled: the trajectory itself. anchor=argmax: Alg. 2 read literally, the committed
    tokens and then the argmax of each z_i, which need not be the tokens that were sampled.
    """
    if dto.anchor == "sampled":
        return trajectory.tokens
    return trajectory.tokens[:committed] + trajectory.argmax[committed:]


@dataclass(frozen=True)
class Start:
    """Where a descent begins: a trajectory's hard sequence, from position `first` on."""

    problem: Problem
    trajectory: Trajectory
    hard: Hard
    first: int = 0

    def with_tokens(self, rows: range, tokens: Sequence[int]) -> Start:
        """Put other hard tokens into some rows, from which the gradient is wanted."""
        hard = (*self.hard[: rows.start], *tokens, *self.hard[rows.stop :])
        return replace(self, hard=hard, first=rows.start)


class Gradients:
    """Gradients that were taken, each as long as the trajectory is there that it was taken for.

    By causality dL/dy_i does not depend on how much of y has been committed (DESIGN 3.6), so one
    pass at a hard sequence serves every position. None is dropped to make room: what a method is
    charged, and so where a budget ends it, must not depend on what else is in flight.
    """

    def __init__(self) -> None:
        self._taken = WeakTensorKeyDictionary()  # by the trajectory's states
        self._flipped = WeakTensorKeyDictionary()  # the same, of single rows

    def clear(self) -> None:
        """Drop all."""
        self._taken.clear()
        self._flipped.clear()

    def find(self, start: Start, objective: Objective) -> EmbeddingGradients | None:
        """Return the gradient at a hard sequence, if it was taken from that position on."""
        held = self._taken.get(start.trajectory.states, {})
        found: EmbeddingGradients | None
        found = held.get((start.hard, start.trajectory.scored, objective))
        return found if found is None or found.first <= start.first else None

    def take(
        self, pair: Pair, starts: Sequence[Start], objective: Objective, caches: PrefixCaches
    ) -> tuple[list[EmbeddingGradients], list[Ledger]]:
        """Take those that are not known; what each start is charged, the first of equal ones."""
        new: dict[tuple[int, Hard, int], int] = {}
        for i, start in enumerate(starts):
            if self.find(start, objective) is None:
                place = id(start.trajectory.states), start.hard, start.trajectory.scored
                new.setdefault(place, i)
        costs = [Ledger() for _ in starts]
        missing = [starts[i] for i in new.values()]
        taken = take_passes(pair, missing, objective, caches)
        for i, start, own in zip(new.values(), missing, taken, strict=True):
            held = self._taken.setdefault(start.trajectory.states, {})
            held[start.hard, start.trajectory.scored, objective] = own
            costs[i] = pass_cost(pair, start.problem, start.trajectory)
        found = [self.find(start, objective) for start in starts]
        return [own for own in found if own is not None], costs

    def at_flips(
        self, pair: Pair, starts: Sequence[Start], objective: Objective, caches: PrefixCaches
    ) -> list[EmbeddingGradients]:
        """Take passes that flips ask for, of which each start needs its first row alone.

        These rows are kept: descents that differ in their rates flip to the same few tokens.
        """
        held = [self._flipped.setdefault(start.trajectory.states, {}) for start in starts]
        names = [(s.hard, s.first, s.trajectory.scored, objective) for s in starts]
        known = list(zip(held, names, strict=True))
        new = {(id(own), name): i for i, (own, name) in enumerate(known) if name not in own}
        missing = [starts[i] for i in new.values()]
        for i, taken in zip(
            new.values(), take_passes(pair, missing, objective, caches), strict=True
        ):
            held[i][names[i]] = taken.first_row()
        return [own[name] for own, name in known]


def take_passes(
    pair: Pair, starts: Sequence[Start], objective: Objective, caches: PrefixCaches
) -> list[EmbeddingGradients]:
    """Take one pass of both models at each hard sequence, in batches that fit in memory."""
    found = in_batches(
        lambda batch: differentiate(
            pair, [_site(pair, s, caches) for s in batch], objective, [s.first for s in batch]
        ),
        starts,
        lambda s: sum(map(len, (s.problem.prompt, s.problem.affixes.before, s.hard))),
        affordable(pair),
        caches.clear,
    )
    for own in found:
        if isinstance(own, Fault):
            raise own.error
    return found


def _site(pair: Pair, start: Start, caches: PrefixCaches) -> Site:
    """Put a hard sequence in the trajectory's place, the same tokens of it scored.

    With what is cached of it, as far as it agrees with the trajectory, whose states it takes.
    """
    problem, trajectory, hard = start.problem, start.trajectory, start.hard
    own = Site(problem.prompt, problem.affixes, hard, trajectory.scored, states=trajectory.states)
    same = agreement(hard, trajectory.tokens)
    policy = caches.policy.find(problem.key, problem.prompt + hard[:same])
    reward = caches.reward.find(problem.key, reward_rows(pair.judge, [own])[0])
    return replace(
        own,
        policy=None if policy is None else policy.kv,
        reward=None if reward is None else reward.kv,
    )


def affordable(pair: Pair) -> int:
    """Return the padded tokens of a batch of gradients that fit in what the models' GPUs have free.

    By the arithmetic of `models.memory`, in which the two models take turns. On the CPU, where an
    operating system has other means, `MOST`.
    """
    tokens = MOST
    for model, table in ((pair.policy, pair.policy.embedding), (pair.judge, pair.judge.table)):
        free, config = free_bytes(table.device), getattr(model.base, "config", None)
        if free is not None and config is not None:
            checkpointing = memory.recomputes(model.base)
            use = Use(_TYPICAL, 2, table.dtype.itemsize, checkpointing=checkpointing)
            token = memory.kept(Shape.of(config), use) / use.count
            tokens = min(tokens, int(_SHARE * free / token))
    return max(1, tokens)


def free_bytes(device: torch.device) -> int | None:
    """Return memory that a GPU can still give, with what torch has set aside; None elsewhere."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def gradient_norms(
    pair: Pair, requests: Sequence[Differentiate], caches: PrefixCaches, gradients: Gradients
) -> list[GradientNorms | Fault]:
    """Return norms of requests that share DTO's options, norm and temperature, as one batch.

    One with a norm that is not finite comes back as a `Fault`.
    """
    dto = requests[0].dto
    starts, wanted, seen = [], list[tuple[int, int]](), set[tuple[int, Hard]]()
    for i, r in enumerate(requests):
        hard, rows = hard_sequence(r.trajectory, r.position, dto), [r.position]
        if (id(r.trajectory), hard) not in seen:
            rows = [j for j in r.rows if hard_sequence(r.trajectory, j, dto) == hard] or rows
        seen.add((id(r.trajectory), hard))
        wanted += [(i, row) for row in rows]
        starts.append(Start(r.problem, r.trajectory, hard, min(rows)))
    taken, costs = gradients.take(pair, starts, dto.objective, caches)
    norms: list[dict[int, float]] = [{} for _ in requests]
    size = max(1, _ELEMENTS // pair.policy.vocabulary)
    for begin in range(0, len(wanted), size):
        part = wanted[begin : begin + size]
        for (i, row), value in zip(part, _norms(pair, requests, taken, part), strict=True):
            norms[i][row] = value
    return [
        GradientNorms(own, cost)
        if all(map(math.isfinite, own.values()))
        else Fault(no_gradient(pair, request.problem, len(request.trajectory.tokens)))
        for request, own, cost in zip(requests, norms, costs, strict=True)
    ]


@torch.no_grad()
def _norms(
    pair: Pair,
    requests: Sequence[Differentiate],
    taken: Sequence[EmbeddingGradients],
    wanted: Sequence[tuple[int, int]],
) -> list[float]:
    """Return the norms at some rows (request, position), of one request after another."""
    first, logits = requests[0], None
    parts = [(i, [row for _, row in own]) for i, own in groupby(wanted, lambda place: place[0])]
    if first.norm == "logits":
        states = [requests[i].trajectory.states[span] for i, rows in parts for span in spans(rows)]
        logits = widen(pair.policy.head(torch.cat(states)))
    gradient = row_gradients(
        pair, [(taken[i], rows) for i, rows in parts], first.dto.objective,
        # Other hard tokens before a row than the trajectory's would give it other logits.
        logits if first.dto.anchor == "sampled" else None,
    )  # fmt: skip
    logits = gradient if logits is None else logits
    return row_norms(logits, gradient, first.norm, first.temperature)


def row_norms(
    logits: Tensor, gradient: Tensor, norm: Literal["logits", "onehot"], temperature: float
) -> list[float]:
    """Return the Euclidean norm of dL/dz or dL/dy (V-vectors both) of each row of dL/dy."""
    if norm == "logits":
        gradient = soft_backward(logits, gradient, temperature)
    found: list[float] = gradient.norm(dim=-1).tolist()
    return found


def no_gradient(pair: Pair, problem: Problem, tokens: int) -> PolicyError:
    """Return the error for a gradient that is not finite at a response of so many tokens."""
    policy, judge = pair.policy, pair.judge
    return PolicyError(
        f"The gradient through the policy {policy.name} in {policy.dtype} and the reward model "
        f"{judge.name} in {judge.dtype} is not finite at a response of {tokens} tokens (problem "
        f"{problem.id or '?'}). Try another dtype (float16 overflows where bfloat16 and float32 do "
        "not)."
    )


def pass_cost(pair: Pair, problem: Problem, trajectory: Trajectory, passes: int = 1) -> Ledger:
    """Return the cost of gradient passes through both models."""
    affixes = problem.affixes
    reward_tokens = len(affixes.before) + trajectory.scored + len(affixes.after)
    policy_tokens = len(problem.prompt) + len(trajectory.tokens) - 1
    one = gradient_flops(pair.policy.parameters, policy_tokens)
    one += gradient_flops(pair.judge.parameters, reward_tokens)
    return Ledger(gradient_passes=passes, flops=passes * one)

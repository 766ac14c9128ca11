"""Gradients of L at hard sequences: taken once each, for `Refine` and for the norms of its gate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nabla_eval.cost.flops import gradient_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import (
    Backward,
    Site,
    differentiate,
    reward_rows,
    row_gradients,
    spans,
    widen,
)
from nabla_eval.dto.relaxation import soft_backward
from nabla_eval.engine.batching import in_batches
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.errors import Fault, PolicyError
from nabla_eval.models import memory
from nabla_eval.models.gradient_checkpointing import recomputes
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
    """The one-hot sequence at which L is differentiated when `committed` tokens are fixed.

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


class Gradients:
    """Gradients that were taken, each as long as the trajectory is there that it was taken for.

    By causality dL/dy_i does not depend on how much of y has been committed (DESIGN 3.6), so one
    pass at a hard sequence serves every position. None is dropped to make room: what a method is
    charged, and so where a budget ends it, must not depend on what else is in flight.
    """

    def __init__(self) -> None:
        self._taken = WeakTensorKeyDictionary()  # by the trajectory's states

    def clear(self) -> None:
        """Drop all."""
        self._taken.clear()

    def find(self, start: Start, objective: Objective) -> Backward | None:
        """The gradient at a hard sequence, if it was taken from that position on."""
        held = self._taken.get(start.trajectory.states, {})
        found: Backward | None = held.get((start.hard, start.trajectory.scored, objective))
        return found if found is None or found.first <= start.first else None

    def take(
        self, pair: Pair, starts: Sequence[Start], objective: Objective, caches: PrefixCaches
    ) -> list[Ledger]:
        """Take those that are not known; what each start is charged, the first of equal ones."""
        new: dict[tuple[int, Hard, int], int] = {}
        for i, start in enumerate(starts):
            if self.find(start, objective) is None:
                place = id(start.trajectory.states), start.hard, start.trajectory.scored
                new.setdefault(place, i)
        costs = [Ledger() for _ in starts]
        missing = [starts[i] for i in new.values()]
        taken = backwards(pair, missing, objective, caches)
        for i, start, own in zip(new.values(), missing, taken, strict=True):
            held = self._taken.setdefault(start.trajectory.states, {})
            held[start.hard, start.trajectory.scored, objective] = own
            costs[i] = pass_cost(pair, start.problem, start.trajectory)
        return costs


def backwards(
    pair: Pair, starts: Sequence[Start], objective: Objective, caches: PrefixCaches
) -> list[Backward]:
    """One pass of both models at each hard sequence, in batches that fit in memory."""
    found = in_batches(
        lambda batch: differentiate(
            pair, [_site(pair, s, caches) for s in batch], objective, [s.first for s in batch]
        ),
        starts,
        lambda s: sum(map(len, (s.problem.prompt, s.problem.frame.before, s.hard))),
        affordable(pair),
        caches.clear,
    )
    for own in found:
        if isinstance(own, Fault):
            raise own.error
    return found


def _site(pair: Pair, start: Start, caches: PrefixCaches) -> Site:
    """A hard sequence in the trajectory's place, the same tokens of it scored.

    With what is cached of it, as far as it agrees with the trajectory, whose states it takes.
    """
    problem, trajectory, hard = start.problem, start.trajectory, start.hard
    own = Site(problem.prompt, problem.frame, hard, trajectory.scored, states=trajectory.states)
    pairs = enumerate(zip(hard, trajectory.tokens, strict=True))
    same = next((i for i, (a, b) in pairs if a != b), len(hard))
    policy = caches.policy.find(problem.key, problem.prompt + hard[:same])
    reward = caches.reward.find(problem.key, reward_rows(pair.judge, [own])[0])
    return replace(
        own,
        policy=None if policy is None else policy.kv,
        reward=None if reward is None else reward.kv,
    )


def affordable(pair: Pair) -> int:
    """Padded tokens of one batch of gradients that fit in what is free on the models' GPUs.

    By the arithmetic of `models.memory`, in which the two models take turns. On the CPU, where an
    operating system has other means, `MOST`.
    """
    tokens = MOST
    for model, table in ((pair.policy, pair.policy.embedding), (pair.judge, pair.judge.table)):
        free, config = free_bytes(table.device), getattr(model.base, "config", None)
        if free is not None and config is not None:
            checkpointing = recomputes(model.base)
            use = Use(_TYPICAL, 2, table.dtype.itemsize, checkpointing=checkpointing)
            token = memory.kept(Shape.of(config), use) / use.count
            tokens = min(tokens, int(_SHARE * free / token))
    return max(1, tokens)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a GPU can still give, also what torch has set aside; None for other devices."""
    if device.type != "cuda":
        return None
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


def gradient_norms(
    pair: Pair, requests: Sequence[Differentiate], caches: PrefixCaches, gradients: Gradients
) -> list[GradientNorms | Fault]:
    """Norms of requests that share DTO's options, norm and temperature, as one batch.

    One with a norm that is not finite comes back as a `Fault`.
    """
    dto = requests[0].dto
    starts, rows, seen = [], [], set[tuple[int, Hard]]()
    for r in requests:
        hard, own = hard_sequence(r.trajectory, r.position, dto), [r.position]
        if (id(r.trajectory), hard) not in seen:
            own = [i for i in r.rows if hard_sequence(r.trajectory, i, dto) == hard] or own
        seen.add((id(r.trajectory), hard))
        rows.append(own)
        starts.append(Start(r.problem, r.trajectory, hard, min(own)))
    costs = gradients.take(pair, starts, dto.objective, caches)
    found = [gradients.find(start, dto.objective) for start in starts]
    asked = [
        (request, backward, own)
        for request, backward, own in zip(requests, found, rows, strict=True)
        if backward is not None
    ]
    return [
        GradientNorms(own, cost)
        if all(map(math.isfinite, own.values()))
        else Fault(no_gradient(pair, request.problem, len(request.trajectory.tokens)))
        for request, own, cost in zip(requests, _norms(pair, asked), costs, strict=True)
    ]


def no_gradient(pair: Pair, problem: Problem, tokens: int) -> PolicyError:
    """Return what a problem fails with where L has no finite gradient at a response of so many
    tokens.
    """
    policy, judge = pair.policy, pair.judge
    return PolicyError(
        f"The gradient through the policy {policy.name} in {policy.dtype} and the reward model "
        f"{judge.name} in {judge.dtype} is not finite at a response of {tokens} tokens (problem "
        f"{problem.id or '?'}). Try another dtype (float16 overflows where bfloat16 and float32 do "
        "not)."
    )


@torch.no_grad()
def _norms(
    pair: Pair, asked: Sequence[tuple[Differentiate, Backward, list[int]]]
) -> list[dict[int, float]]:
    """Euclidean norms of dL/dz or dL/dy (both V-vectors) at each request's rows."""
    wanted = [(i, row) for i, (_, _, rows) in enumerate(asked) for row in rows]
    found: list[dict[int, float]] = [{} for _ in asked]
    chunk = max(1, _ELEMENTS // pair.policy.vocabulary)
    for start in range(0, len(wanted), chunk):
        part: dict[int, list[int]] = {}
        for i, row in wanted[start : start + chunk]:
            part.setdefault(i, []).append(row)
        parts = [(*asked[i][:2], rows) for i, rows in part.items()]
        values = _norms_of(pair, parts).tolist()
        for (i, row), value in zip(wanted[start : start + chunk], values, strict=True):
            found[i][row] = value
    return found


def _norms_of(pair: Pair, parts: Sequence[tuple[Differentiate, Backward, list[int]]]) -> Tensor:
    first = parts[0][0]
    gradient = row_gradients(pair, [(b, rows) for _, b, rows in parts], first.dto.objective)
    if first.norm == "logits":
        states = torch.cat(
            [r.trajectory.states[span] for r, _, rows in parts for span in spans(rows)]
        )
        logits = widen(pair.policy.head(states))
        gradient = soft_backward(logits, gradient, first.temperature)
    return gradient.norm(dim=-1)


def pass_cost(pair: Pair, problem: Problem, trajectory: Trajectory) -> Ledger:
    """One gradient pass through both models."""
    frame = problem.frame
    reward_tokens = len(frame.before) + trajectory.scored + len(frame.after)
    policy_tokens = len(problem.prompt) + len(trajectory.tokens) - 1
    return Ledger(
        gradient_passes=1,
        flops=gradient_flops(pair.policy.parameters, policy_tokens)
        + gradient_flops(pair.judge.parameters, reward_tokens),
    )

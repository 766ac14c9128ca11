"""Executes `Differentiate`: a forward and backward pass per sequence, then the norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

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
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.errors import Fault, PolicyError
from nabla_eval.models import memory
from nabla_eval.models.gradient_checkpointing import recomputes
from nabla_eval.models.memory import Shape, Use
from nabla_eval.models.pair import Pair
from nabla_eval.requests import Differentiate, Gradient, Problem, Trajectory

MOST = 2**17  # padded tokens of a batch of gradients
_ELEMENTS = 2**25  # of rows x V formed at once for norms
_SHARE = 0.8  # of the free memory; the rest is for what a pass uses and does not keep
_TYPICAL = 2048  # tokens of a sequence: its mask grows with their square


def site(
    pair: Pair,
    problem: Problem,
    trajectory: Trajectory,
    hard: tuple[int, ...],
    caches: PrefixCaches,
) -> Site:
    """A hard sequence in the trajectory's place, the same tokens of it scored.

    With what is cached of it, as far as it agrees with the trajectory, whose states it takes.
    """
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


def gradients(
    pair: Pair, requests: Sequence[Differentiate], caches: PrefixCaches | None = None
) -> list[Gradient | Fault]:
    """Gradients of requests that share objective, norm and temperature, as one batch.

    One with a norm that is not finite comes back as a `Fault`.

    A handle holds the gradient from the first of the request's rows on: of all rows, where it names
    none.
    """
    objective = requests[0].objective
    caches = caches or PrefixCaches()
    sites = [site(pair, r.problem, r.trajectory, r.hard, caches) for r in requests]
    firsts = [min(r.rows, default=0) for r in requests]
    backwards = differentiate(pair, sites, objective, firsts)
    values = norms(pair, list(zip(requests, backwards, strict=True)))
    return [
        Gradient(
            request.hard, own_norms, backward, pass_cost(pair, request.problem, request.trajectory)
        )
        if all(map(math.isfinite, own_norms.values()))
        else Fault(no_gradient(pair, request.problem, len(request.hard)))
        for request, own_norms, backward in zip(requests, values, backwards, strict=True)
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
def norms(pair: Pair, passes: Sequence[tuple[Differentiate, Backward]]) -> list[dict[int, float]]:
    """Euclidean norm of dL/dz or dL/dy (both V-vectors) at the rows that each request asks for."""
    wanted = [
        (i, row)
        for i, (request, _) in enumerate(passes)
        for row in (request.rows if request.norm is not None else ())
    ]
    values: list[float] = []
    chunk = max(1, _ELEMENTS // pair.policy.vocabulary)
    for start in range(0, len(wanted), chunk):
        rows: dict[int, list[int]] = {}
        for i, row in wanted[start : start + chunk]:
            rows.setdefault(i, []).append(row)
        values += _norms(pair, [(*passes[i], own) for i, own in rows.items()]).tolist()
    found: list[dict[int, float]] = [{} for _ in passes]
    for (i, row), value in zip(wanted, values, strict=True):
        found[i][row] = value
    return found


def _norms(pair: Pair, parts: Sequence[tuple[Differentiate, Backward, list[int]]]) -> Tensor:
    first = parts[0][0]
    gradient = row_gradients(pair, [(b, rows) for _, b, rows in parts], first.objective)
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

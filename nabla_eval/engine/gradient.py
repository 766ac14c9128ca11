"""Executes `Differentiate`: a forward and backward pass per sequence, then the norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nabla_eval.cost.flops import gradient_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import Backward, Site, differentiate, row_gradient, widen
from nabla_eval.dto.relax import soft_backward
from nabla_eval.models.pair import Pair
from nabla_eval.requests import Differentiate, Gradient, Problem, Trajectory

_ELEMENTS = 2**25  # of rows x V formed at once for norms


def site(problem: Problem, trajectory: Trajectory, hard: tuple[int, ...]) -> Site:
    """A hard sequence in the trajectory's place: the same tokens of it are scored."""
    return Site(problem.prompt, problem.frame, hard, trajectory.scored)


def gradients(pair: Pair, requests: Sequence[Differentiate]) -> list[Gradient]:
    """Gradients of requests that share one objective, as one batch."""
    objective = requests[0].objective
    sites = [site(r.problem, r.trajectory, r.hard) for r in requests]
    backwards = differentiate(pair, sites, objective)
    return [
        Gradient(request.hard, norms(pair, request, backward), backward, pass_cost(pair, own))
        for request, own, backward in zip(requests, sites, backwards, strict=True)
    ]


@torch.no_grad()
def norms(pair: Pair, request: Differentiate, backward: Backward) -> dict[int, float]:
    """Euclidean norm of dL/dz or dL/dy (both V-vectors) at the rows asked for."""
    chunk = max(1, _ELEMENTS // pair.policy.vocabulary)
    values: list[float] = []
    for start in range(0, len(request.rows), chunk):
        rows = request.rows[start : start + chunk]
        gradient = row_gradient(pair, backward, rows, request.objective)
        if request.norm == "logits":
            logits = policy_logits(pair, request.trajectory, rows)
            gradient = soft_backward(logits, gradient, request.temperature)
        values += gradient.norm(dim=-1).tolist()
    return dict(zip(request.rows, values, strict=True))


def policy_logits(pair: Pair, trajectory: Trajectory, rows: Sequence[int]) -> Tensor:
    """z at some positions of a trajectory `[R, V]`, from its stored hidden states."""
    return widen(pair.policy.head(trajectory.states[list(rows)]))


def pass_cost(pair: Pair, own: Site) -> Ledger:
    """One gradient pass through both models."""
    reward_tokens = len(own.frame.before) + own.scored + len(own.frame.after)
    return Ledger(
        gradient_passes=1,
        flops=gradient_flops(pair.policy.parameters, len(own.prompt) + len(own.tokens) - 1)
        + gradient_flops(pair.judge.parameters, reward_tokens),
    )

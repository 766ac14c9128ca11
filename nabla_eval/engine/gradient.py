"""Executes `Differentiate`: a forward and backward pass per sequence, then the norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nabla_eval.cost.flops import gradient_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import Backward, Site, differentiate, row_gradients, widen
from nabla_eval.dto.relax import soft_backward
from nabla_eval.models.pair import Pair
from nabla_eval.requests import Differentiate, Gradient, Problem, Trajectory

_ELEMENTS = 2**25  # of rows x V formed at once for norms


def site(problem: Problem, trajectory: Trajectory, hard: tuple[int, ...]) -> Site:
    """A hard sequence in the trajectory's place: the same tokens of it are scored."""
    return Site(problem.prompt, problem.frame, hard, trajectory.scored)


def gradients(pair: Pair, requests: Sequence[Differentiate]) -> list[Gradient]:
    """Gradients of requests that share objective, norm and temperature, as one batch.

    A handle holds the gradient from the first of the request's rows on: of all rows, where it names
    none.
    """
    objective = requests[0].objective
    sites = [site(r.problem, r.trajectory, r.hard) for r in requests]
    firsts = [min(r.rows, default=0) for r in requests]
    backwards = differentiate(pair, sites, objective, firsts)
    values = norms(pair, list(zip(requests, backwards, strict=True)))
    return [
        Gradient(request.hard, own_norms, backward, pass_cost(pair, own))
        for request, own_norms, backward, own in zip(
            requests, values, backwards, sites, strict=True
        )
    ]


@torch.no_grad()
def norms(pair: Pair, passes: Sequence[tuple[Differentiate, Backward]]) -> list[dict[int, float]]:
    """Euclidean norm of dL/dz or dL/dy (both V-vectors) at the rows that each request asks for."""
    wanted = [(i, row) for i, (request, _) in enumerate(passes) for row in request.rows]
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
        states = torch.cat([request.trajectory.states[rows] for request, _, rows in parts])
        logits = widen(pair.policy.head(states))
        gradient = soft_backward(logits, gradient, first.temperature)
    return gradient.norm(dim=-1)


def pass_cost(pair: Pair, own: Site) -> Ledger:
    """One gradient pass through both models."""
    reward_tokens = len(own.frame.before) + own.scored + len(own.frame.after)
    return Ledger(
        gradient_passes=1,
        flops=gradient_flops(pair.policy.parameters, len(own.prompt) + len(own.tokens) - 1)
        + gradient_flops(pair.judge.parameters, reward_tokens),
    )

"""Executes `Refine`: DTO on the free rows of several requests side by side, then the draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.certify import UNDECIDED, certain, logit_reach
from nabla_eval.dto.loop import descend
from nabla_eval.dto.objective import row_gradients, widen
from nabla_eval.dto.relaxation import Relaxation, gumbel_offset, soft_backward
from nabla_eval.engine.gradient import (
    Gradients,
    Start,
    backwards,
    hard_sequence,
    no_gradient,
    pass_cost,
)
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.sampler import Filter, draws
from nabla_eval.errors import Fault
from nabla_eval.models.pair import Pair
from nabla_eval.options import DTO, Objective
from nabla_eval.protocol import Refine, Refinement
from nabla_eval.randomness import uniforms

_ELEMENTS = 2**25  # of rows x V whose anchors are made at once


def free_rows(request: Refine) -> range:
    """Positions whose logits DTO may change."""
    last = request.position + 1
    if request.dto.update == "all":
        last = len(request.trajectory.tokens)
    return range(request.position, last)


@torch.inference_mode(False)
@torch.no_grad()
def refine(
    pair: Pair,
    requests: Sequence[Refine],
    caches: PrefixCaches | None = None,
    gradients: Gradients | None = None,
) -> list[Refinement | Fault]:
    """Refine and draw for requests that share all of their options.

    A request of whose refined rows one is no distribution comes back as a `Fault`.
    """
    caches, gradients = caches or PrefixCaches(), gradients or Gradients()
    dto, upto = requests[0].dto, requests[0].upto
    known: list[tuple[int | None, ...]] = [(None,) * len(r.keys) for r in requests]
    if requests[0].certify:
        known = certified(pair, requests)
    results: list[Any] = []
    for request, tokens in zip(requests, known, strict=True):
        ready = not dto.steps or gradients.find(start_of(request), dto.objective) is not None
        flags = tuple(token is not None for token in tokens)
        results.append(Refinement(tokens, flags, ready=ready))
    open_ = [i for i, tokens in enumerate(known) if tokens[0] is None]
    if not open_ or upto == "certified":
        return results
    asked = [requests[i] for i in open_]
    costs = [Ledger() for _ in asked]
    if dto.steps:
        begun = [start_of(request) for request in asked]
        # One that has to be taken is taken for all positions, whichever come later.
        starts = [s if gradients.find(s, dto.objective) else replace(s, first=0) for s in begun]
        costs = gradients.take(pair, starts, dto.objective, caches)
    drawn: Sequence[Refinement | Fault] = [results[i] for i in open_]
    if upto == "drawn":
        drawn = _drawn(pair, asked, caches, gradients)
    for i, own, cost in zip(open_, drawn, costs, strict=True):
        flags = results[i].certified
        results[i] = own
        if isinstance(own, Refinement):
            results[i] = replace(own, certified=flags, ready=True, cost=own.cost + cost)
    return results


def start_of(request: Refine) -> Start:
    """Where the descent of a request begins."""
    hard = hard_sequence(request.trajectory, request.position, request.dto)
    return Start(request.problem, request.trajectory, hard, request.position)


def _drawn(
    pair: Pair, requests: Sequence[Refine], caches: PrefixCaches, gradients: Gradients
) -> list[Refinement | Fault]:
    """Refine from gradients that were taken, and draw."""
    solution = optimise_rows(pair, requests, caches, gradients)
    firsts = [sum(solution.sizes[:i]) for i in range(len(requests))]
    before, after = solution.start[firsts], solution.logits[firsts]
    allowed = allowed_tokens(pair, before, [request.min_probability for request in requests])
    filters = Filter([request.sampling for request in requests], after.device)
    probabilities = filters.distribution(after.masked_fill(~allowed, -torch.inf))
    tokens = draws(probabilities, numbers(requests, after.device))
    chosen = probabilities.gather(-1, tokens).tolist()
    moved = (after - before).masked_fill(before == after, 0).abs().amax(-1).tolist()
    return [
        Fault(no_gradient(pair, request.problem, len(request.trajectory.tokens)))
        if broken
        else Refinement(
            tokens=tuple(own[: len(request.keys)]),
            certified=(),
            probabilities=tuple(chosen[i][: len(request.keys)]),
            flips=solution.flips[i],
            moved=moved[i],
            norm=solution.norms[i],
            cost=_cost(pair, request, solution.passes[i], solution.flips[i]),
        )
        for i, (request, own, broken) in enumerate(
            zip(requests, tokens.tolist(), solution.broken, strict=True)
        )
    ]


def certified(pair: Pair, requests: Sequence[Refine]) -> list[tuple[int | None, ...]]:
    """Draws that no refinement can change, None for others; no model is called."""
    if math.isinf(logit_reach(requests[0].dto)):
        return [(None,) * len(request.keys) for request in requests]
    logits = widen(
        pair.policy.head(torch.stack([r.trajectory.states[r.position] for r in requests]))
    )
    allowed = allowed_tokens(pair, logits, [request.min_probability for request in requests])
    temperatures = torch.tensor(
        [[request.sampling.temperature] for request in requests],
        dtype=logits.dtype,
        device=logits.device,
    )
    drawn = certain(
        logits.masked_fill(~allowed, -torch.inf),
        temperatures,
        numbers(requests, logits.device),
        requests[0].dto,
    ).tolist()
    return [
        tuple(None if token == UNDECIDED else token for token in own[: len(r.keys)])
        for r, own in zip(requests, drawn, strict=True)
    ]


def numbers(requests: Sequence[Refine], device: torch.device) -> Tensor:
    """One uniform number per key, `[B, S]`; requests with fewer keys are padded."""
    width = max(len(request.keys) for request in requests)
    numbers = iter(uniforms([key for request in requests for key in request.keys], 0, 1)[:, 0])
    padded = [
        [float(next(numbers)) for _ in request.keys] + [0.5] * (width - len(request.keys))
        for request in requests
    ]
    return torch.tensor(padded, dtype=torch.float64, device=device)


@dataclass(frozen=True)
class Solution:
    """DTO's result for several requests, their free rows one after another (R in all)."""

    start: Tensor  # [R, V] the policy's logits, as `logits_dtype` holds them
    logits: Tensor  # [R, V] refined
    sizes: list[int]
    passes: list[int]
    flips: list[int]
    norms: list[float] | list[None]  # of the first gradient, at each request's position

    @property
    def broken(self) -> list[bool]:
        """Return whether some refined row of a request is NaN or infinite, or all minus
        infinity.
        """
        finite = self.logits.amax(-1).isfinite().cpu()
        return [not bool(rows.all()) for rows in finite.split(self.sizes)]


def optimise_rows(
    pair: Pair, requests: Sequence[Refine], caches: PrefixCaches, gradients: Gradients
) -> Solution:
    """T steps of Alg. 4 on all free rows, from gradients that were taken."""
    dto, tau = requests[0].dto, requests[0].relaxation
    rows = [free_rows(request) for request in requests]
    sizes = [len(own) for own in rows]
    hidden = torch.cat(
        [r.trajectory.states[own.start : own.stop] for r, own in zip(requests, rows, strict=True)]
    )
    logits = widen(pair.policy.head(hidden))
    free, head = _parameters(pair, dto, hidden, logits)
    start = logits if head is None else head(free)
    if dto.steps == 0:
        none = [0] * len(requests)
        return Solution(start, start, sizes, none, list(none), [None] * len(requests))
    starts = [start_of(request) for request in requests]
    parts = []
    for begun, own in zip(starts, rows, strict=True):
        backward = gradients.find(begun, dto.objective)
        assert backward is not None, "taken before"
        parts.append((backward, own))
    hard = [begun.hard[own.start : own.stop] for begun, own in zip(starts, rows, strict=True)]
    gradient = row_gradients(pair, parts, dto.objective)
    norms = _norms(requests, logits, gradient, sizes)
    parameters, info = descend(
        free,
        gradient,
        torch.tensor([token for part in hard for token in part], device=logits.device),
        sizes,
        Relaxation(tau, _offsets(pair, requests, rows, logits), head),
        dto,
        lambda stale, tokens: _recompute(
            pair,
            [
                replace(
                    starts[i],
                    hard=(*starts[i].hard[: rows[i].start], *own, *starts[i].hard[rows[i].stop :]),
                    first=rows[i].start,
                )
                for i, own in zip(stale, tokens, strict=True)
            ],
            [rows[i] for i in stale],
            dto.objective,
            caches,
        ),
    )
    refined = parameters if head is None else head(parameters)
    return Solution(start, refined, sizes, info.passes, info.flips, norms)


def _parameters(
    pair: Pair, dto: DTO, hidden: Tensor, logits: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    """Return what DTO moves, in its dtype, and how logits are made of it (None: it is the
    logits).
    """
    rounded = dto.logits_dtype == "bfloat16"
    if dto.parameterisation == "latents":
        free = hidden.bfloat16() if rounded else widen(hidden)
        return free, lambda latents: widen(pair.policy.head(latents.to(hidden.dtype)))
    if rounded:
        return logits.bfloat16(), lambda free: free.to(logits.dtype)
    return logits, None


def _norms(
    requests: Sequence[Refine], logits: Tensor, gradient: Tensor, sizes: Sequence[int]
) -> list[float]:
    """Euclidean norm of dL/dz or dL/dy (both V-vectors) at the position of each request."""
    firsts = [sum(sizes[:i]) for i in range(len(sizes))]
    rows = gradient[firsts]
    if requests[0].norm == "logits":
        rows = soft_backward(logits[firsts], rows, requests[0].relaxation)
    norms: list[float] = rows.norm(dim=-1).tolist()
    return norms


def _offsets(
    pair: Pair, requests: Sequence[Refine], rows: Sequence[range], logits: Tensor
) -> Tensor | None:
    """Anchors of the sampled tokens, from streams that belong to the trajectory's rows."""
    tau = requests[0].relaxation
    if requests[0].dto.anchor == "argmax":
        return None
    pairs = [(r.trajectory, i) for r, own in zip(requests, rows, strict=True) for i in own]
    tokens = torch.tensor([trajectory.tokens[i] for trajectory, i in pairs], device=logits.device)
    offset = torch.empty_like(logits)
    chunk = max(1, _ELEMENTS // logits.shape[-1])
    for start in range(0, len(pairs), chunk):
        part = slice(start, start + chunk)
        keys = [trajectory.key / "anchor" / i for trajectory, i in pairs[part]]
        uniform = torch.from_numpy(uniforms(keys, 0, logits.shape[-1])).to(logits.device)
        offset[part] = gumbel_offset(logits[part] / tau, tokens[part], uniform)
    return offset


def _recompute(
    pair: Pair,
    starts: Sequence[Start],
    rows: Sequence[range],
    objective: Objective,
    caches: PrefixCaches,
) -> Tensor:
    """dL/dy of free rows at new hard tokens there."""
    taken = backwards(pair, starts, objective, caches)
    return row_gradients(pair, list(zip(taken, rows, strict=True)), objective)


def allowed_tokens(pair: Pair, logits: Tensor, floors: Sequence[float]) -> Tensor:
    """Tokens that may be drawn `[B, V]`: known to the reward model, not below the floor on pi."""
    probabilities = logits.softmax(-1)
    floor = torch.tensor(floors, dtype=logits.dtype, device=logits.device)[:, None]
    allowed = probabilities >= floor
    if pair.reward is not None and pair.reward.known is not None:
        allowed &= pair.reward.known.to(allowed.device)
    # Where nothing passes, the policy's own first choice does.
    return allowed.scatter(-1, logits.argmax(-1, keepdim=True), True)


def _cost(pair: Pair, request: Refine, passes: int, flips: int) -> Ledger:
    cost = Ledger(refinements=1, flips=flips)
    if passes:
        one = pass_cost(pair, request.problem, request.trajectory)
        cost.gradient_passes, cost.flops = passes, passes * one.flops
    return cost

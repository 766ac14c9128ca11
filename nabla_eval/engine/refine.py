"""Executes `Refine`: DTO on the free rows of several requests side by side, then the draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.certify import UNDECIDED, certain, logit_reach
from nabla_eval.dto.loop import descend
from nabla_eval.dto.objective import row_gradients, widen
from nabla_eval.dto.relaxation import Relaxation, gumbel_offset
from nabla_eval.engine.gradient import (
    Gradients,
    Start,
    hard_sequence,
    no_gradient,
    pass_cost,
    row_norms,
    take_passes,
)
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.sampler import Filter, draws
from nabla_eval.errors import Fault
from nabla_eval.models.pair import Pair
from nabla_eval.options import DTO
from nabla_eval.protocol import Refine, Refinement
from nabla_eval.randomness import uniforms

_ELEMENTS = 2**25  # of rows x V whose anchors are made at once


def free_rows(request: Refine) -> range:
    """Return the positions whose logits DTO may change."""
    last = request.position + 1
    if request.dto.update == "all":
        last = len(request.trajectory.tokens)
    return range(request.position, last)


def start_of(request: Refine) -> Start:
    """Return where the descent of a request begins."""
    hard = hard_sequence(request.trajectory, request.position, request.dto)
    return Start(request.problem, request.trajectory, hard, request.position)


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
    dto, upto, objective = requests[0].dto, requests[0].upto, requests[0].dto.objective
    results: list[Any] = _without_gradient(pair, requests, gradients)
    open_ = [i for i, own in enumerate(results) if own.tokens[0] is None]
    if not open_ or upto == "certified":
        return results
    asked = [requests[i] for i in open_]
    costs = [Ledger() for _ in asked]
    if dto.steps:
        starts = [start_of(request) for request in asked]
        # One that has to be taken is taken for all positions, whichever come later.
        starts = [s if gradients.find(s, objective) else replace(s, first=0) for s in starts]
        _, costs = gradients.take(pair, starts, objective, caches)
    drawn: Sequence[Refinement | Fault] = [results[i] for i in open_]
    if upto == "drawn":
        drawn = _drawn(pair, asked, caches, gradients)
    for i, own, cost in zip(open_, drawn, costs, strict=True):
        flags = results[i].certified
        results[i] = own
        if isinstance(own, Refinement):
            results[i] = replace(own, certified=flags, ready=True, cost=own.cost + cost)
    return results


@torch.inference_mode(False)
@torch.no_grad()
def refine_at_once(
    pair: Pair, requests: Sequence[Refine], gradients: Gradients
) -> list[Refinement | None]:
    """Answer requests whose first draw is certified as `refine` would; None for the others."""
    whole = requests[0].upto == "certified"
    found = _without_gradient(pair, requests, gradients)
    return [own if whole or own.tokens[0] is not None else None for own in found]


def _without_gradient(
    pair: Pair, requests: Sequence[Refine], gradients: Gradients
) -> list[Refinement]:
    """Return what certified draws say, and whether a gradient would have to be taken."""
    dto = requests[0].dto
    found = []
    for request, tokens in zip(requests, certified(pair, requests), strict=True):
        ready = not dto.steps or gradients.find(start_of(request), dto.objective) is not None
        flags = tuple(token is not None for token in tokens)
        found.append(Refinement(tokens, flags, ready=ready))
    return found


def _drawn(
    pair: Pair, requests: Sequence[Refine], caches: PrefixCaches, gradients: Gradients
) -> list[Refinement | Fault]:
    """Refine from gradients that were taken, and draw."""
    solution = optimise_rows(pair, requests, caches, gradients)
    before, after = solution.start[solution.firsts], solution.logits[solution.firsts]
    filters = Filter([request.sampling for request in requests], after.device)
    allowed = allowed_tokens(pair, before, requests)
    probabilities = filters.distribution(after.masked_fill(~allowed, -torch.inf))
    tokens = draws(probabilities, numbers(requests, after.device))
    chosen = probabilities.gather(-1, tokens).tolist()
    moved = (after - before).masked_fill(before == after, 0).abs().amax(-1).tolist()
    broken = solution.broken
    found: list[Refinement | Fault] = []
    for i, (request, own) in enumerate(zip(requests, tokens.tolist(), strict=True)):
        if broken[i]:
            response = len(request.trajectory.tokens)
            found.append(Fault(no_gradient(pair, request.problem, response)))
            continue
        cost = pass_cost(pair, request.problem, request.trajectory, solution.passes[i])
        found.append(
            Refinement(
                tokens=tuple(own[: len(request.keys)]),
                certified=(),
                probabilities=tuple(chosen[i][: len(request.keys)]),
                flips=solution.flips[i],
                moved=moved[i],
                norm=solution.norms[i],
                cost=cost + Ledger(refinements=1, flips=solution.flips[i]),
            )
        )
    return found


def certified(pair: Pair, requests: Sequence[Refine]) -> list[tuple[int | None, ...]]:
    """Return draws that no refinement can change, None for others; no model is called."""
    if not requests[0].certify or math.isinf(logit_reach(requests[0].dto)):
        return [(None,) * len(request.keys) for request in requests]
    states = torch.stack([r.trajectory.states[r.position] for r in requests])
    logits = widen(pair.policy.head(states))
    temperatures = [[request.sampling.temperature] for request in requests]
    drawn = certain(
        logits.masked_fill(~allowed_tokens(pair, logits, requests), -torch.inf),
        torch.tensor(temperatures, dtype=logits.dtype, device=logits.device),
        numbers(requests, logits.device),
        requests[0].dto,
    ).tolist()
    return [
        tuple(None if token == UNDECIDED else token for token in own[: len(r.keys)])
        for r, own in zip(requests, drawn, strict=True)
    ]


def allowed_tokens(pair: Pair, logits: Tensor, requests: Sequence[Refine]) -> Tensor:
    """Return tokens `[B, V]` that may be drawn: known to the reward model, not too unlikely."""
    least = [[request.min_probability] for request in requests]
    allowed = logits.softmax(-1) >= torch.tensor(least, dtype=logits.dtype, device=logits.device)
    if pair.reward is not None and pair.reward.known is not None:
        allowed &= pair.reward.known.to(allowed.device)
    # Where nothing passes, the policy's own first choice does.
    return allowed.scatter(-1, logits.argmax(-1, keepdim=True), True)


def numbers(requests: Sequence[Refine], device: torch.device) -> Tensor:
    """Return one uniform number per key, `[B, S]`; requests with fewer keys are padded."""
    counts = np.array([len(request.keys) for request in requests])
    padded = np.full((len(requests), counts.max()), 0.5)
    keys = [key for request in requests for key in request.keys]
    padded[np.arange(counts.max()) < counts[:, None]] = uniforms(keys, 0, 1)[:, 0]
    return torch.from_numpy(padded).to(device)


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
    def firsts(self) -> list[int]:
        """Row of each request's position."""
        return _firsts(self.sizes)

    @property
    def broken(self) -> list[bool]:
        """Whether some refined row of a request is NaN, infinite, or all minus infinity."""
        finite = iter(self.logits.amax(-1).isfinite().tolist())
        return [not all([next(finite) for _ in range(size)]) for size in self.sizes]


def _firsts(sizes: Sequence[int]) -> list[int]:
    return [0, *accumulate(sizes)][:-1]


def optimise_rows(
    pair: Pair,
    requests: Sequence[Refine],
    caches: PrefixCaches,
    gradients: Gradients,
    keep_flips: bool = False,
) -> Solution:
    """Take T steps of Alg. 4 on all free rows, from gradients that were taken.

    `keep_flips` is for requests with one free row that are made at several options of DTO: what
    one descent asks for at a flipped token, the next ones find.
    """
    first, dto, objective = requests[0], requests[0].dto, requests[0].dto.objective
    rows = [free_rows(request) for request in requests]
    sizes = [len(own) for own in rows]
    states = [
        r.trajectory.states[own.start : own.stop] for r, own in zip(requests, rows, strict=True)
    ]
    hidden = torch.cat(states)
    logits = widen(pair.policy.head(hidden))
    free, head = _parameters(pair, dto, hidden, logits)
    start = logits if head is None else head(free)
    if dto.steps == 0:
        none = [0] * len(requests)
        return Solution(start, start, sizes, none, list(none), [None] * len(requests))
    starts = [start_of(request) for request in requests]
    taken, _ = gradients.take(pair, starts, objective, caches)
    gradient = row_gradients(pair, list(zip(taken, rows, strict=True)), objective)
    firsts = _firsts(sizes)
    norms = row_norms(logits[firsts], gradient[firsts], first.norm, first.relaxation)
    hard = [
        token for s, own in zip(starts, rows, strict=True) for token in s.hard[own.start : own.stop]
    ]

    def recompute(stale: list[int], tokens: list[tuple[int, ...]]) -> Tensor:
        new = [starts[i].with_tokens(rows[i], own) for i, own in zip(stale, tokens, strict=True)]
        passes = (gradients.at_flips if keep_flips else take_passes)(pair, new, objective, caches)
        return row_gradients(
            pair, [(p, rows[i]) for p, i in zip(passes, stale, strict=True)], objective
        )

    parameters, info = descend(
        free,
        gradient,
        torch.tensor(hard, device=logits.device),
        sizes,
        Relaxation(first.relaxation, _offsets(requests, rows, logits), head),
        dto,
        recompute,
    )
    refined = parameters if head is None else head(parameters)
    return Solution(start, refined, sizes, info.passes, info.flips, norms)


def _parameters(
    pair: Pair, dto: DTO, hidden: Tensor, logits: Tensor
) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
    """Return what DTO moves, in its dtype, and the map from it to logits (None: it is them)."""
    rounded = dto.logits_dtype == "bfloat16"
    if dto.parameterisation == "latents":
        free = hidden.bfloat16() if rounded else widen(hidden)
        return free, lambda latents: widen(pair.policy.head(latents.to(hidden.dtype)))
    if rounded:
        return logits.bfloat16(), lambda free: free.to(logits.dtype)
    return logits, None


def _offsets(requests: Sequence[Refine], rows: Sequence[range], logits: Tensor) -> Tensor | None:
    """Draw anchors of the sampled tokens, from streams that belong to the trajectory's rows."""
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

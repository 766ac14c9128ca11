"""T optimiser steps on free rows (Alg. 4), with a gradient that is reused while it holds.

dL/dy is a function of the hard sequence alone, so reusing it changes no result; it only spares
passes. Requests descend side by side. One whose hard sequence changes waits where it is until all
others have arrived or wait too; then one batch of passes serves everyone who waits. So the batches
are as many as the flips of the request that flips most, however the flips fall.
`grad_cache=False` takes the gradient at every step, for measuring what caching saves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nabla_eval.dto.optimisers import Optimiser, State, optimiser
from nabla_eval.dto.relaxation import Relaxation
from nabla_eval.options import DTO

_ELEMENTS = 2**25  # of rows x V that are stepped at once

# Requests that need their gradient, and the hard tokens of their rows -> rows [sum of sizes, V].
Recompute = Callable[[list[int], list[tuple[int, ...]]], Tensor]


@dataclass(frozen=True)
class DTOState:
    """Parameters of R free rows (N = V logits or D latents each), and how far each has come."""

    parameters: Float[Tensor, "R N"]
    own: State  # the optimiser's
    count: Int[Tensor, " R"]  # steps taken

    def rows(self, index: Int[Tensor, " kept"] | slice) -> DTOState:
        """Select the state of some rows; a slice gives a view of it."""
        own = tuple(tensor[index] for tensor in self.own)
        return DTOState(self.parameters[index], own, self.count[index])

    def write(self, part: slice, new: DTOState) -> None:
        """Put the state of some rows in its place."""
        self.parameters[part], self.count[part] = new.parameters, new.count
        for tensor, rows in zip(self.own, new.own, strict=True):
            tensor[part] = rows


def learning_rate(count: int, dto: DTO) -> float:
    """Return the rate of the step after `count` steps: lr at first, towards min_lr at `steps`.

    `clipped_cosine` is the released code's: a cosine to 0 that is held at min_lr.
    """
    cosine = (1 + math.cos(math.pi * count / dto.steps)) / 2
    if dto.schedule == "clipped_cosine":
        return max(dto.min_lr, dto.lr * cosine)
    return dto.min_lr + (dto.lr - dto.min_lr) * cosine


class Stepper:
    """The steps of one descent. Rows count their own: one that waited takes the same path."""

    def __init__(self, dto: DTO, parameters: Float[Tensor, "R N"]) -> None:
        self.optimiser: Optimiser = optimiser(dto.optimizer)
        rates = [learning_rate(count, dto) for count in range(dto.steps)]
        self.factors = torch.tensor(  # [T, K], in float32 or wider
            [self.optimiser.factors(rate, count) for count, rate in enumerate(rates)],
            dtype=torch.promote_types(parameters.dtype, torch.float32),
            device=parameters.device,
        )

    def init(self, parameters: Float[Tensor, "R N"]) -> DTOState:
        """Return the state before the first step."""
        count = torch.zeros(len(parameters), dtype=torch.long, device=parameters.device)
        return DTOState(parameters, self.optimiser.init(parameters), count)

    def __call__(
        self,
        state: DTOState,
        gradient: Float[Tensor, "R N"],
        moving: Bool[Tensor, " R"] | None = None,
    ) -> DTOState:
        """Take one step down `gradient`, in the parameters' dtype; rows not `moving` stay."""
        count = state.count.clamp(max=len(self.factors) - 1)  # of rows that are through
        factors = self.factors[count].unsqueeze(-1).unbind(1)
        parameters, own = self.optimiser.step(state.parameters, gradient, state.own, *factors)
        if moving is None:
            return DTOState(parameters, own, state.count + 1)
        here = moving[:, None]
        own = tuple(torch.where(here, a, b) for a, b in zip(own, state.own, strict=True))
        parameters = torch.where(here, parameters, state.parameters)
        return DTOState(parameters, own, state.count + moving)


@dataclass(frozen=True)
class DTOInfo:
    """Counts of each request's descent; never read back by the algorithm."""

    passes: list[int]  # gradients beyond the first
    flips: list[int]  # times that some hard token had changed


def descend(
    parameters: Float[Tensor, "R N"],
    gradient: Float[Tensor, "R V"],
    hard: Int[Tensor, " R"],
    sizes: Sequence[int],
    relaxation: Relaxation,
    dto: DTO,
    recompute: Recompute,
) -> tuple[Float[Tensor, "R N"], DTOInfo]:
    """T steps of Alg. 4 for requests with `sizes` rows each, from dL/dy at the `hard` tokens."""
    info = DTOInfo([0] * len(sizes), [0] * len(sizes))
    step = Stepper(dto, parameters)
    # Several parts are stepped in place.
    state = step.init(parameters.clone() if len(_parts(gradient)) > 1 else parameters)
    final, place = parameters.clone(), torch.arange(len(parameters), device=parameters.device)
    waiting = list(range(len(sizes)))
    while True:
        spans = _spans([sizes[request] for request in waiting])
        state, now = _advance(state, gradient, hard, spans, relaxation, dto, step)
        final[place] = state.parameters
        behind, changed = (state.count < dto.steps).tolist(), (now != hard).tolist()
        stale = [i for i, span in enumerate(spans) if behind[span.start]]
        if not stale:
            return final, info
        for i in stale:
            info.passes[waiting[i]] += 1
            info.flips[waiting[i]] += any(changed[j] for j in spans[i])
        tokens = now.tolist()
        if len(stale) < len(waiting):
            keep = torch.tensor([j for i in stale for j in spans[i]], device=place.device)
            state, relaxation = state.rows(keep), relaxation.rows(keep)
            now, place = now[keep], place[keep]
        hard, waiting = now, [waiting[i] for i in stale]
        del gradient  # before there are two of them
        gradient = recompute(waiting, [tuple(tokens[j] for j in spans[i]) for i in stale])


def _advance(
    state: DTOState,
    gradient: Float[Tensor, "R V"],
    hard: Int[Tensor, " R"],
    spans: Sequence[range],
    relaxation: Relaxation,
    dto: DTO,
    step: Stepper,
) -> tuple[DTOState, Int[Tensor, " R"]]:
    """Step until every request has taken T steps or stands where its gradient no longer holds.

    One host synchronisation a step asks how many rows still move.
    """
    parts = _parts(gradient)
    logits = relaxation.logits(state.parameters) if len(parts) == 1 else None
    moving: Bool[Tensor, " R"] | None = None
    while True:
        if logits is None:
            now = _step_parts(state, gradient, relaxation, step, moving, parts)
        else:
            state, logits = _step(state, logits, gradient, relaxation, step, moving)
            now = relaxation.hard(logits)
        free = state.count < dto.steps
        free = free & ~_together(now != hard, spans) if dto.grad_cache else torch.zeros_like(free)
        left = int(free.sum())
        if left == 0:
            return state, now
        moving = None if left == len(free) else free


def _step(
    state: DTOState,
    logits: Float[Tensor, "R V"],
    gradient: Float[Tensor, "R V"],
    relaxation: Relaxation,
    step: Stepper,
    moving: Bool[Tensor, " R"] | None,
) -> tuple[DTOState, Float[Tensor, "R V"]]:
    downhill = relaxation.downhill(state.parameters, logits, gradient)
    state = step(state, downhill, moving)
    return state, relaxation.logits(state.parameters)


def _step_parts(
    state: DTOState,
    gradient: Float[Tensor, "R V"],
    relaxation: Relaxation,
    step: Stepper,
    moving: Bool[Tensor, " R"] | None,
    parts: Sequence[slice],
) -> Int[Tensor, " R"]:
    """A step in place, some rows at a time: what is made on the way is never held for all rows."""
    now = []
    for part in parts:
        own, some = state.rows(part), relaxation.rows(part)
        here = None if moving is None else moving[part]
        new, logits = _step(own, some.logits(own.parameters), gradient[part], some, step, here)
        now.append(some.hard(logits))
        state.write(part, new)
    return torch.cat(now)


def _parts(gradient: Float[Tensor, "R V"]) -> list[slice]:
    """Rows that are stepped at once."""
    rows, size = len(gradient), max(1, _ELEMENTS // gradient.shape[1])
    return [slice(start, start + size) for start in range(0, rows, size)]


def _together(flags: Bool[Tensor, " R"], spans: Sequence[range]) -> Bool[Tensor, " R"]:
    """Return whether any row of a row's request is flagged."""
    if len(spans) == len(flags):  # one row each
        return flags
    sizes = torch.tensor([len(span) for span in spans], device=flags.device)
    owner = torch.repeat_interleave(torch.arange(len(spans), device=flags.device), sizes)
    count = torch.zeros(len(spans), dtype=torch.long, device=flags.device)
    return count.index_add_(0, owner, flags.long())[owner] > 0


def _spans(sizes: Sequence[int]) -> list[range]:
    """Rows of each request, one request after another."""
    starts = [0, *accumulate(sizes)]
    return [range(start, start + size) for start, size in zip(starts, sizes, strict=False)]

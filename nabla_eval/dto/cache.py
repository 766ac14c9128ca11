"""Gradient caching: dL/dy is taken anew only when a hard token has changed (Alg. 4).

dL/dy is a function of the hard sequence alone, so reusing it changes no result; it only spares
passes. Requests descend side by side. One whose hard sequence changes waits where it is until all
others have arrived or wait too; then one batch of passes serves everyone who waits. So the batches
are as many as the flips of the request that flips most, however the flips fall.
`grad_cache=False` takes the gradient at every step, for measuring what caching saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nabla_eval.dto import optimise
from nabla_eval.dto.optimise import DTOState
from nabla_eval.dto.relax import hard_tokens, soft_backward
from nabla_eval.options import DTO

_ELEMENTS = 2**25  # of rows x V that are stepped at once

# Requests that need their gradient, and the hard tokens of their rows -> rows [sum of sizes, V].
Recompute = Callable[[list[int], list[tuple[int, ...]]], Tensor]
Step = Callable[..., DTOState]  # an optimiser's, with its table


@dataclass(frozen=True)
class Relaxation:
    """How the parameters of R rows become logits and hard tokens (Alg. 2, lines 4-5)."""

    temperature: float  # tau
    offset: Float[Tensor, "R V"] | None = None  # anchors, see `relax`
    head: Callable[[Tensor], Tensor] | None = None  # latents -> logits; None: z itself is free

    def rows(self, index: Int[Tensor, " kept"] | slice) -> Relaxation:
        """The relaxation of some rows."""
        offset = None if self.offset is None else self.offset[index]
        return Relaxation(self.temperature, offset, self.head)

    def logits(self, parameters: Float[Tensor, "R N"]) -> Float[Tensor, "R V"]:
        """z of the parameters."""
        return parameters if self.head is None else self.head(parameters)

    def hard(self, logits: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
        """The token that each row stands for."""
        return hard_tokens(logits, self.offset, self.temperature)

    def downhill(
        self, state: DTOState, logits: Float[Tensor, "R V"], gradient: Float[Tensor, "R V"]
    ) -> Float[Tensor, "R N"]:
        """dL/dparameters from dL/dy, through the softmax and perhaps the head."""
        outer = soft_backward(logits, gradient, self.temperature)
        if self.head is None:
            return outer
        with torch.enable_grad():
            leaf = state.parameters.detach().requires_grad_()
            return torch.autograd.grad(self.head(leaf), leaf, outer)[0]


@dataclass(frozen=True)
class DTOInfo:
    """What the descent of each request took; never read back by the algorithm."""

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
    optimiser = optimise.of(dto)
    # Several parts are stepped in place.
    state = optimiser.init(parameters.clone() if len(_parts(gradient)) > 1 else parameters)
    step = partial(optimiser.step, table=optimiser.table(dto, parameters))
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
    step: Step,
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
    step: Step,
    moving: Bool[Tensor, " R"] | None,
) -> tuple[DTOState, Float[Tensor, "R V"]]:
    downhill = relaxation.downhill(state, logits, gradient)
    state = step(state, downhill, moving=moving)
    return state, relaxation.logits(state.parameters)


def _step_parts(
    state: DTOState,
    gradient: Float[Tensor, "R V"],
    relaxation: Relaxation,
    step: Step,
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
        optimise.write(state, part, new)
    return torch.cat(now)


def _parts(gradient: Float[Tensor, "R V"]) -> list[slice]:
    """Rows that are stepped at once."""
    rows, size = len(gradient), max(1, _ELEMENTS // gradient.shape[1])
    return [slice(start, start + size) for start in range(0, rows, size)]


def _together(flags: Bool[Tensor, " R"], spans: Sequence[range]) -> Bool[Tensor, " R"]:
    """Whether any row of a row's request is flagged."""
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

"""Gradient caching: dL/dy is taken anew only when a hard token has changed (Alg. 4).

dL/dy is a function of the hard sequence alone, so the wrapper changes no result; it only spares
passes. `grad_cache=False` takes it at every step, for measuring what caching saves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.config import DTO

# Which groups of rows need their gradient at which hard tokens -> rows [sum of their sizes, V].
Recompute = Callable[[list[int], list[tuple[int, ...]]], Tensor]


@dataclass
class GradientCache:
    """dL/dy of R rows in groups (the free rows of one request), and where it was taken."""

    gradient: Float[Tensor, "R V"]
    hard: Int[Tensor, " R"]
    sizes: Sequence[int]
    recompute: Recompute = field(repr=False)
    passes: list[int] = field(default_factory=list)
    flips: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.passes = [0] * len(self.sizes)
        self.flips = [0] * len(self.sizes)

    def at(self, hard: Int[Tensor, " R"], dto: DTO) -> Float[Tensor, "R V"]:
        """The gradient at new hard tokens, recomputed for the groups that need it."""
        changed = [bool(part.any()) for part in (hard != self.hard).split(list(self.sizes))]
        self.hard = hard
        for group, flipped in enumerate(changed):
            self.flips[group] += flipped
        stale = [i for i, flipped in enumerate(changed) if flipped or not dto.grad_cache]
        if stale:
            parts = list(self.gradient.split(list(self.sizes)))
            tokens = [tuple(part.tolist()) for part in hard.split(list(self.sizes))]
            fresh = self.recompute(stale, [tokens[i] for i in stale])
            for i, part in zip(stale, fresh.split([self.sizes[i] for i in stale]), strict=True):
                parts[i] = part
                self.passes[i] += 1
            self.gradient = torch.cat(parts)
        return self.gradient

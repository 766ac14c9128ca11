"""AdamW with a cosine schedule as a pure kernel over rows: `init`, then `step` (Alg. 4).

Rows of many problems are optimised side by side: every operation is elementwise and each row counts
its own steps, so a row's path does not depend on its neighbours, nor on when it had to wait for a
gradient. Matches `torch.optim.AdamW` and `CosineAnnealingLR(T_max=steps)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nabla_eval.config import DTO

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch's AdamW defaults, as in the released code


@dataclass(frozen=True)
class DTOState:
    """Parameters of R free rows (N = V logits or D latents each), Adam's moments, steps taken."""

    parameters: Float[Tensor, "R N"]
    first: Float[Tensor, "R N"]
    second: Float[Tensor, "R N"]
    count: Int[Tensor, " R"]

    def rows(self, index: Int[Tensor, " kept"] | slice) -> DTOState:
        """The state of some rows; a slice gives a view of it."""
        return DTOState(
            self.parameters[index], self.first[index], self.second[index], self.count[index]
        )


def init(parameters: Float[Tensor, "R N"]) -> DTOState:
    """State before the first step."""
    zeros = torch.zeros_like(parameters)
    count = torch.zeros(len(parameters), dtype=torch.long, device=parameters.device)
    return DTOState(parameters, zeros, zeros, count)


def write(state: DTOState, part: slice, new: DTOState) -> None:
    """Put the state of some rows in its place."""
    for field in fields(DTOState):
        getattr(state, field.name)[part] = getattr(new, field.name)


def learning_rate(count: int, dto: DTO) -> float:
    """Cosine from lr at step 0 towards min_lr at step `steps`."""
    return dto.min_lr + (dto.lr - dto.min_lr) * (1 + math.cos(math.pi * count / dto.steps)) / 2


def schedule(dto: DTO, like: Tensor) -> Float[Tensor, "T 3"]:
    """What changes from step to step: rate / bias of m, root of the bias of v, and the decay."""
    table = []
    for count in range(dto.steps):
        lr = learning_rate(count, dto)
        rate = lr / (1 - BETA_1 ** (count + 1))
        root = math.sqrt(1 - BETA_2 ** (count + 1))
        table.append((rate, root, 1 - lr * dto.weight_decay))
    return torch.tensor(table, dtype=like.dtype, device=like.device)


def step(
    state: DTOState,
    gradient: Float[Tensor, "R N"],
    table: Float[Tensor, "T 3"],
    moving: Bool[Tensor, " R"] | None = None,
) -> DTOState:
    """One AdamW step down `gradient` with a `schedule`; rows that are not `moving` stay behind."""
    count = state.count.clamp(max=len(table) - 1)  # of rows that are through, and not moving
    rate, root, decay = table[count].unsqueeze(-1).unbind(1)
    first = torch.lerp(state.first, gradient, 1 - BETA_1)
    second = torch.addcmul(state.second * BETA_2, gradient, gradient, value=1 - BETA_2)
    scale = (second.sqrt() / root).add_(EPSILON)
    parameters = state.parameters * decay - rate * first / scale
    if moving is None:
        return DTOState(parameters, first, second, state.count + 1)
    here = moving[:, None]
    return DTOState(
        torch.where(here, parameters, state.parameters),
        torch.where(here, first, state.first),
        torch.where(here, second, state.second),
        state.count + moving,
    )

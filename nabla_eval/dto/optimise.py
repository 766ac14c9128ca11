"""AdamW with a cosine schedule as a pure kernel over rows: `init`, then `step` (Alg. 4).

Rows of many problems are optimised side by side: every operation is elementwise, so a row's path
does not depend on its neighbours. Matches `torch.optim.AdamW` and `CosineAnnealingLR(T_max=steps)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nabla_eval.config import DTO

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch's AdamW defaults, as in the released code


@dataclass(frozen=True)
class DTOState:
    """Parameters of R free rows (N = V logits or D latents each) and Adam's moments."""

    parameters: Float[Tensor, "R N"]
    first: Float[Tensor, "R N"]
    second: Float[Tensor, "R N"]
    count: int


@dataclass(frozen=True)
class DTOInfo:
    """Diagnostics of one step; never read back by the algorithm."""

    lr: float
    gradient_norm: Float[Tensor, " R"]


def init(parameters: Float[Tensor, "R N"]) -> DTOState:
    """State before the first step."""
    return DTOState(parameters, torch.zeros_like(parameters), torch.zeros_like(parameters), 0)


def learning_rate(count: int, dto: DTO) -> float:
    """Cosine from lr at step 0 towards min_lr at step `steps`."""
    return dto.min_lr + (dto.lr - dto.min_lr) * (1 + math.cos(math.pi * count / dto.steps)) / 2


def step(state: DTOState, gradient: Float[Tensor, "R N"], dto: DTO) -> tuple[DTOState, DTOInfo]:
    """One AdamW step down `gradient`."""
    lr, count = learning_rate(state.count, dto), state.count + 1
    first = torch.lerp(state.first, gradient, 1 - BETA_1)
    second = state.second * BETA_2 + gradient.square() * (1 - BETA_2)
    scale = second.sqrt() / math.sqrt(1 - BETA_2**count) + EPSILON
    decayed = state.parameters * (1 - lr * dto.weight_decay)
    parameters = decayed - (lr / (1 - BETA_1**count)) * first / scale
    info = DTOInfo(lr, gradient.norm(dim=-1))
    return DTOState(parameters, first, second, count), info

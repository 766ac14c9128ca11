"""Optimisers as pure kernels over rows: `init`, then `step`, and how far they can go (Alg. 4).

Rows of many problems are optimised side by side: every operation is elementwise and each row counts
its own steps, so a row's path does not depend on its neighbours, nor on when it had to wait for a
gradient. They match torch's, AdamW in bfloat16 to the last bit.

Another optimiser is a subclass of `Optimiser` in `OPTIMISERS`, under the name of its option. Where
it knows no bound of its steps, nothing is certified (`dto.certify`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nabla_eval.options import DTO

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch's AdamW defaults, as in the released code


@dataclass(frozen=True)
class DTOState:
    """Parameters of R free rows (N = V logits or D latents each), their moments, steps taken."""

    parameters: Float[Tensor, "R N"]
    moments: tuple[Float[Tensor, "R N"], ...]  # as many as the optimiser has
    count: Int[Tensor, " R"]

    def rows(self, index: Int[Tensor, " kept"] | slice) -> DTOState:
        """The state of some rows; a slice gives a view of it."""
        moments = tuple(moment[index] for moment in self.moments)
        return DTOState(self.parameters[index], moments, self.count[index])


def write(state: DTOState, part: slice, new: DTOState) -> None:
    """Put the state of some rows in its place."""
    state.parameters[part], state.count[part] = new.parameters, new.count
    for own, moment in zip(state.moments, new.moments, strict=True):
        own[part] = moment


def learning_rate(count: int, dto: DTO) -> float:
    """The rate of the step after `count` steps: lr at first, towards min_lr at `steps`.

    `clipped_cosine` is the released code's: a cosine to 0 that is held at min_lr.
    """
    cosine = (1 + math.cos(math.pi * count / dto.steps)) / 2
    if dto.schedule == "clipped_cosine":
        return max(dto.min_lr, dto.lr * cosine)
    return dto.min_lr + (dto.lr - dto.min_lr) * cosine


class Optimiser(ABC):
    """A rule that moves parameters down a gradient. It holds no state: `DTOState` does."""

    moments = 0  # tensors kept beside the parameters

    def init(self, parameters: Float[Tensor, "R N"]) -> DTOState:
        """State before the first step."""
        count = torch.zeros(len(parameters), dtype=torch.long, device=parameters.device)
        moments = tuple(torch.zeros_like(parameters) for _ in range(self.moments))
        return DTOState(parameters, moments, count)

    def table(self, dto: DTO, like: Tensor) -> Float[Tensor, "T K"]:
        """The `rates` of each of the T steps, in float32 or wider."""
        rows = [self.rates(count, dto) for count in range(dto.steps)]
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.tensor(rows, dtype=dtype, device=like.device)

    def step(
        self,
        state: DTOState,
        gradient: Float[Tensor, "R N"],
        table: Float[Tensor, "T K"],
        moving: Bool[Tensor, " R"] | None = None,
    ) -> DTOState:
        """One step down `gradient`, in the parameters' dtype; rows not `moving` stay behind."""
        count = state.count.clamp(max=len(table) - 1)  # of rows that are through, and not moving
        new = self.update(state, gradient, *table[count].unsqueeze(-1).unbind(1))
        if moving is None:
            return new
        here = moving[:, None]
        moments = [torch.where(here, a, b) for a, b in zip(new.moments, state.moments, strict=True)]
        parameters = torch.where(here, new.parameters, state.parameters)
        return DTOState(parameters, tuple(moments), state.count + moving)

    def reach(self, dto: DTO) -> float:
        """A bound on the |change| of every parameter over all T steps, whatever the gradients."""
        return math.inf

    @abstractmethod
    def rates(self, count: int, dto: DTO) -> tuple[float, ...]:
        """The K numbers that change from step to step, after `count` steps."""

    @abstractmethod
    def update(
        self, state: DTOState, gradient: Float[Tensor, "R N"], *rates: Float[Tensor, "R 1"]
    ) -> DTOState:
        """The state after one step of all rows."""


class AdamW(Optimiser):
    """`torch.optim.AdamW` without weight decay, which is the released code's `torch.optim.Adam`."""

    moments = 2

    def rates(self, count: int, dto: DTO) -> tuple[float, ...]:
        """Rate / bias of m, and root of the bias of v."""
        lr = learning_rate(count, dto)
        rate = lr / (1 - BETA_1 ** (count + 1))
        return rate, math.sqrt(1 - BETA_2 ** (count + 1))

    def update(
        self, state: DTOState, gradient: Float[Tensor, "R N"], *rates: Float[Tensor, "R 1"]
    ) -> DTOState:
        """Moments and parameters, rounded where torch's kernels for one tensor round them."""
        (rate, root), dtype = rates, state.parameters.dtype
        first = torch.lerp(state.moments[0], gradient, 1 - BETA_1)
        second = torch.addcmul(state.moments[1] * BETA_2, gradient, gradient, value=1 - BETA_2)
        scale = (second.sqrt() / root).to(dtype).add_(EPSILON)
        parameters = (state.parameters - rate * first / scale).to(dtype)
        return DTOState(parameters, (first, second), state.count + 1)

    def reach(self, dto: DTO) -> float:
        """sum_t lr_t c_t, with c_t the largest m / sqrt(v) that t gradients can give.

        With a_k and b_k the weights of the k-th gradient in m and of its square in v,
        Cauchy-Schwarz gives |m| <= sqrt(v) sqrt(sum_k a_k^2 / b_k), so

            c_t = sqrt(1 - beta_2^t) / (1 - beta_1^t) sqrt(sum_k a_k^2 / b_k)

        (c_1 = 1, c_20 = 1.16: 0.118 in all at the paper's rates; `nabla_theory.reach` checks it).
        Infinite in bfloat16, which rounds a step up to twice its length and its moments at will.
        """
        if dto.logits_dtype == "bfloat16":
            return math.inf
        total = weights = 0.0
        for count in range(dto.steps):
            # sum_k a_k^2 / b_k over the gradients so far, each weighed down once more than before
            weights = weights * BETA_1**2 / BETA_2 + (1 - BETA_1) ** 2 / (1 - BETA_2)
            bias = math.sqrt(1 - BETA_2 ** (count + 1)) / (1 - BETA_1 ** (count + 1))
            total += learning_rate(count, dto) * bias * math.sqrt(weights)
        return total


class SGD(Optimiser):
    """`torch.optim.SGD` without momentum: a step is as long as its gradient, so nothing bounds it.

    Unlike Adam it does not lift small gradients to the size of large ones: how unlikely a token is
    keeps its weight against the reward (DESIGN 3.7).
    """

    def rates(self, count: int, dto: DTO) -> tuple[float, ...]:
        """The learning rate."""
        return (learning_rate(count, dto),)

    def update(
        self, state: DTOState, gradient: Float[Tensor, "R N"], *rates: Float[Tensor, "R 1"]
    ) -> DTOState:
        """Parameters down the gradient."""
        return DTOState(state.parameters - rates[0] * gradient, (), state.count + 1)


OPTIMISERS: dict[str, Optimiser] = {"adamw": AdamW(), "sgd": SGD()}


def of(dto: DTO) -> Optimiser:
    """The optimiser that the options name."""
    return OPTIMISERS[dto.optimizer]

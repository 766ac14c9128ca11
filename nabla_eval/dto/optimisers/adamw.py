"""`torch.optim.AdamW` without weight decay, which is the released code's `torch.optim.Adam`.

It matches torch's, in bfloat16 to the last bit.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from nabla_eval.options import DTO

REFERENCE = torch.optim.AdamW
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # torch's defaults, as in the released code

Moments = tuple[Tensor, Tensor]  # of the gradient and of its square, [R, N] each


def init(parameters: Float[Tensor, "R N"]) -> Moments:
    """Return the state before the first step."""
    return torch.zeros_like(parameters), torch.zeros_like(parameters)


def factors(rate: float, count: int) -> tuple[float, float]:
    """Return rate / bias of m, and the root of the bias of v."""
    return rate / (1 - BETA_1 ** (count + 1)), math.sqrt(1 - BETA_2 ** (count + 1))


def step(
    parameters: Float[Tensor, "R N"],
    gradient: Float[Tensor, "R N"],
    state: Moments,
    rate: Float[Tensor, "R 1"],
    root: Float[Tensor, "R 1"],
) -> tuple[Float[Tensor, "R N"], Moments]:
    """Round moments and parameters where torch's kernels for one tensor round them."""
    first = torch.lerp(state[0], gradient, 1 - BETA_1)
    second = (state[1] * BETA_2).addcmul_(gradient, gradient, value=1 - BETA_2)
    scale = second.sqrt().div_(root).add_(EPSILON)
    change = (rate * first).div_(scale)
    return torch.sub(parameters, change, out=change).to(parameters.dtype), (first, second)


def reach(dto: DTO, rates: list[float]) -> float:
    """Return sum_t lr_t c_t, with c_t the largest m / sqrt(v) that t gradients can give.

    With a_k and b_k the weights of the k-th gradient in m and of its square in v,
    Cauchy-Schwarz gives |m| <= sqrt(v) sqrt(sum_k a_k^2 / b_k), so

        c_t = sqrt(1 - beta_2^t) / (1 - beta_1^t) sqrt(sum_k a_k^2 / b_k)

    (c_1 = 1, c_20 = 1.16: 0.118 in all at the paper's rates; `theory.reach` checks it).
    Infinite in bfloat16, which rounds a step up to twice its length and its moments at will.
    """
    if dto.logits_dtype == "bfloat16":
        return math.inf
    total = weights = 0.0
    for count, rate in enumerate(rates):
        # sum_k a_k^2 / b_k over the gradients so far, each weighed down once more than before
        weights = weights * BETA_1**2 / BETA_2 + (1 - BETA_1) ** 2 / (1 - BETA_2)
        bias = math.sqrt(1 - BETA_2 ** (count + 1)) / (1 - BETA_1 ** (count + 1))
        total += rate * bias * math.sqrt(weights)
    return total

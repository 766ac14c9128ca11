"""Draws that no gradient can change: the token is known before a pass is spent on it.

AdamW's step is bounded whatever the gradients are. With m and v its moments after t of them,
Cauchy-Schwarz gives |m| <= sqrt(v) sqrt(sum_k a_k^2 / b_k), where a_k and b_k are the weights of
the k-th gradient in m and of its square in v. So after T steps no logit has moved further than

    reach = sum_t lr_t c_t,  c_t = sqrt(1 - beta_2^t) / (1 - beta_1^t) sqrt(sum_k a_k^2 / b_k)

(c_1 = 1, c_20 = 1.16: 0.118 in all at the paper's rates; `theory.reach` checks it). In that box
the odds of a set of tokens change by a factor of at most exp(2 reach / tau), so a cumulative
probability stays in an interval, and a uniform number that lies outside of the intervals around its
token draws that token from every refined distribution: the draw is certified, and equals the
zeroth-order twin's.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.config import DTO
from nabla_eval.dto.optimise import BETA_1, BETA_2, learning_rate

UNDECIDED = -1
SLACK = 1.001  # of the reach, for what rounding adds to each step


def reach(dto: DTO) -> float:
    """Largest |change| of a parameter over all T steps; infinite where weights decay."""
    if dto.weight_decay:
        return math.inf
    total = weights = 0.0
    for count in range(dto.steps):
        # sum_k a_k^2 / b_k over the gradients so far, each weighed down once more than before
        weights = weights * BETA_1**2 / BETA_2 + (1 - BETA_1) ** 2 / (1 - BETA_2)
        bias = math.sqrt(1 - BETA_2 ** (count + 1)) / (1 - BETA_1 ** (count + 1))
        total += learning_rate(count, dto) * bias * math.sqrt(weights)
    return total


def certain(
    logits: Float[Tensor, "R V"],
    temperature: Float[Tensor, "R 1"],
    uniform: Float[Tensor, "R S"],
    dto: DTO,
) -> Int[Tensor, "R S"]:
    """The tokens that uniform numbers draw from every distribution in reach, else `UNDECIDED`.

    Tokens that must not be drawn have a logit of minus infinity. The draw is `engine.sampler`'s,
    by inverse CDF in id order and without filters. What rounding may do to logits and cumulative
    probabilities is added to the box and its edges, so that it decides nothing.
    """
    finite = logits.masked_fill(logits.isinf(), 0)
    rounding = torch.finfo(logits.dtype).eps * finite.abs().amax(-1, keepdim=True)
    odds = (reach(dto) * SLACK + 4 * dto.steps * rounding) / temperature * 2
    cumulative = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    cumulative /= cumulative[:, -1:].clone()
    tokens = torch.searchsorted(cumulative, uniform.double().contiguous(), right=True)
    edge = 64 * torch.finfo(logits.dtype).eps
    above = cumulative.gather(-1, tokens)
    before = cumulative.gather(-1, (tokens - 1).clamp(min=0)).masked_fill(tokens == 0, 0)
    inside = (_shifted(before, odds) + edge < uniform) & (uniform < _shifted(above, -odds) - edge)
    return tokens.masked_fill(~inside, UNDECIDED)


def _shifted(probability: Tensor, odds: Tensor) -> Tensor:
    """A probability whose log odds have changed by so much."""
    return torch.sigmoid(torch.logit(probability) + odds)

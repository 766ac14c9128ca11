"""Draws that no gradient can change: the token is known before a pass is spent on it.

An optimiser may bound how far its steps carry any logit, whatever the gradients are
(`reach` in its file; AdamW's do: 0.118 in all at the paper's rates). In that box
the odds of a set of tokens change by a factor of at most exp(2 reach / tau), so a cumulative
probability stays in an interval, and a uniform number that lies outside of the intervals around its
token draws that token from every refined distribution: the draw is certified, and equals the
zeroth-order twin's. Without a bound nothing is certified.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nabla_eval.dto.loop import learning_rate
from nabla_eval.dto.optimisers import optimiser
from nabla_eval.options import DTO

UNDECIDED = -1
SLACK = 1.001  # of the reach, for what rounding adds to each step


def logit_reach(dto: DTO) -> float:
    """Bound the |change| of a logit over all T steps; infinite where latents move instead."""
    bound = optimiser(dto.optimizer).reach
    if bound is None or dto.parameterisation == "latents":
        return math.inf
    return bound(dto, [learning_rate(count, dto) for count in range(dto.steps)])


def certain(
    logits: Float[Tensor, "R V"],
    temperature: Float[Tensor, "R 1"],
    uniform: Float[Tensor, "R S"],
    dto: DTO,
) -> Int[Tensor, "R S"]:
    """Return the tokens that uniform numbers draw from all distributions in reach, or `UNDECIDED`.

    Tokens that must not be drawn have a logit of minus infinity. The draw is `engine.sampler`'s,
    by inverse CDF in id order and without filters. What rounding may do to logits and cumulative
    probabilities is added to the box and its edges, so that it decides nothing.
    """
    finite = logits.masked_fill(logits.isinf(), 0)
    rounding = torch.finfo(logits.dtype).eps * finite.abs().amax(-1, keepdim=True)
    odds = (logit_reach(dto) * SLACK + 4 * dto.steps * rounding) / temperature * 2
    cumulative = (logits / temperature).softmax(-1).cumsum(-1, dtype=torch.float64)
    cumulative /= cumulative[:, -1:].clone()
    tokens = torch.searchsorted(cumulative, uniform.double().contiguous(), right=True)
    edge = 64 * torch.finfo(logits.dtype).eps
    above = cumulative.gather(-1, tokens)
    before = cumulative.gather(-1, (tokens - 1).clamp(min=0)).masked_fill(tokens == 0, 0)
    inside = (_shifted(before, odds) + edge < uniform) & (uniform < _shifted(above, -odds) - edge)
    return tokens.masked_fill(~inside, UNDECIDED)


def _shifted(probability: Tensor, odds: Tensor) -> Tensor:
    """Shift the log odds of a probability."""
    return torch.sigmoid(torch.logit(probability) + odds)

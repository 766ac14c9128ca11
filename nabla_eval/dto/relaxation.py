"""Straight-through relaxation of tokens (Alg. 2, lines 4-5; DESIGN 3.2).

y_i = onehot(argmax_j(z_ij/tau + o_ij)) + p_i - stopgrad(p_i) with p_i = softmax(z_i/tau): the
forward value is a token, the gradient is the softmax's. The offset o anchors the hard token: zero
is the paper read literally, Gumbel noise makes it start at the token that was sampled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


def soft_backward(
    logits: Float[Tensor, "R V"], gradient: Float[Tensor, "R V"], temperature: float
) -> Float[Tensor, "R V"]:
    """Return dL/dz_i = (1/tau)(diag(p_i) - p_i p_i^T) dL/dy_i."""
    p = (logits / temperature).softmax(-1)
    return (gradient - torch.linalg.vecdot(p, gradient)[:, None]).mul_(p).div_(temperature)


def hard_tokens(
    logits: Float[Tensor, "R V"], offset: Float[Tensor, "R V"] | None, temperature: float
) -> Int[Tensor, " R"]:
    """Return the hard token of each row."""
    scaled = logits / temperature
    return (scaled if offset is None else scaled + offset).argmax(-1)


def gumbel_offset(
    scaled: Float[Tensor, "R V"], tokens: Int[Tensor, " R"], uniform: Float[Tensor, "R V"]
) -> Float[Tensor, "R V"]:
    """Draw Gumbel noise, conditioned on the sampled token being the perturbed argmax.

    Sampling from softmax(z/tau) is taking the argmax of z/tau + Gumbel noise; given its outcome,
    the maximum is Gumbel(logsumexp) and the others are Gumbels truncated at it (Maddison, Tarlow
    and Minka 2014, "A* sampling", section 3).
    """
    own = tokens[:, None]
    gumbel = -torch.log(-torch.log(uniform.to(scaled.dtype)))
    top = scaled.logsumexp(-1, keepdim=True) + gumbel.gather(-1, own)
    free = scaled + gumbel
    # -log(exp(-top) + exp(-free)): below top, and equal to free where free is far below it.
    truncated = -torch.logaddexp(-top.expand_as(free), -free)
    offset = truncated.scatter(-1, own, top) - scaled
    return offset.masked_fill(scaled == -torch.inf, 0)  # a masked token needs none


@dataclass(frozen=True)
class Relaxation:
    """The map from the parameters of R rows to logits and hard tokens (Alg. 2, lines 4-5)."""

    temperature: float  # tau
    offset: Float[Tensor, "R V"] | None = None  # anchors, see `gumbel_offset`
    head: Callable[[Tensor], Tensor] | None = None  # latents -> logits; None: z itself is free

    def rows(self, index: Int[Tensor, " kept"] | slice) -> Relaxation:
        """Select some rows."""
        offset = None if self.offset is None else self.offset[index]
        return Relaxation(self.temperature, offset, self.head)

    def logits(self, parameters: Float[Tensor, "R N"]) -> Float[Tensor, "R V"]:
        """Return z of the parameters."""
        return parameters if self.head is None else self.head(parameters)

    def hard(self, logits: Float[Tensor, "R V"]) -> Int[Tensor, " R"]:
        """Return the token that each row stands for."""
        return hard_tokens(logits, self.offset, self.temperature)

    def downhill(
        self,
        parameters: Float[Tensor, "R N"],
        logits: Float[Tensor, "R V"],
        gradient: Float[Tensor, "R V"],
    ) -> Float[Tensor, "R N"]:
        """Return dL/dparameters from dL/dy, through the softmax and perhaps the head."""
        outer = soft_backward(logits, gradient, self.temperature)
        if self.head is None:
            return outer
        with torch.enable_grad():
            leaf = parameters.detach().requires_grad_()
            return torch.autograd.grad(self.head(leaf), leaf, outer)[0]

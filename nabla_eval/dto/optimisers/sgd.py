"""Gradient descent without momentum: a step is as long as its gradient.

Unlike Adam it does not lift small gradients to the size of large ones: how unlikely a token is
keeps its weight against the reward (DESIGN 3.7).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

REFERENCE = torch.optim.SGD
reach = None  # nothing bounds a step


def init(parameters: Float[Tensor, "R N"]) -> tuple[()]:
    """Return the state before the first step: there is none."""
    return ()


def step(
    parameters: Float[Tensor, "R N"],
    gradient: Float[Tensor, "R N"],
    state: tuple[()],
    rate: Float[Tensor, "R 1"],
) -> tuple[Float[Tensor, "R N"], tuple[()]]:
    """Move the parameters down the gradient."""
    return parameters - rate * gradient, ()

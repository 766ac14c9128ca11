"""Floating-point operations of dense transformers, to first order.

2P operations per token forward and as much again for a backward pass that stops at the input
embeddings (weights get no gradient), P the number of parameters outside the input embedding table
(Kaplan et al. 2020, section 2.1; attention's quadratic term is left out, as there).
"""

from __future__ import annotations


def forward_flops(parameters: int, tokens: int) -> float:
    """Operations of `tokens` forward tokens through a model of `parameters` parameters."""
    return 2.0 * parameters * tokens


def gradient_flops(parameters: int, tokens: int) -> float:
    """Operations of a forward pass and a backward pass to the inputs."""
    return 4.0 * parameters * tokens


def table_flops(vocabulary: int, hidden: int) -> float:
    """Operations of one vector times an embedding table: of a mean embedding, or of G.

    Beside one token's forward and backward pass it is no small addend, as it is beside a whole
    sequence's.
    """
    return 2.0 * vocabulary * hidden

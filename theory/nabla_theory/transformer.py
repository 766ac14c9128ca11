"""A small random causal transformer over relaxed one-hot tokens, as policy and as reward model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from nabla_theory import noise


@dataclass(frozen=True)
class Transformer:
    """Pre-norm causal self-attention blocks with random float64 weights (never trained)."""

    embedding: Tensor  # [V, D]
    places: Tensor  # [S, D], position embeddings
    blocks: tuple[tuple[Tensor, ...], ...]  # per block: query, key, value, up, down
    head: Tensor  # [D, V] of a policy, [D, 1] of a reward model
    heads: int

    def embed(self, tokens: Tensor) -> Tensor:
        """Input embeddings of relaxed one-hot tokens [S, V]; [S, D]."""
        return tokens @ self.embedding

    def read(self, embedded: Tensor) -> Tensor:
        """The head's output at every position; [S, V] or [S, 1]."""
        hidden = embedded + self.places[: len(embedded)]
        for query, key, value, up, down in self.blocks:
            hidden = hidden + self._attend(normalise(hidden), query, key, value)
            hidden = hidden + torch.tanh(normalise(hidden) @ up) @ down
        return normalise(hidden) @ self.head

    def _attend(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        length, width = x.shape

        def split(weight: Tensor) -> Tensor:
            return (x @ weight).view(length, self.heads, width // self.heads).transpose(0, 1)

        scores = split(query) @ split(key).transpose(1, 2) / math.sqrt(width // self.heads)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = torch.softmax(scores.masked_fill(future, -math.inf), dim=-1)
        return (weights @ split(value)).transpose(0, 1).reshape(length, width)


def normalise(x: Tensor) -> Tensor:
    """Root-mean-square normalisation along the last dimension."""
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def random_transformer(
    seed: int, name: str, vocabulary: int, outputs: int, *, width: int = 16, scale: float = 1.5
) -> Transformer:
    """Two blocks and two heads, with keyed random weights for up to 64 positions."""
    shapes = {"embedding": (vocabulary, width), "places": (64, width), "head": (width, outputs)}

    def draw(part: str, shape: tuple[int, ...], gain: float) -> Tensor:
        fan = shape[0] if part not in {"embedding", "places"} else 1
        return noise.normal(seed, f"transformer/{name}/{part}", 0, shape) * (gain / math.sqrt(fan))

    blocks = tuple(
        tuple(
            draw(f"{block}/{part}", shape, scale)
            for part, shape in (
                ("query", (width, width)),
                ("key", (width, width)),
                ("value", (width, width)),
                ("up", (width, 2 * width)),
                ("down", (2 * width, width)),
            )
        )
        for block in range(2)
    )
    base = {part: draw(part, shape, 1.0) for part, shape in shapes.items()}
    return Transformer(base["embedding"], base["places"], blocks, scale * base["head"], heads=2)

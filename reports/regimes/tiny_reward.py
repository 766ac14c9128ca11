"""The reward model of the small beds: a causal transformer of 0.1 M parameters, and its gradients.

A response of S steps is read as 1 + 2 S places: the start, then for each step its condition and its
result. The score of a step stands at its result, a head's prediction at its condition, which is the
place before. Attention has ALiBi's slopes (Press et al. 2022, arXiv 2108.12409) in a window as long
as a training response, so that longer responses are nothing new.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from chains import SYMBOLS, VALUES, Problems
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, logsigmoid

WIDTH, LAYERS, HEADS = 64, 2, 4
WINDOW = 7  # places that a place sees: as many as a response has in training
WEIGHTS = LAYERS * 12 * WIDTH * WIDTH  # of the blocks: a token's forward pass is 2 FLOPs each
HEAD_WEIGHTS = WIDTH * VALUES  # of a head, and of the product of a gradient with all embeddings


class Block(nn.Module):
    """Attention and a feed-forward layer; no kernel without a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Map `[B, T, D]` to the same shape; `bias` `[heads, T, T]` is added to the attention."""
        rows, length, _ = x.shape
        parts = self.qkv(layer_norm(x, (WIDTH,))).view(rows, length, 3, HEADS, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS) + bias).softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(rows, length, WIDTH))
        hidden: Tensor = x + self.down(gelu(self.up(layer_norm(x, (WIDTH,)))))
        return hidden


class TinyReward(nn.Module):
    """Scores of steps, and a head that predicts right tokens (unused unless trained)."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.value = nn.Embedding(VALUES, WIDTH)
            self.symbol = nn.ModuleList([nn.Embedding(SYMBOLS, WIDTH) for _ in range(2)])
            self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
            self.score = nn.Linear(WIDTH, 1)
            self.head = nn.Linear(WIDTH, VALUES)

    def embed(self, problems: Problems, results: Tensor) -> Tensor:
        """Interleave start, conditions and embedded results `[B, S, D]`: `[B, 1 + 2 S, D]`."""
        conditions = sum(table(problems.conditions[..., i]) for i, table in enumerate(self.symbol))
        steps = torch.stack([conditions, results], 2).flatten(1, 2)
        return torch.cat([self.value(problems.start)[:, None], steps], 1)

    def states(self, problems: Problems, results: Tensor) -> Tensor:
        """Return the states `[B, 1 + 2 S, D]` over embedded results `[B, S, D]`."""
        x = self.embed(problems, results)
        bias = attention_bias(x.shape[1])
        for block in self.blocks:
            x = block(x, bias)
        return layer_norm(x, (WIDTH,))

    def scores(self, problems: Problems, results: Tensor) -> Tensor:
        """Return a score for every step, `[B, S]`, a logit that it is right."""
        found: Tensor = self.score(self.states(problems, results)[:, 2::2])[..., 0]
        return found


def attention_bias(length: int) -> Tensor:
    """Return ALiBi's slopes within a causal window of `WINDOW` places, `[heads, T, T]`."""
    place = torch.arange(length)
    back = (place[:, None] - place[None]).float()
    slopes = torch.tensor([1.0, 0.5, 0.25, 0.0625])[:, None, None]
    return (-slopes * back).masked_fill((back < 0) | (back >= WINDOW), -torch.inf)


def fit(model: nn.Module, loss: Callable[[int], Tensor], steps: int, rate: float = 3e-3) -> None:
    """Minimise with AdamW, warm-up and a cosine; `loss(step)` draws its own batch."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        warm, done = min(1.0, (step + 1) / 50), step / steps
        for group in optimiser.param_groups:
            group["lr"] = rate * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)
        optimiser.zero_grad(set_to_none=True)
        loss(step).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()


def linearised(
    model: TinyReward,
    problems: Problems,
    written: Tensor,
    place: Tensor,
    mixture: Tensor,
    **how: Any,
) -> Tensor:
    """Return G `[B, V]` of DESIGN 3.8 at step `place` `[B]`, linearised at the mean embedding.

    `mixture` `[B, V]` are the weights of that mean; a one-hot row linearises at one token.
    """
    rows = torch.arange(len(written))
    inner = mixture @ model.value.weight
    results = model.value(written).index_put((rows, place), inner)
    if not inner.requires_grad:
        inner = inner.requires_grad_()
        results = model.value(written).detach().index_put((rows, place), inner)
    score = logsigmoid(model.scores(problems, results)[rows, place]).sum()
    (slope,) = torch.autograd.grad(score, inner, **how)
    return slope @ model.value.weight.T

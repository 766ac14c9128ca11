"""The task of the small beds: steps whose results are one token each, and a made policy.

A step's condition is two symbols (a, b), and its right result has two digits, high[a] and low[b].
Steps do not depend on each other, so a response's reward is a sum of terms of single sites.

The policy is no model. At every step it knows K plausible tokens, the right one among them, and
ranks them by noise with a slight lean towards the right one: K is the knob, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

HIGH, LOW = 16, 8
VALUES = HIGH * LOW  # one token per value
SYMBOLS = 24  # of each half of a condition, C
NEAR = 4.0  # how much more plausible a wrong token is that shares a digit with the right one
LEAN = 0.25  # in standard deviations of the noise


@dataclass(frozen=True)
class Facts:
    """What is right."""

    high: Tensor  # [C] in 0..HIGH-1
    low: Tensor  # [C] in 0..LOW-1

    @staticmethod
    def make() -> Facts:
        """Draw the facts: the same for every reward seed."""
        rng = np.random.default_rng([0, 11, 1])
        high, low = rng.integers(HIGH, size=SYMBOLS), rng.integers(LOW, size=SYMBOLS)
        return Facts(torch.from_numpy(high), torch.from_numpy(low))

    def right(self, condition: Tensor) -> Tensor:
        """Return the right results `[...]` of conditions `[..., 2]`."""
        return self.high[condition[..., 0]] * LOW + self.low[condition[..., 1]]


@dataclass(frozen=True)
class Problems:
    """B problems of S steps; indexed by row."""

    start: Tensor  # [B] a token before the first step
    conditions: Tensor  # [B, S, 2]
    answer: Tensor  # [B, S] the right results

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: Any) -> Problems:
        return Problems(self.start[rows], self.conditions[rows], self.answer[rows])


def draw_problems(count: int, steps: int, generator: torch.Generator) -> Problems:
    """Draw `count` different problems."""
    start = torch.randint(VALUES, (2 * count,), generator=generator)
    conditions = torch.randint(SYMBOLS, (2 * count, steps, 2), generator=generator)
    drawn = torch.cat([start[:, None], conditions.flatten(1)], 1).numpy()
    chosen = np.sort(np.unique(drawn, axis=0, return_index=True)[1])[:count]
    return Problems(start[chosen], conditions[chosen], Facts.make().right(conditions[chosen]))


def shares_a_digit(right: Tensor) -> Tensor:
    """Return which values `[..., V]` share exactly one digit with the right ones."""
    value = torch.arange(VALUES)
    high, low = value // LOW == right[..., None] // LOW, value % LOW == right[..., None] % LOW
    return high ^ low


def plausibility(right: Tensor, width: int, lean: float, generator: torch.Generator) -> Tensor:
    """Return the policy's log-probabilities `[..., V]`: `width` plausible values, the rest -inf."""
    shape = (*right.shape, VALUES)
    weight = torch.where(shares_a_digit(right), NEAR, 1.0).log()
    gumbel = -torch.log(-torch.log(torch.rand(shape, generator=generator).clamp(1e-9, 1 - 1e-7)))
    place = right[..., None]
    order = (weight + gumbel).scatter(-1, place, torch.inf)
    chosen = order.topk(width, dim=-1).indices
    logits = torch.randn(shape, generator=generator)
    logits = logits.scatter_add(-1, place, torch.full(place.shape, lean))
    logits = torch.full(shape, -torch.inf).scatter(-1, chosen, logits.gather(-1, chosen))
    return logits.log_softmax(-1)


def wrong_values(right: Tensor, generator: torch.Generator) -> Tensor:
    """Draw wrong values: a third share the first digit, a third the second, a third are any."""
    kind = torch.randint(3, right.shape, generator=generator)
    other = torch.randint(1, VALUES, right.shape, generator=generator)
    high, low = right // LOW, right % LOW
    any_value = (right + other) % VALUES
    same_high = high * LOW + (low + 1 + other % (LOW - 1)) % LOW
    same_low = (high + 1 + other % (HIGH - 1)) % HIGH * LOW + low
    return torch.where(kind == 0, any_value, torch.where(kind == 1, same_high, same_low))


def sample_responses(
    count: int, steps: int, share_right: float, generator: torch.Generator
) -> tuple[Problems, Tensor]:
    """Draw problems and responses `[B, S]` to learn from; a share of their steps is right."""
    start = torch.randint(VALUES, (count,), generator=generator)
    conditions = torch.randint(SYMBOLS, (count, steps, 2), generator=generator)
    kept = torch.rand((count, steps), generator=generator) < share_right
    right = Facts.make().right(conditions)
    # A step after the other, so that a seed gives the same responses at every length.
    wrong = torch.stack([wrong_values(right[:, step], generator) for step in range(steps)], 1)
    return Problems(start, conditions, right), torch.where(kept, right, wrong)

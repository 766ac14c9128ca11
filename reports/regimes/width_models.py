"""Reward models of the beds `width` and `recipe`: plain, with a head, with an aligned gradient.

All learn whether a step is right given what stands before it, from the same responses. The head and
the aligned gradient also learn from the right tokens of `GOLD` places a step, the same number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from chains import LEAN, Problems, plausibility, sample_responses
from kept import kept_model
from tiny_reward import TinyReward, fit, linearised
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

WIDTHS = (3, 8, 32, 128)  # K: plausible values of a result
KINDS = ("plain", "head", "aligned")
STEPS, ROWS, LENGTH, GOLD = 450, 64, 3, 16
RATE, SHARE_RIGHT, EXTRA = 5e-3, 0.5, 0.5
BETA = 3.0  # of the tilted policy whose gradient is aligned, as in the study of Countdown
FLOOR = -13.8  # log of the least probability that counts


def head_term(model: TinyReward, states: Tensor, problems: Problems, place: Tensor) -> Tensor:
    """Return the cross-entropy of the head's prediction at the place before the result."""
    rows = torch.arange(len(place))
    return cross_entropy(model.head(states[rows, 1 + 2 * place]), problems.answer[rows, place])


def aligned_term(
    model: TinyReward,
    problems: Problems,
    written: Tensor,
    place: Tensor,
    policy: Tensor,
    gold: bool = True,
) -> Tensor:
    """Return the cross-entropy of π exp(βG) by double backpropagation (DESIGN 3.8).

    The target is the right token, or without gold the model's own exact scores of 8 tokens.
    """
    G = linearised(model, problems, written, place, policy.exp(), create_graph=True)
    tilted = policy.clamp_min(FLOOR) + BETA * G
    if gold:
        return cross_entropy(tilted, problems.answer[torch.arange(len(place)), place])
    tokens = policy.topk(8, dim=-1).indices
    with torch.no_grad():
        exact = torch.stack(
            [swapped(model, problems, written, place, tokens[:, i]) for i in range(8)], 1
        )
        target = (policy.gather(1, tokens).clamp_min(FLOOR) + BETA * exact).softmax(-1)
    return -(target * tilted.gather(1, tokens).log_softmax(-1)).sum(-1).mean()


def swapped(
    model: TinyReward, problems: Problems, written: Tensor, place: Tensor, token: Tensor
) -> Tensor:
    """Return log σ of the scores `[B]` with a token `[B]` at the place `[B]`."""
    rows = torch.arange(len(token))
    results = model.value(written.index_put((rows, place), token))
    return logsigmoid(model.scores(problems, results)[rows, place])


def train(
    model: TinyReward, kind: str, seed: int, steps: int = STEPS, *, gold: bool = True
) -> None:
    """Train a model of a kind on one draw of responses per step."""
    generator = torch.Generator().manual_seed(1000 + seed)

    def loss(step: int) -> Tensor:
        problems, written = sample_responses(ROWS, LENGTH, SHARE_RIGHT, generator)
        states = model.states(problems, model.value(written))
        right = (written == problems.answer).float()
        total = binary_cross_entropy_with_logits(model.score(states[:, 2::2])[..., 0], right)
        place = torch.randint(LENGTH, (GOLD,), generator=generator)
        if kind == "head":
            total = total + EXTRA * head_term(model, states, problems, place)
        if kind == "aligned":
            first, width = problems[:GOLD], WIDTHS[step % len(WIDTHS)]
            answer = first.answer[torch.arange(GOLD), place]
            policy = plausibility(answer, max(width, 8) if not gold else width, LEAN, generator)
            term = aligned_term(model, first, written[:GOLD], place, policy, gold)
            total = total + EXTRA * term
        return total

    fit(model, loss, steps, RATE)


def recipe() -> tuple[Any, ...]:
    """Return what decides a model's weights besides its kind and seed."""
    learning = (STEPS, ROWS, LENGTH, RATE, SHARE_RIGHT)
    return *learning, WIDTHS, GOLD, EXTRA, BETA, FLOOR, LEAN


def load(folder: Path, kind: str, seed: int) -> TinyReward:
    """Return a trained model, trained now if it was not yet."""
    model = TinyReward(seed)
    kept_model(folder / f"{kind}-{seed}.pt", recipe(), model, lambda: train(model, kind, seed))
    return model

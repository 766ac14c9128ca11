"""A control for pairs whose reward is nearly a sum over tokens: learn their shares from drafts.

No gradient is taken. Rewards of a problem's drafts are regressed on how often each token occurs in
them (ridge regression), and the next round's drafts come from the policy tilted by what was found
for each token: a cross-entropy method within one problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import nabla_eval as ne
from nabla_eval.outcome import Draft


def shares(drafts: Sequence[Draft], prompt: int, vocabulary: int, ridge: float) -> Tensor:
    """Return by how much one more of each token raises the reward, `[V]`.

    The reward is regressed on frequencies among the tokens that it sees, of which `prompt` are the
    question's.
    """
    counts = torch.stack(
        [torch.bincount(torch.tensor(own.tokens), minlength=vocabulary) for own in drafts]
    )
    lengths = prompt + counts.sum(1, dtype=torch.float64)
    rewards = torch.tensor([own.reward for own in drafts], dtype=torch.float64)
    x, y = counts / lengths[:, None], rewards - rewards.mean()
    x = x - x.mean(0)
    shrunk = x.T @ x + ridge * torch.eye(vocabulary, dtype=x.dtype)
    return torch.linalg.solve(shrunk, x.T @ y) / lengths.mean()


def tilted(pair: Any, by: Tensor) -> Any:
    """Return the pair with `by` `[V]` added to the policy's logits."""

    def head(head: Any, states: Tensor) -> Tensor:
        return head(states) + by.to(states.dtype)

    return replace(pair, policy=replace(pair.policy, head=partial(head, pair.policy.head)))


def answer(
    pair: Any, prompt: str, seed: int, longest: int, *, n: int, rounds: int, ridge: float,
    tilt: float, temperature: float,
) -> tuple[float, float]:  # fmt: skip
    """Return the best reward of `rounds` of `n` drafts, and the model calls of all."""
    asked, vocabulary = len(pair.policy.encode(prompt)), pair.policy.vocabulary
    drafts: list[Draft] = []
    calls, policy = 0.0, pair
    for i in range(rounds):
        (made,) = ne.generate(
            policy, [prompt], seed=rounds * seed + i, max_new_tokens=longest, chat=False,
            method="best_of_n", n=n, temperature=temperature,
        )  # fmt: skip
        drafts += made.trace.drafts
        calls += made.stats["model_calls"]
        policy = tilted(pair, tilt * shares(drafts, asked, vocabulary, ridge))
    return max(own.reward for own in drafts), calls

"""Reward of whole responses, and of their prefixes where the reward model has such scores."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import Site, reward_inputs, reward_scores
from nabla_eval.errors import RewardError
from nabla_eval.models.pair import Reward
from nabla_eval.requests import Judgement, Score


def site_of(request: Score) -> Site:
    """What the reward model is shown."""
    problem, trajectory = request.problem, request.trajectory
    tokens = trajectory.tokens[: trajectory.scored]
    if request.repeat_prompt:
        # The released code's fault (DESIGN 3.5): the prompt's ids once more inside the response.
        tokens = problem.prompt + tokens
    return Site(problem.prompt, problem.frame, tokens, len(tokens))


@torch.no_grad()
def score(reward: Reward, requests: Sequence[Score]) -> list[Judgement]:
    """Score responses as one left-padded batch.

    Raises `RewardError` for a reward that is not a finite number.
    """
    sites = [site_of(request) for request in requests]
    embeds, mask, spans = reward_inputs(reward, sites)
    scores = reward_scores(reward, embeds, mask).tolist()
    lengths = mask.sum(1).tolist()
    judgements = []
    for request, row, span, length in zip(requests, scores, spans, lengths, strict=True):
        if not math.isfinite(row[-1]):
            raise RewardError(
                f"The reward model {reward.name} gave {row[-1]} to a response of "
                f"{request.trajectory.scored} tokens (problem {request.problem.id or '?'}). "
                "Try dtype=float32, or another reward model."
            )
        judgements.append(
            Judgement(
                reward=row[-1],
                prefix_scores=tuple(row[span]) if reward.process else (),
                cost=Ledger(scorings=1, flops=forward_flops(reward.parameters, length)),
            )
        )
    return judgements

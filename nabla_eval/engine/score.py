"""Reward of whole responses, and of their prefixes where the reward model has such scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import Site, embed_reward, reward_rows, widen
from nabla_eval.errors import Fault, RewardError
from nabla_eval.models.pair import Reward
from nabla_eval.models.prefix import forward
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
def score(reward: Reward, requests: Sequence[Score]) -> list[Judgement | Fault]:
    """Score responses as one batch, in which what several of them begin with is encoded once.

    Each is charged what it costs alone, so that no ledger depends on the batch. A reward that is
    not a finite number comes back as a `Fault`.
    """
    sites = [site_of(request) for request in requests]
    rows = reward_rows(reward, sites)
    judgements: list[Judgement | Fault] = []
    for request, site, row, scores in zip(
        requests, sites, rows, _scores(reward, rows, shared_starts(sites, rows)), strict=True
    ):
        if not math.isfinite(scores[-1]):
            judgements.append(Fault(_no_number(reward, request, scores[-1])))
            continue
        before = len(site.frame.before)
        judgements.append(
            Judgement(
                reward=scores[-1],
                prefix_scores=tuple(scores[before : before + site.scored])
                if reward.process
                else (),
                cost=Ledger(scorings=1, flops=forward_flops(reward.parameters, len(row))),
            )
        )
    return judgements


def _no_number(reward: Reward, request: Score, value: float) -> RewardError:
    return RewardError(
        f"The reward model {reward.name} gave {value} to a response of "
        f"{request.trajectory.scored} tokens (problem {request.problem.id or '?'}). "
        "Try dtype=float32, or another reward model."
    )


def shared_starts(sites: Sequence[Site], rows: Sequence[tuple[int, ...]]) -> list[int]:
    """Where each row leaves what the responses to its question have in common."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, site in enumerate(sites):
        groups.setdefault(site.frame.before, []).append(i)
    starts = [0] * len(rows)
    for before, members in groups.items():
        common = len(before)
        if len(members) > 1:
            own = [rows[i] for i in members]
            common = _agreement(min(own), max(own))
        for i in members:
            starts[i] = min(common, min(len(rows[j]) for j in members) - 1)
    return starts


def _agreement(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many ids two rows begin with alike; the first and last of sorted rows speak for all."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _scores(
    reward: Reward, rows: Sequence[tuple[int, ...]], starts: Sequence[int]
) -> list[list[float]]:
    """The head's scores of each row: token by token."""
    run = forward(reward.base, partial(embed_reward, reward), rows, starts, reward.device)
    late = widen(reward.head(run.states)).tolist()
    if run.prefixes is None:
        return [own[-len(row) :] for own, row in zip(late, rows, strict=True)]
    early = widen(reward.head(run.prefixes.states)).tolist()
    return [
        early[owner][-start:] + own[start - len(row) :]
        for owner, own, row, start in zip(run.prefixes.owner, late, rows, starts, strict=True)
    ]

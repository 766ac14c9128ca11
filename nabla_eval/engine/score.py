"""Reward of whole responses, and of their prefixes where the reward model has such scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import Site, embed_reward, reward_rows, widen
from nabla_eval.engine.cache import Past, Pasts
from nabla_eval.engine.reader import Reader
from nabla_eval.errors import Fault, RewardError
from nabla_eval.models.pair import Reward
from nabla_eval.models.prefix import forward, keepable
from nabla_eval.requests import Judgement, Score


def site_of(request: Score) -> Site:
    """What the reward model is shown."""
    problem, trajectory = request.problem, request.trajectory
    tokens = trajectory.tokens[: trajectory.scored]
    if request.repeat_prompt:
        # The released code's fault (DESIGN 3.5): the prompt's ids once more inside the response.
        tokens = problem.prompt + tokens
    return Site(problem.prompt, problem.frame, tokens, len(tokens))


def grows(request: Score) -> bool:
    """Whether it goes on from what was encoded before, or others may go on from it."""
    past = request.like is not None and request.like.past is not None
    return (past or request.branches) and not request.repeat_prompt


@torch.inference_mode(False)
@torch.no_grad()
def score(
    reward: Reward, requests: Sequence[Score], pasts: Pasts | None = None
) -> list[Judgement | Fault]:
    """Score responses as one batch; all of them grow, or none.

    Of those that grow, only what no past holds is encoded; of others, what several begin with is
    encoded once. Each is charged what it costs alone, so that no ledger depends on the batch. A
    reward that is not a finite number comes back as a `Fault`.
    """
    sites = [site_of(request) for request in requests]
    rows = reward_rows(reward, sites)
    kept: list[Past | None] = [None] * len(rows)
    if keepable(reward.base) and grows(requests[0]):
        found, kept = _growing(Reader(reward, pasts or Pasts(0)), requests, rows)
    else:
        found = _scores(reward, rows, shared_starts(sites, rows))
    judgements: list[Judgement | Fault] = []
    for request, site, row, scores, past in zip(requests, sites, rows, found, kept, strict=True):
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
                past=past,
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


def _growing(
    reader: Reader, requests: Sequence[Score], rows: Sequence[tuple[int, ...]]
) -> tuple[list[list[float]], list[Past | None]]:
    """Scores of each row's tokens, those of the question left out, and what is kept of it.

    Those of tokens that were encoded before are known from the judgement that they come from.
    """
    reward = reader.reward
    readings = reader.read(
        rows,
        [None if r.like is None else r.like.past for r in requests],
        fresh=[True] * len(rows),
        wanted=[r.branches for r in requests],
    )
    states = [own for reading in readings if (own := reading.states) is not None]
    assert len(states) == len(rows), "at least the last token is read"
    late = widen(reward.head(torch.cat(states))).tolist()
    scores, stop = [], 0
    for request, row, reading in zip(requests, rows, readings, strict=True):
        begin, stop = stop, stop + reading.new
        before, held = len(request.problem.frame.before), len(row) - reading.new
        early = [math.nan] * held  # the question has no scores that anybody asks for
        if reward.process and request.like is not None:
            early[before:] = request.like.prefix_scores[: max(0, held - before)]
        scores.append(early + late[begin:stop])
    return scores, reader.keep(readings)


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
    assert run.prefixes.states is not None, "they were encoded now"
    early = widen(reward.head(run.prefixes.states)).tolist()
    return [
        early[owner][-start:] + own[start - len(row) :]
        for owner, own, row, start in zip(run.prefixes.owner, late, rows, starts, strict=True)
    ]

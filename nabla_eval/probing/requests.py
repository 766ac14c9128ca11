"""What a probe asks the engine beside what methods ask, and how it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import Site, reward_pass, widen
from nabla_eval.engine.execute import HANDLERS, Executor, Handler
from nabla_eval.engine.gradient import affordable, no_gradient
from nabla_eval.engine.refine import (
    allowed_tokens,
    certified,
    free_rows,
    numbers,
    optimise_rows,
    start_of,
)
from nabla_eval.engine.sampler import Filter, draws
from nabla_eval.models.pair import Pair
from nabla_eval.options import Objective
from nabla_eval.protocol import Problem, Refine, Trajectory

_ELEMENTS = 2**25  # of rows x V formed at once
_ROUNDING = 1e-6  # a total variation below this is what float32 makes of equal distributions


@dataclass(frozen=True)
class Coupling:
    """The draws of DTO and of its twin at one position, under the same numbers and apart.

    q and t are the distributions that the two draw from. One entry a key: `dto` and `twin` are
    what its number draws from q and t, `common` from min(q, t). `more` is drawn from (q - t)+ and
    `less` from (t - q)+: the tokens in a pair of draws that differ.
    """

    variation: float  # total variation of q and t; 0 where float32 cannot tell them apart
    dto: tuple[int, ...]
    twin: tuple[int, ...]
    common: tuple[int, ...]
    more: tuple[int, ...]
    less: tuple[int, ...]
    certified: tuple[bool, ...]  # draws that the method makes without a gradient
    moved: float  # share of the tokens that may be drawn whose logit changed
    farthest: float  # largest change of one of these logits
    flips: int
    passes: int  # gradients beyond the first
    cost: Ledger = field(default_factory=Ledger, init=False)


@dataclass(frozen=True)
class Couple:
    """Refine as `Refine` would, and compare with the twin's draws."""

    refine: Refine

    most_calls: ClassVar[int] = 0  # probes have no budget

    @property
    def problem(self) -> Problem:
        """The problem that it is about."""
        return self.refine.problem


@torch.inference_mode(False)
@torch.no_grad()
def couple(executor: Executor, requests: Sequence[Couple]) -> list[Coupling]:
    """Answer `Couple` for requests that share their options of DTO and are certified alike."""
    pair, asked = executor.pair, [request.refine for request in requests]
    objective = asked[0].dto.objective
    # Taken for all positions, whichever come later.
    starts = [replace(start_of(own), first=0) for own in asked]
    executor.gradients.take(pair, starts, objective, executor.caches)
    keep = asked[0].dto.update == "first"
    solution = optimise_rows(pair, asked, executor.caches, executor.gradients, keep)
    if any(solution.broken):  # the batch is halved until it holds the one to blame alone
        raise no_gradient(pair, asked[0].problem, len(asked[0].trajectory.tokens))
    before, after = solution.start[solution.firsts], solution.logits[solution.firsts]
    allowed = allowed_tokens(pair, before, asked)
    filters = Filter([own.sampling for own in asked], after.device)
    q, t = (
        filters.distribution(logits.masked_fill(~allowed, -torch.inf)) for logits in (after, before)
    )
    surplus, lack = (q - t).clamp(min=0), (t - q).clamp(min=0)
    variation = [own if own > _ROUNDING else 0.0 for own in surplus.sum(-1).tolist()]
    uniform, overlap = numbers(asked, q.device), torch.minimum(q, t)
    overlap = torch.where(overlap.sum(-1, keepdim=True) > 0, overlap, t)
    drawn = {
        name: draws(own, uniform).tolist()
        for name, own in (("dto", q), ("twin", t), ("common", overlap))
    }
    for name, own in (("more", surplus), ("less", lack)):
        apart = [replace(r, keys=tuple(key / name for key in r.keys)) for r in asked]
        # A row without any is drawn from too, and nobody reads it.
        filled = own.masked_fill(own.sum(-1, keepdim=True) == 0, 1)
        drawn[name] = draws(filled, numbers(apart, q.device)).tolist()
    change = (after - before).abs().masked_fill(~allowed, 0)
    moved = ((change > 0).sum(-1) / allowed.sum(-1)).tolist()
    flags = certified(pair, asked)
    return [
        Coupling(
            variation=variation[i],
            **{name: tuple(rows[i][: len(own.keys)]) for name, rows in drawn.items()},
            certified=tuple(token is not None for token in flags[i]),
            moved=moved[i],
            farthest=float(change[i].max()),
            flips=solution.flips[i],
            passes=solution.passes[i],
        )
        for i, own in enumerate(asked)
    ]


@dataclass(frozen=True)
class Slopes:
    """The result of `Linearise`: <dr/dy_i, e_v - e_y>, one number a token of each place."""

    changes: list[list[float]]
    cost: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Linearise:
    """The linearised change of the reward when tokens of a response are exchanged.

    `mean` linearises at the policy's mean embedding of the place and not at the token that stands
    there (DESIGN 3.8).
    """

    problem: Problem
    trajectory: Trajectory
    places: tuple[tuple[int, tuple[int, ...]], ...]  # positions, and tokens to exchange there
    reward_gradient: Literal["final", "process"] = "final"
    process_weight: float = 0.2
    mean: bool = False

    most_calls: ClassVar[int] = 0

    @property
    def points(self) -> tuple[tuple[int, tuple[int, ...]], ...]:
        """The places of which each takes a pass: all, or one pass for all."""
        return self.places if self.mean else self.places[:1]


@torch.inference_mode(False)
def linearise(executor: Executor, requests: Sequence[Linearise]) -> list[Slopes]:
    """Answer `Linearise` for requests with the same kind of gradient."""
    pair, first = executor.pair, requests[0]
    objective = Objective(
        lam=-1.0, nll_weight=0.0, reward_gradient=first.reward_gradient,
        process_weight=first.process_weight,
    )  # fmt: skip
    points = [(request, i) for request in requests for i, _ in request.points]
    sites = [
        Site(r.problem.prompt, r.problem.affixes, r.trajectory.tokens, r.trajectory.scored)
        for r, _ in points
    ]
    means = [(i, _mean_embedding(pair, r.trajectory, i)) for r, i in points if first.mean]
    with torch.enable_grad():
        found, _ = reward_pass(pair.judge, sites, [0] * len(sites), objective, means)
    rows, answers = iter(found), []
    for request in requests:
        own, old = [next(rows) for _ in request.points], request.trajectory.tokens
        answers.append(
            Slopes(
                [
                    _changes(pair.judge.embedding, own[j if first.mean else 0][i], tokens, old[i])
                    for j, (i, tokens) in enumerate(request.places)
                ]
            )
        )
    return answers


def _changes(
    table: Tensor, gradient: Float[Tensor, " Dr"], tokens: Sequence[int], old: int
) -> list[float]:
    found: list[float] = ((widen(table[[*tokens]]) - widen(table[old])) @ widen(gradient)).tolist()
    return found


@torch.no_grad()
def _mean_embedding(pair: Pair, draft: Trajectory, position: int) -> Float[Tensor, " Dr"]:
    """sum_v pi(v) e_v in the reward model's table; tokens that it lacks have no share."""
    p = widen(pair.policy.head(draft.states[position])).softmax(-1)
    if pair.judge.known is not None:
        p = p * pair.judge.known.to(p.device)
    table, p = pair.judge.embedding, (p / p.sum()).to(pair.judge.device)
    size = max(1, _ELEMENTS // table.shape[1])
    parts = zip(p.split(size), table.split(size), strict=True)
    mean = torch.stack([own.float() @ rows.float() for own, rows in parts]).sum(0)
    return mean.to(table.dtype)


def _length(executor: Executor, request: Linearise) -> int:
    affixes = request.problem.affixes
    one = len(affixes.before) + request.trajectory.scored + len(affixes.after)
    return one * len(request.points)


HANDLERS[Couple] = Handler(
    couple,
    lambda executor, request: len(free_rows(request.refine)),
    lambda executor, request: max(1, _ELEMENTS // executor.pair.policy.vocabulary),
    lambda request: (request.refine.dto, request.refine.relaxation, request.refine.certify),
)
HANDLERS[Linearise] = Handler(
    linearise,
    _length,
    lambda executor, request: min(executor.max_batch_tokens, affordable(executor.pair)),
    lambda request: (request.reward_gradient, request.process_weight, request.mean),
)

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
class OpenPlace:
    """A position at which the policy finds two tokens plausible, most likely ones first."""

    position: int
    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]  # at temperature 1
    plausible: int
    outside: float  # probability of all tokens but the two most likely


@dataclass(frozen=True)
class Places:
    """The result of `Look`."""

    places: tuple[OpenPlace, ...]
    cost: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Look:
    """Find the positions of a response with at least two plausible tokens; no model is called."""

    problem: Problem
    trajectory: Trajectory
    plausible: float
    most: int  # tokens named of each position

    most_calls: ClassVar[int] = 0


@torch.no_grad()
def look(executor: Executor, requests: Sequence[Look]) -> list[Places]:
    """Answer `Look` from the states that trajectories carry."""
    policy = executor.pair.policy
    size = max(1, _ELEMENTS // policy.vocabulary)
    answers = []
    for request in requests:
        found: list[OpenPlace] = []
        for part in request.trajectory.states.split(size):
            p = widen(policy.head(part)).softmax(-1)
            top, tokens = p.topk(min(request.most, p.shape[-1]))
            counts = (p >= request.plausible).sum(-1).tolist()
            outside = (1 - top[:, :2].sum(-1)).clamp(min=0).tolist()
            rows = zip(tokens.tolist(), top.tolist(), counts, outside, strict=True)
            start = len(found)
            found += [
                OpenPlace(start + i, tuple(own[:count]), tuple(each[:count]), count, rest)
                for i, (own, each, count, rest) in enumerate(rows)
            ]
        answers.append(Places(tuple(place for place in found if place.plausible >= 2)))
    return answers


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
    certified: tuple[bool, ...]
    moved: float  # share of the tokens that may be drawn whose logit changed
    farthest: float  # largest change of one of these logits
    flips: int
    passes: int  # gradients beyond the first
    cost: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Couple:
    """Refine as `Refine` would, and compare with the twin's draws."""

    refine: Refine

    @property
    def problem(self) -> Problem:
        """The problem that it is about."""
        return self.refine.problem

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost."""
        return self.refine.most_calls


@torch.inference_mode(False)
@torch.no_grad()
def couple(executor: Executor, requests: Sequence[Couple]) -> list[Coupling]:
    """Answer `Couple` for requests that share their options of DTO."""
    pair, asked = executor.pair, [request.refine for request in requests]
    objective = asked[0].dto.objective
    # Taken for all positions, whichever come later.
    starts = [replace(start_of(own), first=0) for own in asked]
    executor.gradients.take(pair, starts, objective, executor.caches)
    solution = optimise_rows(pair, asked, executor.caches, executor.gradients)
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
    uniform = numbers(asked, q.device)
    overlap = torch.minimum(q, t)
    overlap = torch.where(overlap.sum(-1, keepdim=True) > 0, overlap, t)
    columns = [draws(own, uniform).tolist() for own in (q, t, overlap)]
    for own, name in ((surplus, "more"), (lack, "less")):
        apart = [replace(r, keys=tuple(key / name for key in r.keys)) for r in asked]
        # A row without any is drawn from too, and nobody reads it.
        filled = own.masked_fill(own.sum(-1, keepdim=True) == 0, 1)
        columns.append(draws(filled, numbers(apart, q.device)).tolist())
    change = (after - before).abs().masked_fill(~allowed, 0)
    moved = ((change > 0).sum(-1) / allowed.sum(-1)).tolist()
    flags = certified(pair, [replace(own, certify=True) for own in asked])
    names = ("dto", "twin", "common", "more", "less")
    return [
        Coupling(
            variation=variation[i],
            **{n: tuple(c[i][: len(own.keys)]) for n, c in zip(names, columns, strict=True)},  # type: ignore[arg-type]
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

    changes: tuple[tuple[float, ...], ...]
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

    @property
    def most_calls(self) -> int:
        """The most model calls that it can cost: a forward and a backward pass a row."""
        return 2 * (len(self.places) if self.mean else 1)


@torch.inference_mode(False)
def linearise(executor: Executor, requests: Sequence[Linearise]) -> list[Slopes]:
    """Answer `Linearise` for requests with the same kind of gradient."""
    first, reward = requests[0], executor.pair.judge
    objective = Objective(
        lam=-1.0, nll_weight=0.0, reward_gradient=first.reward_gradient,
        process_weight=first.process_weight,
    )  # fmt: skip
    owners = [(r, place) for r in requests for place in (r.places if first.mean else r.places[:1])]
    sites = [
        Site(r.problem.prompt, r.problem.affixes, r.trajectory.tokens, r.trajectory.scored)
        for r, _ in owners
    ]
    mixtures = [(place[0], _mean(executor.pair, r, place[0])) for r, place in owners]
    with torch.enable_grad():
        found, _ = reward_pass(
            reward, sites, [0] * len(sites), objective, mixtures if first.mean else ()
        )
    rows = iter(found)
    answers = []
    for request in requests:
        own = None if first.mean else next(rows)
        changes = [
            _changes(reward.embedding, next(rows) if own is None else own, request, *place)
            for place in request.places
        ]
        answers.append(Slopes(tuple(changes)))
    return answers


def _changes(
    table: Tensor,
    gradient: Float[Tensor, "L Dr"],
    request: Linearise,
    at: int,
    tokens: Sequence[int],
) -> tuple[float, ...]:
    here = widen(table[[*tokens]]) - widen(table[request.trajectory.tokens[at]])
    found: list[float] = (here @ widen(gradient[at])).tolist()
    return tuple(found)


@torch.no_grad()
def _mean(pair: Pair, request: Linearise, position: int) -> Float[Tensor, " Dr"]:
    """sum_v pi(v) e_v in the reward model's table; tokens that it lacks have no share."""
    p = widen(pair.policy.head(request.trajectory.states[position])).softmax(-1)
    if pair.judge.known is not None:
        p = p * pair.judge.known.to(p.device)
    table, p = pair.judge.embedding, (p / p.sum()).to(pair.judge.device)
    size = max(1, _ELEMENTS // table.shape[1])
    parts = zip(p.split(size), table.split(size), strict=True)
    total = sum((own.to(torch.float32) @ rows.to(torch.float32)) for own, rows in parts)
    assert isinstance(total, Tensor)
    return total.to(table.dtype)


def _linearised_length(executor: Executor, request: Linearise) -> int:
    affixes = request.problem.affixes
    one = len(affixes.before) + request.trajectory.scored + len(affixes.after)
    return one * (len(request.places) if request.mean else 1)


HANDLERS[Look] = Handler(look, lambda executor, request: len(request.trajectory.tokens))
HANDLERS[Couple] = Handler(
    couple,
    lambda executor, request: len(free_rows(request.refine)),
    lambda executor, request: max(1, _ELEMENTS // executor.pair.policy.vocabulary),
    lambda request: (request.refine.dto, request.refine.relaxation),
)
HANDLERS[Linearise] = Handler(
    linearise,
    _linearised_length,
    lambda executor, request: min(executor.max_batch_tokens, affordable(executor.pair)),
    lambda request: (request.reward_gradient, request.process_weight, request.mean),
)

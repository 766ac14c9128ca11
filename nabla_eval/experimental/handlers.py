"""Executes `Weigh` and `Tilt`: what the reward model says of the next token (DESIGN 3.8)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nabla_eval.cost.flops import forward_flops, gradient_flops, table_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.dto.objective import widen
from nabla_eval.engine.execute import HANDLERS, Executor, Handler
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.score import Encoded, Ids, RewardEncoder
from nabla_eval.errors import Fault, RewardError
from nabla_eval.experimental.requests import Ranking, Tilt, Weigh
from nabla_eval.experimental.tails import after, ends_of, shorter
from nabla_eval.models.pair import Pair, Reward

_ELEMENTS = 2**25  # of rows x V formed at once


def _row(reward: Reward, request: Weigh | Tilt) -> Ids:
    """The frame's beginning and the response up to the position."""
    words = reward.embedding.shape[0]
    before = tuple(words + token for token in request.problem.frame.before)
    return before + request.trajectory.tokens[: request.position]


def _end(reward: Reward, request: Weigh | Tilt) -> Ids:
    """The frame's end."""
    words = reward.embedding.shape[0]
    return tuple(words + token for token in request.problem.frame.after)


def _encoder(reward: Reward, caches: PrefixCaches) -> RewardEncoder:
    """Finds what earlier requests of these kinds encoded, of which each is charged its own tokens.

    A `Score` is charged whole responses; what it encoded is left alone, or the ledger of these
    would depend on whether it is still cached.
    """
    return RewardEncoder(reward, caches.reward, "next token")


def _ends(pair: Pair, request: Weigh | Tilt) -> tuple[int, ...]:
    """Tokens that end the response if they stand at the position."""
    tokens = request.trajectory.tokens[: request.position]
    return ends_of(pair.policy, request.problem, tokens)


def _log_policy(pair: Pair, requests: Sequence[Weigh | Tilt]) -> Float[Tensor, "B V"]:
    states = torch.stack([r.trajectory.states[r.position] for r in requests])
    return widen(pair.policy.head(states)).log_softmax(-1)


def _readable(pair: Pair, ends: Sequence[tuple[int, ...]], framed: Sequence[bool]) -> Tensor:
    """Tokens `[B, V]` that the reward model knows; `framed` rows also their `ends`."""
    policy, known = pair.policy, pair.judge.known
    if known is None:
        return torch.ones(len(framed), policy.vocabulary, dtype=torch.bool, device=policy.device)
    allowed = known.to(policy.device).repeat(len(framed), 1)
    for row, own, shown in zip(allowed, ends, framed, strict=True):
        if shown:
            row[[token for token in own if token < policy.vocabulary]] = True
    return allowed


def _best(values: Float[Tensor, "B V"], counts: Sequence[int]) -> list[list[int]]:
    """Each row's first tokens by falling value, ties by id, without those at -inf."""
    ordered, order = values.sort(stable=True, dim=-1, descending=True)
    most = max(counts)
    finite = (ordered[:, :most] > -torch.inf).sum(-1).tolist()
    rows = order[:, :most].tolist()
    return [row[: min(n, k)] for row, n, k in zip(rows, finite, counts, strict=True)]


def _likely(
    values: Float[Tensor, "B V"], log_p: Float[Tensor, "B V"], requests: Sequence[Weigh | Tilt]
) -> Float[Tensor, "B V"]:
    """Values of the tokens above each request's floor on pi; -inf for the others."""
    floors = [r.min_probability for r in requests]
    if not any(floors):
        return values
    floor = torch.tensor(floors, dtype=log_p.dtype, device=log_p.device)[:, None].log()
    likely = (log_p >= floor).scatter(-1, log_p.argmax(-1, keepdim=True), True)
    return values.masked_fill(~likely, -torch.inf)


@torch.inference_mode(False)
@torch.no_grad()
def weigh(pair: Pair, requests: Sequence[Weigh], caches: PrefixCaches) -> list[Ranking | Fault]:
    """Rankings by the policy with exact prefix scores of the ranks asked for, as one batch.

    A single token of a process reward is read as if it were written, and what was read is kept: if
    it is, nothing of it is read again. A score that is not a number comes back as a `Fault`.
    """
    reward = pair.judge
    encoder = _encoder(reward, caches)
    rows = [_row(reward, request) for request in requests]
    log_p = _log_policy(pair, requests)
    ends = [_ends(pair, request) for request in requests]
    allowed = _readable(
        pair, ends, [bool(row or _end(reward, r)) for row, r in zip(rows, requests, strict=True)]
    )
    known = log_p.masked_fill(~allowed, -torch.inf)
    ranked = _best(_likely(known, known, requests), [r.keep for r in requests])
    asked = [tokens[r.first : r.stop] for tokens, r in zip(ranked, requests, strict=True)]
    alone = [
        encoder.caches and reward.process and len(tokens) == 1 and tokens[0] not in own
        for tokens, own in zip(asked, ends, strict=True)
    ]
    busy = [i for i, own in enumerate(asked) if own]
    found = encoder.encode(
        [requests[i].problem.key for i in busy],
        [rows[i] + (asked[i][0],) if alone[i] else rows[i] for i in busy],
        [alone[i] for i in busy],
    )
    prefixes = dict(zip(busy, found, strict=True))
    scores = [[prefixes[i].scores[-1]] if alone[i] else [] for i in range(len(requests))]
    tokens_read = [prefixes[i].new if i in prefixes else 0 for i in range(len(requests))]
    several = [(i, token) for i in busy if not alone[i] for token in asked[i]]
    if several:
        _probe(encoder, requests, ends, prefixes, several, scores, tokens_read)
    values = log_p.tolist() if pair.policy.vocabulary < 2**10 else log_p
    return [
        _fault(reward, request)
        if any(math.isnan(score) for score in scores[i])
        else Ranking(
            tokens=tuple(ranked[i]),
            log_probability=tuple(float(values[i][token]) for token in ranked[i]),
            values=tuple(scores[i]),
            own=(float(values[i][request.trajectory.tokens[request.position]]), 0.0),
            cost=Ledger(
                prefix_scorings=len(asked[i]),
                reward_tokens=tokens_read[i],
                flops=forward_flops(reward.parameters, tokens_read[i]),
            ),
        )
        for i, request in enumerate(requests)
    ]


def _probe(
    encoder: RewardEncoder,
    requests: Sequence[Weigh],
    ends: Sequence[tuple[int, ...]],
    encoded: dict[int, Encoded],
    several: Sequence[tuple[int, int]],
    scores: list[list[float]],
    tokens_read: list[int],
) -> None:
    """Score tokens (request, token) that are not to be kept, and add up what that takes."""
    reward = encoder.reward
    prefixes: list[Encoded] = []
    owner: list[int] = []
    places: dict[tuple[int, int], int] = {}  # of a request's row, whole or shortened
    tails: list[Ids] = []
    for i, token in several:
        end, prefix = _end(reward, requests[i]), encoded[i]
        if token not in ends[i]:
            tails.append((token,) if reward.process else (token, *end))
        elif end:
            tails.append(end)
        else:  # where nothing marks the end, the last token's own score is that of the response
            tails.append(prefix.ids[-1:])
            prefix = shorter(prefix)
        place = places.setdefault((i, len(prefix.ids)), len(prefixes))
        if place == len(prefixes):
            prefixes.append(prefix)
        owner.append(place)
        tokens_read[i] += len(tails[-1]) + (0 if encoder.caches else len(prefix.ids))
    run = after(encoder, prefixes, owner, tails)
    for (i, _), score in zip(several, widen(reward.head(run.states[:, -1])).tolist(), strict=True):
        scores[i].append(score)


@torch.inference_mode(False)
@torch.no_grad()
def tilt(pair: Pair, requests: Sequence[Tilt], caches: PrefixCaches) -> list[Ranking | Fault]:
    """Rankings by log pi + beta G, as one batch of requests with one linearisation point.

    One forward and one backward pass of one token a row (and of the template's end behind it, for
    an outcome reward), with the keys and values of its prefix as constants. A gradient that is not
    finite comes back as a `Fault`.
    """
    reward, kind = pair.judge, requests[0].linearisation
    encoder = _encoder(reward, caches)
    rows = [_row(reward, request) for request in requests]
    ends = [_ends(pair, request) for request in requests]
    frames = [_end(reward, request) for request in requests]
    table = _Table(pair, ends, frames)
    log_p = _log_policy(pair, requests)
    known = log_p.masked_fill(~_readable(pair, ends, [*map(bool, frames)]), -torch.inf)
    keys = [request.problem.key for request in requests]
    prefixes = encoder.encode(keys, rows, [False] * len(requests))
    if kind == "soft":
        weights = known.softmax(-1)
    else:
        weights = torch.zeros_like(known).scatter_(-1, known.argmax(-1, keepdim=True), 1.0)
    tails = [(0,) if reward.process else (0, *end) for end in frames]
    with torch.enable_grad():
        run = after(encoder, prefixes, range(len(requests)), tails, table.mean(weights))
        score = widen(reward.head(run.states[:, -1]))
        loss = torch.nn.functional.logsigmoid(score).sum()
        (gradient,) = torch.autograd.grad(loss, run.embeds)
    columns = [gradient.shape[1] - len(tail) for tail in tails]
    own = torch.stack([gradient[i, column] for i, column in enumerate(columns)])
    g = table.onto(own).masked_fill(known == -torch.inf, -torch.inf)
    betas = torch.tensor([r.beta for r in requests], dtype=g.dtype, device=g.device)[:, None]
    tilted = torch.where(known > -torch.inf, known + betas * g, -torch.inf)
    best = _best(_likely(tilted, known, requests), [r.keep for r in requests])
    finite = own.isfinite().all(-1).tolist()
    tables = table_flops(*reward.embedding.shape) * (2 if kind == "soft" else 1)
    results: list[Ranking | Fault] = []
    for i, request in enumerate(requests):
        if not finite[i]:
            results.append(_fault(reward, request))
            continue
        token, length = request.trajectory.tokens[request.position], len(tails[i])
        before = prefixes[i].new if encoder.caches else len(rows[i])
        results.append(
            Ranking(
                tokens=tuple(best[i]),
                log_probability=tuple(log_p[i, best[i]].tolist()),
                values=tuple(g[i, best[i]].tolist()),
                own=(float(log_p[i, token]), float(g[i, token])),
                handle=g[i],
                cost=Ledger(
                    prefix_gradients=1,
                    reward_tokens=before + length,
                    flops=forward_flops(reward.parameters, before)
                    + gradient_flops(reward.parameters, length)
                    + tables,
                ),
            )
        )
    return results


class _Table:
    """The reward model's embeddings of the policy's V tokens.

    A token that ends the response has that of the template's end, of which it is the first.
    """

    def __init__(self, pair: Pair, ends: Sequence[tuple[int, ...]], frames: Sequence[Ids]) -> None:
        reward = pair.judge
        self.embedding, self.device = reward.embedding, pair.policy.device
        words = reward.embedding.shape[0]
        stops = sorted({token for own in ends for token in own if token < words})
        self.stops = torch.tensor(stops, dtype=torch.long, device=self.device)
        # [B, S] rows in which each of them stands for the template's end
        self.framed = torch.tensor(
            [[bool(f) and s in own for s in stops] for own, f in zip(ends, frames, strict=True)],
            dtype=torch.bool,
            device=self.device,
        )
        first = torch.tensor([end[0] - words if end else 0 for end in frames], device=reward.device)
        self.end = widen(reward.table[first])  # [B, Dr]

    def mean(self, weights: Float[Tensor, "B V"]) -> Float[Tensor, "B Dr"]:
        """sum_v weights_v e_v, in at least float32."""
        ending = weights[:, self.stops] * self.framed
        rest = weights.clone()
        rest[:, self.stops] -= ending
        rest, ending = rest.to(self.end.device), ending.to(self.end.device)
        size = max(1, _ELEMENTS // self.embedding.shape[1])
        parts = zip(rest.split(size, -1), self.embedding.split(size), strict=True)
        total = ending.sum(-1, keepdim=True) * self.end
        for part, rows in parts:
            total = total + part.to(total.dtype) @ widen(rows).to(total.dtype)
        return total

    def onto(self, gradient: Float[Tensor, "B Dr"]) -> Float[Tensor, "B V"]:
        """<gradient, e_v> for all tokens, on the policy's device."""
        wide = widen(gradient)
        size = max(1, _ELEMENTS // self.embedding.shape[1])
        rows = [wide @ widen(part).T.to(wide.dtype) for part in self.embedding.split(size)]
        found = torch.cat(rows, -1).to(self.device)
        ending = (wide * self.end.to(wide.dtype)).sum(-1, keepdim=True).to(self.device)
        if len(self.stops):
            found[:, self.stops] = torch.where(self.framed, ending, found[:, self.stops])
        return found


def _fault(reward: Reward, request: Weigh | Tilt) -> Fault:
    return Fault(
        RewardError(
            f"The reward model {reward.name} gave a score or a gradient that is no number after "
            f"{request.position} tokens of a response (problem {request.problem.id or '?'}). "
            "Try dtype=float32, or another reward model."
        )
    )


def _length(executor: Executor, request: Weigh | Tilt) -> int:
    """Tokens of the rows that share a batch, one row a token that is scored.

    Each request also takes a row of V numbers, of which a batch holds `_ELEMENTS` at most.
    """
    limit = max(1, _ELEMENTS // executor.pair.policy.vocabulary)
    rows = request.stop - request.first if isinstance(request, Weigh) else 1
    frame = len(request.problem.frame.before) + len(request.problem.frame.after)
    tokens = max(1, rows) * (frame + request.position + 1)
    return max(executor.max_batch_tokens // limit, tokens)


HANDLERS[Weigh] = Handler(
    lambda executor, batch: weigh(executor.pair, batch, executor.caches), _length
)
HANDLERS[Tilt] = Handler(
    lambda executor, batch: tilt(executor.pair, batch, executor.caches),
    _length,
    group=lambda request: request.linearisation,
)

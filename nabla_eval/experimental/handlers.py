"""Executes `Weigh` and `Tilt`: what the reward model says of the next token (DESIGN 3.8)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from nabla_eval.cost.ledger import Ledger, forward_flops, gradient_flops, table_flops
from nabla_eval.dto.objective import embed_reward, widen
from nabla_eval.engine.execute import HANDLERS, Executor, Handler
from nabla_eval.engine.prefix_cache import PrefixCaches
from nabla_eval.engine.score import Encoded, Ids, RewardEncoder, filled
from nabla_eval.errors import Fault, RewardError
from nabla_eval.experimental.requests import Known, Ranking, Tilt, Weigh
from nabla_eval.models.pair import Pair, Policy, Reward
from nabla_eval.models.prefix import Pass, Prefixes, extend, joined
from nabla_eval.protocol import Problem

_ELEMENTS = 2**25  # of rows x V formed at once


class _Positions:
    """The positions of B requests: what stands before them, what may stand there, and what ends."""

    def __init__(self, pair: Pair, requests: Sequence[Weigh | Tilt], caches: PrefixCaches) -> None:
        policy, reward = pair.policy, pair.judge
        self.requests, self.reward, self.policy = requests, reward, policy
        # What earlier requests of these kinds encoded is found, and each is charged its own tokens.
        # A `Score` is charged whole responses; what it encoded is left alone, or the ledger of
        # these would depend on whether it is still cached.
        self.encoder = RewardEncoder(reward, caches.reward, "next token")
        self.keys = [request.problem.key for request in requests]
        words = reward.embedding.shape[0]
        written = [request.trajectory.tokens[: request.position] for request in requests]
        around = [request.problem.affixes for request in requests]
        # Rows of ids as `embed_reward` takes them: the template's tokens stand behind the words.
        self.before: list[Ids] = [
            tuple(words + token for token in affixes.before) + tokens
            for affixes, tokens in zip(around, written, strict=True)
        ]
        self.after: list[Ids] = [
            tuple(words + token for token in affixes.after) for affixes in around
        ]
        self.ends = [
            ends_of(policy, request.problem, tokens)
            for request, tokens in zip(requests, written, strict=True)
        ]
        states = torch.stack([r.trajectory.states[r.position] for r in requests])
        self.log_p: Float[Tensor, "B V"] = widen(policy.head(states)).log_softmax(-1)
        # -inf for tokens that the reward model cannot be shown.
        self.known = self.log_p.masked_fill(~self._readable(), -torch.inf)

    def _readable(self) -> Tensor:
        """Tokens `[B, V]` that the reward model knows, and those that a template's end shows."""
        known = self.reward.known
        if known is None:
            return torch.ones_like(self.log_p, dtype=torch.bool)
        allowed = known.to(self.policy.device).repeat(len(self.requests), 1)
        for row, own, end in zip(allowed, self.ends, self.after, strict=True):
            if end:
                row[[token for token in own if token < self.policy.vocabulary]] = True
        return allowed

    def best(self, values: Float[Tensor, "B V"]) -> list[list[int]]:
        """Each request's first tokens by falling value, ties by id, above its floor on pi."""
        floors = [request.min_probability for request in self.requests]
        if any(floors):
            known = self.known
            floor = torch.tensor(floors, dtype=known.dtype, device=known.device)[:, None].log()
            likely = (known >= floor).scatter(-1, known.argmax(-1, keepdim=True), True)
            values = values.masked_fill(~likely, -torch.inf)
        ordered, order = values.sort(stable=True, dim=-1, descending=True)
        most = max(request.keep for request in self.requests)
        finite = (ordered[:, :most] > -torch.inf).sum(-1).tolist()
        return [
            row[: min(count, request.keep)]
            for row, count, request in zip(
                order[:, :most].tolist(), finite, self.requests, strict=True
            )
        ]

    def fault(self, i: int) -> Fault:
        """In place of a ranking with a number that is none."""
        request = self.requests[i]
        return Fault(
            RewardError(
                f"The reward model {self.reward.name} gave a score or a gradient that is no number "
                f"after {request.position} tokens of a response (problem "
                f"{request.problem.id or '?'}). Try dtype=float32, or another reward model."
            )
        )


def ends_of(policy: Policy, problem: Problem, tokens: Sequence[int]) -> tuple[int, ...]:
    """Tokens that end a response wherever they follow: the policy's, and one-token stop strings.

    Stop strings do not count in a thought, which the `tokens` so far may have left open.
    """
    stops, thought = problem.stop, problem.thought
    if stops and thought is not None:
        answering = thought.answer_at(policy.decode(tokens, special=True)) is not None
        stops = stops if answering else ()
    own = (policy.token_of(stop) for stop in stops)
    return tuple(dict.fromkeys((*policy.end_ids, *(token for token in own if token is not None))))


@torch.inference_mode(False)
@torch.no_grad()
def weigh(pair: Pair, requests: Sequence[Weigh], caches: PrefixCaches) -> list[Ranking | Fault]:
    """Rankings by the policy with exact prefix scores of the ranks asked for, as one batch.

    A single token of a process reward is read as if it were written, and what was read is kept: if
    it is, nothing of it is read again. A score that is not a number comes back as a `Fault`.
    """
    at = _Positions(pair, requests, caches)
    ranked = at.best(at.known)
    asked = [tokens[r.first : r.stop] for tokens, r in zip(ranked, requests, strict=True)]
    scores, read = _scores(at, asked)
    values = at.log_p.tolist() if pair.policy.vocabulary < 2**10 else at.log_p
    results: list[Ranking | Fault] = []
    for i, request in enumerate(requests):
        own = request.trajectory.tokens[request.position]
        scored = dict(zip(asked[i], scores[i], strict=True))
        if any(math.isnan(score) for score in scores[i]):
            results.append(at.fault(i))
            continue
        cost = Ledger(
            prefix_scorings=len(scored),
            reward_tokens=read[i],
            flops=forward_flops(at.reward.parameters, read[i]),
        )
        found = (Known(v, float(values[i][v]), scored.get(v)) for v in ranked[i])
        results.append(Ranking(tuple(found), Known(own, float(values[i][own])), cost=cost))
    return results


def _scores(at: _Positions, asked: Sequence[list[int]]) -> tuple[list[list[float]], list[int]]:
    """Exact scores of each request's tokens, and how many tokens were read for them."""
    encoder, process = at.encoder, at.reward.process
    alone = [
        encoder.caches and process and len(tokens) == 1 and tokens[0] not in ends
        for tokens, ends in zip(asked, at.ends, strict=True)
    ]
    busy = [i for i, tokens in enumerate(asked) if tokens]
    rows = [at.before[i] + (asked[i][0],) if alone[i] else at.before[i] for i in busy]
    found = encoder.encode([at.keys[i] for i in busy], rows, [alone[i] for i in busy])
    scores: list[list[float]] = [[] for _ in asked]
    read = [0] * len(asked)
    prefixes: list[Encoded] = []
    owner: list[int] = []  # of each tail: its prefix
    tails: list[tuple[int, Ids]] = []  # of what is not kept: the request and the ids
    for i, prefix in zip(busy, found, strict=True):
        read[i] = prefix.new
        if alone[i]:
            scores[i] = [prefix.scores[-1]]
            continue
        ending = [token for token in asked[i] if token in at.ends[i]]
        prefixes.append(prefix)
        if ending and not at.after[i]:
            prefixes.append(_shorter(prefix))
        for token in asked[i]:
            end, place = at.after[i], len(prefixes) - 1
            tail = end
            if token not in ending:
                tail = (token,) if process else (token, *end)
                place -= bool(ending and not end)
            elif not end:  # nothing marks the end: the last token's score is the response's
                tail = prefix.ids[-1:]
            owner.append(place)
            tails.append((i, tail))
            read[i] += len(tail) + (0 if encoder.caches else len(prefixes[place].ids))
    if tails:
        run = _after(encoder, prefixes, owner, [tail for _, tail in tails])
        late = widen(at.reward.head(run.states[:, -1])).tolist()
        for (i, _), score in zip(tails, late, strict=True):
            scores[i].append(score)
    return scores, read


def _shorter(prefix: Encoded) -> Encoded:
    """Without the last id."""
    return Encoded(prefix.ids[:-1], None if prefix.kv is None else prefix.kv[..., :-1, :])


def _after(
    encoder: RewardEncoder,
    prefixes: Sequence[Encoded],
    owner: Iterable[int],
    tails: Sequence[Ids],
    soft: Float[Tensor, "B Dr"] | None = None,
) -> Pass:
    """Forward tails, each after the row of its owner; nothing of them is kept.

    With `soft`, these embeddings stand in place of each tail's first id, and the pass's
    embeddings are the leaf to differentiate to.
    """
    reward, owners, parts = encoder.reward, list(owner), list(tails)
    if not encoder.caches:
        parts = [prefixes[i].ids + tail for i, tail in zip(owners, tails, strict=True)]
    embed = partial(embed_reward, reward)
    if soft is not None:
        embed = partial(_softened, reward, soft, [len(tail) for tail in tails])
    known, kvs = None, [prefix.kv for prefix in prefixes]
    if any(kv is not None and kv.shape[-2] for kv in kvs):
        known = Prefixes(*joined(filled(kvs)), None, owners)
    return extend(reward.base, embed, parts, reward.device, soft is not None, known)


def _softened(reward: Reward, soft: Tensor, counts: Sequence[int], ids: Tensor) -> Tensor:
    """Embeddings of ids, with `soft` in the first of each row's last `count` columns."""
    embeds = embed_reward(reward, ids).clone()
    columns = ids.shape[1] - torch.tensor(counts, device=ids.device)
    embeds[torch.arange(len(ids), device=ids.device), columns] = soft.to(embeds.dtype)
    return embeds


@torch.inference_mode(False)
@torch.no_grad()
def tilt(pair: Pair, requests: Sequence[Tilt], caches: PrefixCaches) -> list[Ranking | Fault]:
    """Rankings by log pi + beta G, as one batch of requests with one linearisation point.

    One forward and one backward pass of one token a row (and of the template's end behind it, for
    an outcome reward), with the keys and values of its prefix as constants. A gradient that is not
    finite comes back as a `Fault`.
    """
    at = _Positions(pair, requests, caches)
    reward, soft = at.reward, requests[0].linearisation == "soft"
    table = _Table(at)
    prefixes = at.encoder.encode(at.keys, at.before, [False] * len(requests))
    weights = at.known.softmax(-1)
    if not soft:
        weights = torch.zeros_like(weights).scatter_(-1, at.known.argmax(-1, keepdim=True), 1.0)
    tails: list[Ids] = [(0,) if reward.process else (0, *end) for end in at.after]
    with torch.enable_grad():
        run = _after(at.encoder, prefixes, range(len(requests)), tails, table.mean(weights))
        score = widen(reward.head(run.states[:, -1]))
        loss = torch.nn.functional.logsigmoid(score).sum()
        (gradient,) = torch.autograd.grad(loss, run.embeds)
    own = torch.stack([gradient[i, -len(tail)] for i, tail in enumerate(tails)])
    lacking = at.known == -torch.inf
    g = table.onto(own).masked_fill(lacking, -torch.inf)
    betas = torch.tensor([r.beta for r in requests], dtype=g.dtype, device=g.device)[:, None]
    best = at.best((at.known + betas * g).masked_fill(lacking, -torch.inf))
    finite = own.isfinite().all(-1).tolist()
    tables = table_flops(*reward.embedding.shape) * (2 if soft else 1)
    results: list[Ranking | Fault] = []
    for i, request in enumerate(requests):
        if not finite[i]:
            results.append(at.fault(i))
            continue
        before = prefixes[i].new if at.encoder.caches else len(at.before[i])
        flops = forward_flops(reward.parameters, before) + tables
        flops += gradient_flops(reward.parameters, len(tails[i]))
        cost = Ledger(prefix_gradients=1, reward_tokens=before + len(tails[i]), flops=flops)
        tokens = [request.trajectory.tokens[request.position], *best[i]]
        numbers = zip(tokens, at.log_p[i, tokens].tolist(), g[i, tokens].tolist(), strict=True)
        ours, *found = (Known(v, log_p, gradient=slope) for v, log_p, slope in numbers)
        results.append(Ranking(tuple(found), ours, g[i], cost))
    return results


class _Table:
    """The reward model's embeddings of the policy's V tokens.

    A token that ends the response has that of the template's end, of which it is the first.
    """

    def __init__(self, at: _Positions) -> None:
        reward = at.reward
        self.embedding, self.device = reward.embedding, at.policy.device
        words = reward.embedding.shape[0]
        stops = sorted({token for own in at.ends for token in own if token < words})
        self.stops = torch.tensor(stops, dtype=torch.long, device=self.device)
        # [B, S] rows in which each of them stands for the template's end
        self.framed = torch.tensor(
            [
                [bool(f) and s in own for s in stops]
                for own, f in zip(at.ends, at.after, strict=True)
            ],
            dtype=torch.bool,
            device=self.device,
        )
        first = [end[0] - words if end else 0 for end in at.after]
        self.end = widen(reward.table[torch.tensor(first, device=reward.device)])  # [B, Dr]
        size = max(1, _ELEMENTS // reward.embedding.shape[1])
        self.parts = reward.embedding.split(size)

    def mean(self, weights: Float[Tensor, "B V"]) -> Float[Tensor, "B Dr"]:
        """sum_v weights_v e_v, in at least float32."""
        ending = weights[:, self.stops] * self.framed
        rest = weights.clone()
        rest[:, self.stops] -= ending
        rest, ending = rest.to(self.end.device), ending.to(self.end.device)
        total = ending.sum(-1, keepdim=True) * self.end
        for part, rows in zip(rest.split(len(self.parts[0]), -1), self.parts, strict=True):
            total = total + part.to(total.dtype) @ widen(rows).to(total.dtype)
        return total

    def onto(self, gradient: Float[Tensor, "B Dr"]) -> Float[Tensor, "B V"]:
        """<gradient, e_v> for all tokens, on the policy's device."""
        wide = widen(gradient)
        found = torch.cat([wide @ widen(part).T.to(wide.dtype) for part in self.parts], -1)
        found = found.to(self.device)
        ending = (wide * self.end.to(wide.dtype)).sum(-1, keepdim=True).to(self.device)
        if len(self.stops):
            found[:, self.stops] = torch.where(self.framed, ending, found[:, self.stops])
        return found


def _length(executor: Executor, request: Weigh | Tilt) -> int:
    """Tokens of the rows that share a batch, one row a token that is scored.

    Each request also takes a row of V numbers, of which a batch holds `_ELEMENTS` at most.
    """
    limit = max(1, _ELEMENTS // executor.pair.policy.vocabulary)
    rows = request.stop - request.first if isinstance(request, Weigh) else 1
    affixes = request.problem.affixes
    around = len(affixes.before) + len(affixes.after)
    tokens = max(1, rows) * (around + request.position + 1)
    return max(executor.max_batch_tokens // limit, tokens)


HANDLERS[Weigh] = Handler(
    lambda executor, batch: weigh(executor.pair, batch, executor.caches), _length
)
HANDLERS[Tilt] = Handler(
    lambda executor, batch: tilt(executor.pair, batch, executor.caches),
    _length,
    group=lambda request: request.linearisation,
)

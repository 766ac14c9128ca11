"""The reward model over responses: a token is encoded once, and from then on found by the cache.

`Score` asks for the reward of whole responses, and of their prefixes where the reward model has
such scores. Models whose cache is not plain, or on several devices, encode every row whole
(`models.prefix.keepable`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger, forward_flops
from nabla_eval.dto.objective import Site, embed_reward, reward_rows, widen
from nabla_eval.engine.batch_cache import PaddedCache, rows_of
from nabla_eval.engine.batching import cut
from nabla_eval.engine.prefix_cache import PrefixCache, PrefixCaches, agreement
from nabla_eval.errors import Fault, RewardError
from nabla_eval.models import prefix
from nabla_eval.models.pair import Reward
from nabla_eval.models.prefix import (
    cache_name,
    extend,
    keepable,
    padded,
    position_ids,
    without_graph,
)
from nabla_eval.protocol import RewardScore, Score
from nabla_eval.randomness import Key

Ids = tuple[int, ...]  # as `embed_reward` takes them


def site_of(request: Score) -> Site:
    """Return what the reward model is shown."""
    problem, trajectory = request.problem, request.trajectory
    tokens = trajectory.tokens[: trajectory.scored]
    if request.repeat_prompt:
        # The released code's fault (DESIGN 3.5): the prompt's ids once more inside the response.
        tokens = problem.prompt + tokens
    return Site(problem.prompt, problem.affixes, tokens, len(tokens))


@torch.inference_mode(False)
@torch.no_grad()
def score(
    reward: Reward, requests: Sequence[Score], caches: PrefixCaches | None = None
) -> list[RewardScore | Fault]:
    """Score responses as one batch.

    Each is charged what it costs alone, so that no ledger depends on the batch or on what is
    cached. A reward that is not a finite number comes back as a `Fault`.
    """
    sites = [site_of(request) for request in requests]
    rows = reward_rows(reward, sites)
    caches = caches or PrefixCaches()
    encoder = RewardEncoder(reward, caches.reward)
    keys = [request.problem.key for request in requests]
    if encoder.caches:
        keep = encoder.prefixes.budget > 0
        found = [list(own.scores) for own in encoder.encode(keys, rows, keep=keep)]
    else:
        embed = partial(embed_reward, reward)
        states = extend(reward.base, embed, rows, reward.device, False, None).states
        every = widen(reward.head(states)).tolist()
        found = [own[-len(row) :] for own, row in zip(every, rows, strict=True)]
    found = [caches.alike(*one) for one in zip(keys, map(tuple, rows), found, strict=True)]
    return [
        RewardScore(
            reward=own[-1],
            prefix_scores=tuple(own[len(site.affixes.before) :][: site.scored])
            if reward.process
            else (),
            cost=Ledger(scorings=1, flops=forward_flops(reward.parameters, len(row))),
        )
        if math.isfinite(own[-1])
        else Fault(_no_number(reward, request, own[-1]))
        for request, site, row, own in zip(requests, sites, rows, found, strict=True)
    ]


def _no_number(reward: Reward, request: Score, value: float) -> RewardError:
    return RewardError(
        f"The reward model {reward.name} gave {value} to a response of "
        f"{request.trajectory.scored} tokens (problem {request.problem.id or '?'}). "
        "Try dtype=float32, or another reward model."
    )


@dataclass(frozen=True)
class Encoded:
    """A row of ids and what is known of it."""

    ids: Ids
    kv: Tensor | None  # [layers, 2, H, T, D]; None where nothing is kept, or there are no ids
    scores: tuple[float, ...] = ()  # the head's, after each id
    new: int = 0  # ids that were forwarded for it now


class RewardEncoder:
    """Encodes rows of ids with the reward model, each after the longest prefix that is cached.

    `kind` keeps apart in the cache what is charged in different ways.
    """

    def __init__(self, reward: Reward, prefixes: PrefixCache, kind: str = "") -> None:
        self.reward, self.prefixes, self.kind = reward, prefixes, kind
        self.caches = keepable(reward.base)

    @torch.no_grad()
    def encode(
        self,
        problems: Sequence[Key],
        rows: Sequence[Ids],
        fresh: Sequence[bool] | None = None,
        keep: bool = True,
    ) -> list[Encoded]:
        """Encode of each row what is not known yet, and cache it; nothing for models without one.

        The last id of `fresh` rows (by default of all) is forwarded in any case. What the rows of
        a problem begin with is encoded once where that spares more than a call costs. The results
        have keys and values with `keep`, and where nothing of the row was new.
        """
        if not self.caches:
            return [Encoded(row, None) for row in rows]
        last = [True] * len(rows) if fresh is None else fresh
        ends = [len(row) - own for row, own in zip(rows, last, strict=True)]
        known = []
        for problem, row, end in zip(problems, rows, ends, strict=True):
            found = self.prefixes.find(problem, row[:end], self.kind)
            own = Encoded((), None)
            if found is not None:
                own = Encoded(row[: found.tokens], found.kv, tuple(found.scores))
            known.append(own)
        self._share(problems, rows, ends, known)
        encoded = self._extend(rows, known, keep)
        for problem, own in zip(problems, encoded, strict=True):
            if own.kv is not None and own.new:
                self.prefixes.add(problem, own.ids, own.kv, own.scores, self.kind)
        return encoded

    def _share(
        self,
        problems: Sequence[Key],
        rows: Sequence[Ids],
        ends: Sequence[int],
        known: list[Encoded],
    ) -> None:
        """Encode once what the rows of each problem begin with, and note it as known of them."""
        groups: dict[Key, list[int]] = {}
        for i, problem in enumerate(problems):
            groups.setdefault(problem, []).append(i)
        starts: list[Ids] = []
        spared = 0
        for members in groups.values():
            own = [rows[i] for i in members]
            count = min(agreement(min(own), max(own)), *(ends[i] for i in members))
            # A cached prefix that ends before they part is the same for all of them.
            spared += (len(members) - 1) * max(0, count - len(known[members[0]].ids))
            starts.append(own[0][:count])
        if spared < prefix.WORTH:
            return
        shared = self._extend(starts, [known[members[0]] for members in groups.values()], keep=True)
        for members, start in zip(groups.values(), shared, strict=True):
            for i in members:
                if len(known[i].ids) < len(start.ids):
                    known[i] = start

    def _extend(self, rows: Sequence[Ids], known: Sequence[Encoded], keep: bool) -> list[Encoded]:
        """Forward the ids that are not known, rows with about as many of them together."""
        counts = [len(row) - len(own.ids) for row, own in zip(rows, known, strict=True)]
        found = [Encoded(row, own.kv, own.scores) for row, own in zip(rows, known, strict=True)]
        order = sorted(range(len(rows)), key=counts.__getitem__, reverse=True)
        left = [i for i in order if counts[i] > 0]
        while left:
            size = cut([counts[i] for i in left])
            batch, left = left[:size], left[size:]
            parts = [rows[i][len(known[i].ids) :] for i in batch]
            states, kvs = self._forward(parts, [known[i].kv for i in batch], keep)
            late = iter(widen(self.reward.head(torch.cat(states))).tolist())
            for i, kv in zip(batch, kvs, strict=True):
                own = islice(late, counts[i])
                found[i] = Encoded(rows[i], kv, (*known[i].scores, *own), counts[i])
        return found

    def _forward(
        self, parts: Sequence[Ids], before: Sequence[Tensor | None], keep: bool
    ) -> tuple[list[Tensor], Sequence[Tensor | None]]:
        """States of each row's new ids, and the keys and values of the row where they are kept."""
        base, counts = self.reward.base, [len(part) for part in parts]
        ids, mask = padded(parts, self.reward.device)
        embeds, width = embed_reward(self.reward, ids), mask.shape[1]
        lengths = [0 if kv is None else kv.shape[-2] for kv in before]
        new: list[Tensor] | None
        if any(lengths):
            cache = PaddedCache.of(base, filled(before), spare=width)
            columns = torch.arange(cache.width, device=mask.device)
            starts = cache.width - torch.tensor(lengths, device=mask.device)
            mask = torch.cat([(columns >= starts[:, None]).long(), mask], 1)
            with without_graph(base):
                hidden = cache.forward(mask, position_ids(mask)[:, -width:], inputs_embeds=embeds)
            new = [cache.row(i, count) for i, count in enumerate(counts)]
        else:
            with without_graph(base):
                output = base(
                    inputs_embeds=embeds,
                    attention_mask=mask,
                    position_ids=position_ids(mask),
                    use_cache=keep,
                )
            hidden = output.last_hidden_state
            new = rows_of(getattr(output, cache_name(base)), counts) if keep else None
        states = [hidden[i, width - count :] for i, count in enumerate(counts)]
        if not keep:
            return states, [None] * len(parts)
        assert new is not None, "`keepable` promises plain layers on one device"
        # Copies: a view would keep the whole batch alive.
        return states, [
            kv.clone() if old is None else torch.cat([old, kv], -2)
            for old, kv in zip(before, new, strict=True)
        ]


def filled(kvs: Sequence[Tensor | None]) -> list[Tensor]:
    """Keys and values of no tokens where there are none."""
    some = next(kv for kv in kvs if kv is not None)
    return [some[..., :0, :] if kv is None else kv for kv in kvs]

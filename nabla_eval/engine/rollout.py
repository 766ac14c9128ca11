"""The decode loop: a running batch that responses enter and leave, one token a step for each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.ledger import Ledger, forward_flops
from nabla_eval.engine.batch_cache import NoCache, PaddedCache, rows_of
from nabla_eval.engine.prefix_cache import PrefixCache
from nabla_eval.engine.response import COLUMNS, NOTHING, Known, Response, statistics, trajectories
from nabla_eval.engine.sampler import Filter, draw
from nabla_eval.errors import Fault
from nabla_eval.models.pair import Policy
from nabla_eval.models.prefix import (
    RowCache,
    batching,
    padded,
    position_ids,
    without_graph,
)
from nabla_eval.protocol import Generate, Trajectory
from nabla_eval.randomness import Key, uniforms

PATIENCE = 16.0  # scoring and refining cost about this many decode steps
_BLOCK = 64  # steps whose random numbers are drawn, and whose statistics are kept, together


def rollout(policy: Policy, requests: Sequence[Generate]) -> list[Trajectory]:
    """Generate responses as one batch; results in the order of the requests.

    Raises `PolicyError` where the policy's logits are not finite.
    """
    decoder = Decoder(policy)
    decoder.add(list(enumerate(requests)))
    results: dict[int, Trajectory] = {}
    while len(results) < len(requests):
        for i, result in decoder.run():
            if isinstance(result, Fault):
                raise result.error
            results[i] = result
    return [results[i] for i in range(len(requests))]


BatchCache = PaddedCache | RowCache | NoCache


@dataclass
class _Batch:
    """The responses that run, B of them, and what the next forward pass takes."""

    rows: list[Response]
    cache: BatchCache
    pending: Tensor  # [B] the last token of each row, not in the cache yet
    length: Tensor  # [B] tokens before it
    filters: Filter
    numbers: Tensor  # [B, some] that the next steps draw with
    # Statistics [B, 5] and states [B, D] of each step since the rows were last told of them.
    values: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)

    @property
    def mask(self) -> Tensor:
        """Columns `[B, W + 1]` that hold a token, the pending ones included."""
        columns = torch.arange(self.cache.width + 1, device=self.length.device)
        return (columns >= self.cache.width - self.length[:, None]).long()

    @cached_property
    def doubts(self) -> bool:
        """Whether some row ends where the policy is unsure, which the host must hear of."""
        return any(row.request.confidence is not None for row in self.rows)

    def next_numbers(self) -> Tensor:
        """Return the number `[B]` that each row draws its next token with."""
        if not self.numbers.shape[1]:
            keys, starts = zip(*((r.request.key, len(r.tokens)) for r in self.rows), strict=True)
            numbers = torch.from_numpy(uniforms(keys, starts, _BLOCK))
            self.numbers = numbers.to(self.length.device)
        found, self.numbers = self.numbers[:, 0], self.numbers[:, 1:]
        return found

    def note(self, states: Tensor, known: dict[str, Tensor]) -> None:
        """Note a step: last hidden states `[B, D]` and statistics `[B]` each."""
        # float64 holds what any of them is, token ids too.
        self.values.append(torch.stack([known[name].double() for name in COLUMNS], -1))
        self.states.append(states)
        if len(self.values) == _BLOCK:
            self.tell()

    def tell(self) -> None:
        """Give the rows what was noted of them, while they are in this order."""
        if self.values:
            values, states = torch.stack(self.values, 1), torch.stack(self.states, 1)
            for row, *own in zip(self.rows, values, states, strict=True):
                row.known.append((own[0], own[1]))
            self.values, self.states = [], []

    def select(self, kept: list[int]) -> _Batch:
        """Keep some of the rows; the last of them take the places of those that are gone."""
        count, gone = len(kept), set(range(len(kept))).difference(kept)
        behind = iter([i for i in kept if i >= count])
        kept = [next(behind) if i in gone else i for i in range(count)]
        rows = [self.rows[i] for i in kept]
        unused = self.cache.width - max(row.length - 1 for row in rows)
        index = torch.tensor(kept, device=self.length.device)
        return _Batch(
            rows,
            self.cache.select(kept, unused),
            self.pending[index],
            self.length[index],
            self.filters.rows(index),
            self.numbers[index],
        )


class Decoder:
    """Decodes responses, each as soon as the running batch has room for it.

    A token at response position i is drawn with the number that the request's key has at i, so a
    row's tokens depend neither on its neighbours nor on when it was admitted. A prompt is encoded
    once for all rows of its problem that are admitted together, and a prefix not at all where
    it is in `prefixes`. One host synchronisation a step reads the drawn tokens.

    Decoding goes on until finished rows have left as much of the batch idle as `patience` steps of
    a whole batch: then it pays to admit what they lead to. Short responses run to their end.

    `budget` bounds the padded tokens that the batch may come to hold (one row is always admitted).
    Out of memory, the rows begin again, and the budget becomes half of what the batch would have
    held; a single row raises the original error. What is cached is dropped then, and `relieve`
    called, which may drop more.
    """

    def __init__(
        self,
        policy: Policy,
        budget: int = 2**62,
        prefixes: PrefixCache | None = None,
        patience: float = PATIENCE,
        relieve: Callable[[], None] = lambda: None,
    ) -> None:
        self.policy, self.budget, self.patience = policy, budget, patience
        self.prefixes = PrefixCache(0) if prefixes is None else prefixes
        self._relieve = relieve
        self._queue: list[Response] = []
        self._batch: _Batch | None = None
        self._finished: list[Response] = []

    def add(self, requests: Sequence[tuple[Any, Generate]]) -> None:
        """Queue requests, each with a ticket that its trajectory will bear."""
        for ticket, request in requests:
            row = Response.of(request, self.policy, ticket)
            (self._finished if row.over else self._queue).append(row)
        self._sort()

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(self) -> list[tuple[Any, Trajectory | Fault]]:
        """Decode until some rows have finished; return their tickets and trajectories.

        A row whose logits are not finite leaves the batch, and comes back as a `Fault`.
        """
        with without_graph(self.policy.base):
            while not self._attempt():
                pass
        rows, self._finished = self._finished, []
        found = trajectories(self.policy, rows, _fetched(rows))
        return [(row.ticket, result) for row, result in zip(rows, found, strict=True)]

    def close(self) -> None:
        """Give up what is under way."""
        self._queue, self._batch, self._finished = [], None, []

    def _attempt(self) -> bool:
        """Decode for a while; return whether the memory sufficed."""
        new = self._next()
        try:
            if new:
                self._admit(new)
            running = len(self._batch.rows) if self._batch else 0
            finished, idle = len(self._finished), 0
            while self._batch is not None:
                self._step(self._batch)
                idle += running - (len(self._batch.rows) if self._batch else 0)
                if len(self._finished) > finished and idle >= self.patience * running:
                    break
            return True
        except torch.OutOfMemoryError:
            held = self._batch.rows if self._batch else []
            rows = [row for row in dict.fromkeys([*held, *new]) if row not in self._finished]
            if len(rows) <= 1:
                raise
        # Outside the handler, so that the failed attempt's tensors are no longer held by it.
        self._shrink(rows)
        return False

    def _shrink(self, rows: list[Response]) -> None:
        """Put rows back into the queue, and hold half as much from now on."""
        self._batch = None
        self.prefixes.clear()
        self._relieve()
        for row in rows:
            row.restart()
        self._queue += rows
        self._sort()
        self.budget = len(rows) * max(row.longest for row in rows) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory with {len(rows)} responses in the decode batch: beginning again with "
            f"batches half as large, of at most {self.budget} tokens. "
            "A smaller max_batch_tokens avoids the failed attempts.",
            stacklevel=4,
        )

    def _sort(self) -> None:
        # Long ones first, so that a batch is little padded; a prompt's rows stay together.
        self._queue.sort(key=lambda row: row.longest, reverse=True)

    def _next(self) -> list[Response]:
        """Take what fits beside the running rows out of the queue."""
        running = self._batch.rows if self._batch else []
        if self._batch and not isinstance(self._batch.cache, PaddedCache):
            return []
        longest = max((row.longest for row in running), default=0)
        new: list[Response] = []
        left: list[Response] = []
        for row in self._queue:
            count, width = len(running) + len(new), max(longest, row.longest)
            if count and ((count + 1) * width > self.budget or not self._alike(row, new)):
                left.append(row)
            else:
                new.append(row)
                longest = width
        self._queue = left
        return new

    def _alike(self, row: Response, new: Sequence[Response]) -> bool:
        """Return whether a row may share a batch with new ones: its cache may take no padding."""
        can = batching(self.policy.base)
        return can.padded or not can.cached or row.length == new[0].length

    def _admit(self, new: list[Response]) -> None:
        """Join rows to the running batch."""
        known = {row: kv for row in new if (kv := self._known(row)) is not None}
        first, cache = self._prefill([row for row in new if row not in known], known)
        rows, joined = new, None
        if self._batch:
            self._batch.tell()
            rows, joined = [*self._batch.rows, *new], self._batch.cache
        if cache is None:
            assert joined is None or isinstance(joined, PaddedCache)
            cache = PaddedCache.of(self.policy.base, [known[row] for row in new], joined)
        for row in new:
            row.charge(self.policy, row.length if row in first else 1, prefill=row in first)
        device = self.policy.device
        self._batch = _Batch(
            rows,
            cache,
            torch.tensor([row.context[-1] for row in rows], device=device),
            torch.tensor([row.length - 1 for row in rows], device=device),
            Filter([row.request.sampling for row in rows], device),
            torch.zeros(len(rows), 0, device=device),
        )

    def _known(self, row: Response) -> Tensor | None:
        """Return keys and values of the context but its last token, where they are cached.

        Of responses that go on from others: a draft is charged its prompt, whatever was drafted
        before, unless they are admitted together.
        """
        if row.request.prefix is None:
            return None
        context = row.context[:-1]
        found = self.prefixes.find(row.request.problem.key, context)
        return found.kv if found is not None and found.tokens == len(context) else None

    def _prefill(
        self, rows: list[Response], known: dict[Response, Tensor]
    ) -> tuple[set[Response], BatchCache | None]:
        """Encode contexts but their last tokens, once for all rows of a problem that share one.

        Adds to what is `known` of rows, or returns a cache that rows cannot leave singly; and the
        first row of each context.
        """
        if not rows:
            return set(), None
        places: dict[tuple[Key, tuple[int, ...]], int] = {}
        index = []
        for row in rows:
            context = row.request.problem.key, tuple(row.context[:-1])
            index.append(places.setdefault(context, len(places)))
        base, contexts = self.policy.base, [tokens for _, tokens in places]
        ids, mask = padded(contexts, self.policy.device)
        first = set(dict(zip(reversed(index), reversed(rows), strict=True)).values())
        own, lengths = RowCache(base), [*map(len, contexts)]
        if not own.can.cached:
            return set(rows), NoCache(base, ids[index])
        # Where rows take no padding, all of them have as many tokens, and may have none.
        if own.can.padded or any(lengths):
            own.encode(ids, mask, position_ids(mask))
        found = rows_of(own.held, lengths) if own.can.padded else None
        if found is None:
            return first, own.select(index)
        known.update((row, found[i]) for row, i in zip(rows, index, strict=True))
        return first, None

    def _step(self, batch: _Batch) -> None:
        ids, positions = batch.pending[:, None], batch.length[:, None]
        hidden = batch.cache.encode(ids, batch.mask, positions)[:, -1]
        logits = self.policy.head(hidden)
        drawn = draw(batch.filters.distribution(logits), batch.next_numbers())
        known = statistics(logits, drawn)
        batch.note(hidden, known)
        # Read with the tokens, so that a check of every step costs no synchronisation.
        told = drawn.masked_fill(known["top_probability"].isnan(), NOTHING).tolist()
        tops: list[float | None] = [None] * len(batch.rows)
        if batch.doubts:
            tops = known["top_probability"].tolist()
        kept = [i for i, row in enumerate(batch.rows) if row.add(told[i], self.policy, tops[i])]
        batch.pending, batch.length = drawn, batch.length + 1
        if isinstance(batch.cache, NoCache):
            for row in batch.rows:
                if row.steps > 1:  # all but the last token was fed again
                    flops = forward_flops(self.policy.parameters, row.length - 2)
                    row.cost.add(Ledger(flops=flops))
        if len(kept) < len(batch.rows):
            batch.tell()
            self._keep_prefixes(batch)
            rest = batch.select(kept) if kept else None
            # Last, since out of memory before this point they would have to begin again.
            self._finished += [row for row in batch.rows if row.over]
            self._batch = rest

    @torch.inference_mode(False)
    def _keep_prefixes(self, batch: _Batch) -> None:
        """Cache what finished rows have encoded."""
        if not isinstance(batch.cache, PaddedCache) or not self.prefixes.budget:
            return
        for i, row in enumerate(batch.rows):
            if row.stop is not None:
                context = row.context[:-1]
                # Copied: a view would keep the whole batch alive.
                kv = batch.cache.row(i, len(context)).clone()
                self.prefixes.add(row.request.problem.key, context, kv)


def _fetched(rows: Sequence[Response]) -> list[Known]:
    """Bring what is known of the new tokens of finished responses to the host, all at once."""
    pieces = [values for row in rows for values, _ in row.known]
    columns = torch.cat(pieces).T.tolist() if pieces else []
    found: list[Known] = []
    begin = 0
    for row in rows:
        end = begin + row.steps
        known = {name: own[begin:end] for name, own in zip(COLUMNS, columns, strict=False)}
        known["argmax"] = [int(token) for token in known.get("argmax", ())]
        # A copy: views would keep the states of neighbours alive.
        states = torch.cat([own for _, own in row.known])[: row.steps] if row.known else None
        found.append((known, states))
        begin += sum(len(values) for values, _ in row.known)
        row.known = []
    return found

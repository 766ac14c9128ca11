"""The decode loop: a running batch that responses enter and leave, one token a step for each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nabla_eval.engine.batch_cache import ModelCache, NoCache, PaddedCache, rows_of
from nabla_eval.engine.batching import left_pad, positions
from nabla_eval.engine.prefix_cache import PrefixCache
from nabla_eval.engine.record import Row, TokenRecord
from nabla_eval.engine.response import NOTHING, Response, statistics, trajectories
from nabla_eval.engine.sampler import Filter, draw
from nabla_eval.errors import Fault
from nabla_eval.models.batch_probe import RowCache, batching
from nabla_eval.models.pair import Policy
from nabla_eval.protocol import Generate, Trajectory
from nabla_eval.randomness import Key

PATIENCE = 16.0  # steps that judging and refining take the time of, about


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


@dataclass
class _Batch:
    """The rows that run, B of them, and what the next forward pass takes."""

    rows: list[Row]
    cache: PaddedCache | ModelCache | NoCache
    pending: Tensor  # [B] the last token of each row, not in the cache yet
    length: Tensor  # [B] tokens before it
    places: Tensor  # [B] in the record
    filters: Filter

    @property
    def mask(self) -> Tensor:
        """Columns `[B, W + 1]` that hold a token, the pending ones included."""
        columns = torch.arange(self.cache.width + 1, device=self.length.device)
        return (columns >= self.cache.width - self.length[:, None]).long()

    @cached_property
    def doubts(self) -> bool:
        """Return whether some row ends where the policy is unsure, which the host must hear of."""
        return any(row.response.request.confidence is not None for row in self.rows)

    def select(self, kept: list[int]) -> _Batch:
        """Some of the rows; those behind their number take the places of those that are gone."""
        count, gone = len(kept), set(range(len(kept))).difference(kept)
        behind = iter([i for i in kept if i >= count])
        kept = [next(behind) if i in gone else i for i in range(count)]
        rows = [self.rows[i] for i in kept]
        unused = self.cache.width - max(row.response.length - 1 for row in rows)
        index = torch.tensor(kept, device=self.length.device)
        return _Batch(
            rows,
            self.cache.select(kept, unused),
            self.pending[index],
            self.length[index],
            self.places[index],
            self.filters.rows(index),
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
    Out of memory, the rows go back into the queue with the tokens that they have, and the budget
    becomes half of what the batch would have held; a single row raises the original error. What
    is cached is dropped then, and `relieve` called, which may drop more.
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
        self._queue: list[Row] = []
        self._batch: _Batch | None = None
        self._record = TokenRecord(policy)
        self._finished: list[Row] = []

    def add(self, requests: Sequence[tuple[Any, Generate]]) -> None:
        """Queue requests, each with a ticket that its trajectory will bear."""
        for ticket, request in requests:
            row = Row(ticket, Response.of(request, self.policy))
            (self._finished if row.response.over else self._queue).append(row)
        self._sort()

    @property
    def idle(self) -> bool:
        """Return whether nothing is queued, running or to be fetched."""
        return not (self._queue or self._batch or self._finished)

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(self) -> list[tuple[Any, Trajectory | Fault]]:
        """Decode until some rows have finished; their tickets and trajectories.

        A row whose logits are not finite leaves the batch, and comes back as a `Fault`.
        """
        while not self._attempt():
            pass
        return self._fetch()

    def _attempt(self) -> bool:
        """Decode for a while; whether the memory sufficed."""
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
            rows = [*(self._batch.rows if self._batch else []), *new]
            rows = [row for row in dict.fromkeys(rows) if not row.response.over]
            if len(rows) <= 1:
                raise
        # Outside the handler, so that the failed attempt's tensors are no longer held by it.
        self._shrink(rows)
        return False

    def _shrink(self, rows: list[Row]) -> None:
        """Put rows back into the queue, and hold half as much from now on."""
        self._batch = None
        self._record.leave(rows)
        self.prefixes.clear()
        self._relieve()
        self._queue += rows
        self._sort()
        self.budget = len(rows) * max(row.response.longest for row in rows) // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory with {len(rows)} responses in the decode batch: going on with batches "
            f"half as large, of at most {self.budget} tokens. "
            "A smaller max_batch_tokens avoids the failed attempts.",
            stacklevel=4,
        )

    def _sort(self) -> None:
        # Long ones first, so that a batch is little padded; a prompt's rows stay together.
        self._queue.sort(key=lambda row: row.response.longest, reverse=True)

    def _next(self) -> list[Row]:
        """Take what fits beside the running rows out of the queue."""
        running = self._batch.rows if self._batch else []
        if self._batch and not isinstance(self._batch.cache, PaddedCache):
            return []
        longest = max((row.response.longest for row in running), default=0)
        new: list[Row] = []
        left: list[Row] = []
        for row in self._queue:
            count, width = len(running) + len(new), max(longest, row.response.longest)
            if count and ((count + 1) * width > self.budget or not self._alike(row, new)):
                left.append(row)
            else:
                new.append(row)
                longest = width
        self._queue = left
        return new

    def _alike(self, row: Row, new: Sequence[Row]) -> bool:
        """Return whether a row may share a batch with new ones: its cache may take no padding."""
        can = batching(self.policy.base)
        if can.rows == "padded" or can.select is None:
            return True
        return can.rows == "equal" and row.response.length == new[0].response.length

    def _admit(self, new: list[Row]) -> None:
        """Join rows to the running batch."""
        known = {row: kv for row in new if (kv := self._known(row.response)) is not None}
        first, whole = self._prefill([row for row in new if row not in known], known)
        running = self._batch
        rows = [*(running.rows if running else []), *new]
        cache: PaddedCache | ModelCache | NoCache | None = whole
        if cache is None:
            joined = running.cache if running else None
            assert joined is None or isinstance(joined, PaddedCache)
            cache = PaddedCache.of([known[row] for row in new], joined)
        for row in new:
            tokens = row.response.length if row in first else 1
            row.response.encoded(self.policy, tokens, prefill=row in first)
        self._record.enter(new)
        device = self.policy.device
        self._batch = _Batch(
            rows,
            cache,
            torch.tensor([row.response.context[-1] for row in rows], device=device),
            torch.tensor([row.response.length - 1 for row in rows], device=device),
            self._record.places(rows),
            Filter([row.response.request.sampling for row in rows], device),
        )

    def _known(self, response: Response) -> Tensor | None:
        """Keys and values of the context but its last token, where they are cached.

        Of responses that go on from others: a draft is charged its prompt, whatever was drafted
        before, unless they are admitted together.
        """
        request, context = response.request, response.context[:-1]
        if request.prefix is None or len(response.tokens) > response.given:
            return None
        found = self.prefixes.find(request.problem.key, context)
        return found.kv if found is not None and found.tokens == len(context) else None

    def _prefill(
        self, rows: list[Row], known: dict[Row, Tensor]
    ) -> tuple[set[Row], ModelCache | NoCache | None]:
        """Encode contexts but their last tokens, once for all rows of a problem that share one.

        Adds to what is `known` of rows, or returns a cache that rows cannot leave singly; and the
        first row of each context.
        """
        if not rows:
            return set(), None
        places: dict[tuple[Key, tuple[int, ...]], int] = {}
        index = []
        for row in rows:
            context = row.response.request.problem.key, tuple(row.response.context[:-1])
            index.append(places.setdefault(context, len(places)))
        ids, mask = left_pad(
            [tokens for _, tokens in places], self.policy.pad_id, self.policy.device
        )
        first = set(dict(zip(reversed(index), reversed(rows), strict=True)).values())
        own, lengths = RowCache(self.policy.base), [len(tokens) for _, tokens in places]
        if own.can.select is None:
            return set(rows), NoCache(ids[index])
        # Where rows take no padding, all of them have as many tokens, and may have none.
        if own.can.rows == "padded" or any(lengths):
            own.encode(ids, mask, positions(mask))
        found = rows_of(own.held, lengths) if own.can.joins else None
        if found is None:
            own.select(index)
            return first, ModelCache(own)
        known.update((row, found[i]) for row, i in zip(rows, index, strict=True))
        return first, None

    def _step(self, batch: _Batch) -> None:
        hidden = batch.cache.encode(
            self.policy.base, batch.pending[:, None], batch.mask, batch.length[:, None]
        )[:, -1]
        logits = self.policy.head(hidden)
        numbers = self._record.numbers(batch.rows, batch.places)
        drawn = draw(batch.filters.distribution(logits), numbers)
        known = statistics(logits, drawn)
        self._record.write(batch.places, hidden, known)
        # Read with the tokens, so that a check of every step costs no synchronisation.
        told = drawn.masked_fill(known["top_probability"].isnan(), NOTHING)
        tops: list[float | None] = [None] * len(batch.rows)
        if batch.doubts:
            tops = known["top_probability"].tolist()
        kept = []
        for i, (row, token) in enumerate(zip(batch.rows, told.tolist(), strict=True)):
            if row.response.add(token, self.policy, tops[i]):
                kept.append(i)
            else:
                self._finished.append(row)
        batch.pending, batch.length = drawn, batch.length + 1
        if isinstance(batch.cache, NoCache):
            for row in batch.rows:
                if row.steps > 1:
                    row.response.encoded_again(self.policy)
        if len(kept) == len(batch.rows):
            return
        self._cache(batch)
        self._batch = batch.select(kept) if kept else None

    def _cache(self, batch: _Batch) -> None:
        """Cache what finished rows have encoded."""
        if not isinstance(batch.cache, PaddedCache) or not self.prefixes.budget:
            return
        for i, row in enumerate(batch.rows):
            response = row.response
            if response.stop is not None:
                context = response.context[:-1]
                kv = batch.cache.row(i, len(context))
                self.prefixes.add(response.request.problem.key, context, kv)

    def _fetch(self) -> list[tuple[Any, Trajectory | Fault]]:
        rows, self._finished = self._finished, []
        known = self._record.leave(rows)
        if self._batch is None:
            self._record.clear()
        found = trajectories(self.policy, [row.response for row in rows], known)
        return [(row.ticket, result) for row, result in zip(rows, found, strict=True)]

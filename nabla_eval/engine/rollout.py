"""The decode loop: a running batch that responses enter and leave, one token a step for each."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from nabla_eval.cost.flops import forward_flops
from nabla_eval.cost.ledger import Ledger
from nabla_eval.engine.batch_cache import NoCache, PaddedCache, rows_of
from nabla_eval.engine.prefix_cache import PrefixCache
from nabla_eval.engine.response import COLUMNS, NOTHING, Known, Response, statistics, trajectories
from nabla_eval.engine.sampler import Filter, draw
from nabla_eval.errors import Fault
from nabla_eval.models.batch_probe import RowCache, batching
from nabla_eval.models.pair import Policy
from nabla_eval.models.prefix import padded, position_ids
from nabla_eval.protocol import Generate, Trajectory
from nabla_eval.randomness import Key, uniforms

PATIENCE = 16.0  # scoring and refining cost about this many decode steps
_BLOCK = 64  # steps whose records and random numbers are allocated together


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


class TokenRecord:
    """Random numbers, statistics and states of running responses, on the device until they finish.

    Each response has one place; C steps are allocated.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.clear()

    def clear(self) -> None:
        """Free everything."""
        device = self.policy.device
        self._free: list[int] = []
        self._most = 0  # no response has written more steps
        self._at = torch.zeros(0, dtype=torch.long, device=device)  # [places] steps written
        self._numbers = torch.zeros((0, _BLOCK), dtype=torch.float64, device=device)
        self._values = torch.zeros((0, _BLOCK, len(COLUMNS)), dtype=torch.float64, device=device)
        self._states = self.policy.embedding.new_zeros((0, _BLOCK, 0))

    def enter(self, rows: Sequence[Response]) -> None:
        """Give places to responses."""
        missing = len(rows) - len(self._free)
        if missing > 0:
            self._free += range(len(self._at), len(self._at) + missing)
            self._at = _longer(self._at, 0, missing)
            self._numbers = _longer(self._numbers, 0, missing)
            self._values = _longer(self._values, 0, missing)
            self._states = _longer(self._states, 0, missing)
        for row in rows:
            row.place = self._free.pop()
        places = self.places(rows)
        self._at[places] = 0
        self._numbers[places] = self._draw(rows, 0, self._numbers.shape[1])

    def places(self, rows: Sequence[Response]) -> Tensor:
        """`[B]`."""
        return torch.tensor([row.place for row in rows], device=self.policy.device)

    def numbers(self, rows: Sequence[Response], places: Tensor) -> Tensor:
        """Return the number `[B]` that each response draws its next token with."""
        steps = self._numbers.shape[1]
        if self._most >= steps:
            self._most = max(row.steps for row in rows)
        if self._most >= steps:
            more = max(1, steps // 4 // _BLOCK) * _BLOCK
            self._numbers = _longer(self._numbers, 1, more)
            self._values = _longer(self._values, 1, more)
            self._states = _longer(self._states, 1, more)
            self._numbers[places, steps:] = self._draw(rows, steps, more)
        return self._numbers[places, self._at[places]]

    def _draw(self, rows: Sequence[Response], first: int, count: int) -> Tensor:
        starts = [row.given + first for row in rows]
        numbers = uniforms([row.request.key for row in rows], starts, count)
        return torch.from_numpy(numbers).to(self.policy.device)

    def write(self, places: Tensor, states: Tensor, values: dict[str, Tensor]) -> None:
        """Note a step: last hidden states `[B, D]` and statistics `[B]` each."""
        if self._states.shape[-1] == 0:
            self._states = states.new_zeros((*self._states.shape[:2], states.shape[-1]))
        at = self._at[places]
        self._states[places, at] = states
        # float64 holds what any of them is, token ids too.
        self._values[places, at] = torch.stack([values[name].double() for name in COLUMNS], -1)
        self._at[places] = at + 1
        self._most += 1

    def leave(self, rows: Sequence[Response]) -> list[Known]:
        """Return everything known of the new tokens; the places become free."""
        known: dict[Response, Known] = {}
        placed = [row for row in rows if row.place is not None and row.steps]
        if placed:
            longest = max(row.steps for row in placed)
            values = self._values[self.places(placed), :longest].transpose(1, 2).tolist()
            for row, own in zip(placed, values, strict=True):
                columns = {
                    name: column[: row.steps] for name, column in zip(COLUMNS, own, strict=True)
                }
                columns["argmax"] = [int(token) for token in columns["argmax"]]
                # Not a view, which would keep the whole batch alive.
                known[row] = columns, self._states[row.place, : row.steps].clone()
        self.free(rows)
        return [known.get(row, ({}, None)) for row in rows]

    def free(self, rows: Sequence[Response]) -> None:
        """Take the places of responses back."""
        for row in rows:
            if row.place is not None:
                self._free.append(row.place)
                row.place = None


def _longer(tensor: Tensor, dim: int, count: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


BatchCache = PaddedCache | RowCache | NoCache


@dataclass
class _Batch:
    """The responses that run, B of them, and what the next forward pass takes."""

    rows: list[Response]
    cache: BatchCache
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
        return any(row.request.confidence is not None for row in self.rows)

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
        self._record = TokenRecord(policy)
        self._finished: list[Response] = []

    def add(self, requests: Sequence[tuple[Any, Generate]]) -> None:
        """Queue requests, each with a ticket that its trajectory will bear."""
        for ticket, request in requests:
            row = Response.of(request, self.policy, ticket)
            (self._finished if row.over else self._queue).append(row)
        self._sort()

    @property
    def idle(self) -> bool:
        """Return whether nothing is queued, running or to be fetched."""
        return not (self._queue or self._batch or self._finished)

    @torch.inference_mode(False)
    @torch.no_grad()
    def run(self) -> list[tuple[Any, Trajectory | Fault]]:
        """Decode until some rows have finished; return their tickets and trajectories.

        A row whose logits are not finite leaves the batch, and comes back as a `Fault`.
        """
        while not self._attempt():
            pass
        rows, self._finished = self._finished, []
        known = self._record.leave(rows)
        if self._batch is None:
            self._record.clear()
        found = trajectories(self.policy, rows, known)
        return [(row.ticket, result) for row, result in zip(rows, found, strict=True)]

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
            rows = [*(self._batch.rows if self._batch else []), *new]
            rows = [row for row in dict.fromkeys(rows) if not row.over]
            if len(rows) <= 1:
                raise
        # Outside the handler, so that the failed attempt's tensors are no longer held by it.
        self._shrink(rows)
        return False

    def _shrink(self, rows: list[Response]) -> None:
        """Put rows back into the queue, and hold half as much from now on."""
        self._batch = None
        self._record.free(rows)
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
        if can.rows == "padded" or not can.cached:
            return True
        return can.rows == "equal" and row.length == new[0].length

    def _admit(self, new: list[Response]) -> None:
        """Join rows to the running batch."""
        known = {row: kv for row in new if (kv := self._known(row)) is not None}
        first, cache = self._prefill([row for row in new if row not in known], known)
        running = self._batch
        rows = [*(running.rows if running else []), *new]
        if cache is None:
            joined = running.cache if running else None
            assert joined is None or isinstance(joined, PaddedCache)
            cache = PaddedCache.of(self.policy.base, [known[row] for row in new], joined)
        for row in new:
            row.charge(self.policy, row.length if row in first else 1, prefill=row in first)
        self._record.enter(new)
        device = self.policy.device
        self._batch = _Batch(
            rows,
            cache,
            torch.tensor([row.context[-1] for row in rows], device=device),
            torch.tensor([row.length - 1 for row in rows], device=device),
            self._record.places(rows),
            Filter([row.request.sampling for row in rows], device),
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
        if own.can.rows == "padded" or any(lengths):
            own.encode(ids, mask, position_ids(mask))
        found = rows_of(own.held, lengths) if own.can.joins else None
        if found is None:
            return first, own.select(index)
        known.update((row, found[i]) for row, i in zip(rows, index, strict=True))
        return first, None

    def _step(self, batch: _Batch) -> None:
        hidden = batch.cache.encode(batch.pending[:, None], batch.mask, batch.length[:, None])[
            :, -1
        ]
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
            if row.add(token, self.policy, tops[i]):
                kept.append(i)
            else:
                self._finished.append(row)
        batch.pending, batch.length = drawn, batch.length + 1
        if isinstance(batch.cache, NoCache):
            for row in batch.rows:
                if row.steps > 1:  # all but the last token was fed again
                    flops = forward_flops(self.policy.parameters, row.length - 2)
                    row.cost.add(Ledger(flops=flops))
        if len(kept) < len(batch.rows):
            self._keep_prefixes(batch)
            self._batch = batch.select(kept) if kept else None

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

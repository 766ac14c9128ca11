"""Keys and values of token prefixes: found by their tokens, dropped least recently used first.

A token's keys and values depend on the tokens before it and on nothing else where every layer has
plain full attention; only such models add entries (`models.prefix`). Nothing
outside of the engine knows of them: a request names tokens, and is answered faster where their
beginning is cached.

A prefix is found by requests of its own problem only, because what is found is not charged, and no
ledger may depend on what else is in flight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nabla_eval.randomness import Key


@dataclass(eq=False, slots=True)
class CachedPrefix:
    """A model's cache of T tokens."""

    ids: np.ndarray  # [T]
    kv: Tensor  # [layers, 2, H, T, D]
    scores: Sequence[float]  # of the reward model's head, after each token; perhaps none

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.ids)

    def first(self, count: int) -> CachedPrefix:
        """The first tokens of it; a view."""
        return CachedPrefix(self.ids[:count], self.kv[..., :count, :], self.scores[:count])


@dataclass(eq=False, slots=True)
class _Entry:
    """What is held of a problem's prefixes, with its ids as bytes, which compare fast."""

    prefix: CachedPrefix
    written: bytes
    problem: Key
    kind: str


class PrefixCache:
    """Prefixes of one model, of at most `budget` tokens in all.

    A lookup compares with each prefix of its problem, which takes about 2 microseconds per prefix
    of a thousand tokens. `kind` keeps apart what is charged in different ways.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = 0  # held now
        self._order: dict[_Entry, None] = {}  # least recently used first
        self._held: dict[Key, dict[str, list[_Entry]]] = {}

    def find(self, problem: Key, ids: Sequence[int], kind: str = "") -> CachedPrefix | None:
        """The longest prefix of `ids` that is held for a problem; None where none is."""
        held = self._held.get(problem, {}).get(kind)
        if not held or not ids:
            return None
        wanted = np.asarray(ids, dtype=np.int64)
        written = wanted.tobytes()
        best = next((entry for entry in held if entry.written.startswith(written)), None)
        count = len(wanted)
        if best is None:
            counts = [agreement(entry.prefix.ids, wanted) for entry in held]
            count = max(counts)
            if not count:
                return None
            best = held[counts.index(count)]
        self._order[best] = self._order.pop(best)
        return best.prefix.first(count)

    def add(
        self,
        problem: Key,
        ids: Sequence[int],
        kv: Tensor,
        scores: Sequence[float] = (),
        kind: str = "",
    ) -> None:
        """Hold a prefix in place of those that it begins with, and drop what is too much."""
        if not 0 < len(ids) <= self.budget:
            return
        whole = np.asarray(ids, dtype=np.int64)
        entry = _Entry(CachedPrefix(whole, kv, scores), whole.tobytes(), problem, kind)
        for other in list(self._held.get(problem, {}).get(kind, ())):
            if entry.written.startswith(other.written):
                self._drop(other)
        self._held.setdefault(problem, {}).setdefault(kind, []).append(entry)
        self._order[entry] = None
        self.tokens += len(whole)
        while self.tokens > self.budget:
            self._drop(next(iter(self._order)))

    def _drop(self, entry: _Entry) -> None:
        del self._order[entry]
        own = self._held[entry.problem]
        own[entry.kind].remove(entry)
        if not any(own.values()):
            del self._held[entry.problem]
        self.tokens -= entry.prefix.tokens

    def forget(self, problem: Key) -> None:
        """Drop what is held for a problem."""
        for entries in list(self._held.get(problem, {}).values()):
            for entry in list(entries):
                self._drop(entry)

    def clear(self) -> None:
        """Drop everything."""
        self._order.clear()
        self._held.clear()
        self.tokens = 0


def agreement(one: Sequence[int] | np.ndarray, other: Sequence[int] | np.ndarray) -> int:
    """Return the number of ids that two rows begin with alike."""
    count = min(len(one), len(other))
    different = np.asarray(one[:count]) != np.asarray(other[:count])
    first = int(different.argmax()) if count else 0
    return first if count and different[first] else count


class PrefixCaches:
    """Those of a pair: `budget` tokens of the policy, and half as many of the reward model."""

    def __init__(self, budget: int = 0) -> None:
        self.policy, self.reward = PrefixCache(budget), PrefixCache(budget // 2)
        self._scores: dict[Key, dict[tuple[int, ...], list[float]]] = {}

    def alike(self, problem: Key, row: tuple[int, ...], scores: list[float]) -> list[float]:
        """The scores that this row had first: equal rows tie to the last digit.

        In another batch, or after another cached prefix, sums are taken in another order.
        """
        return self._scores.setdefault(problem, {}).setdefault(row, scores)

    def forget(self, problem: Key) -> None:
        """Drop what is held for a problem."""
        self.policy.forget(problem)
        self.reward.forget(problem)
        self._scores.pop(problem, None)

    def clear(self) -> None:
        """Drop everything."""
        self.policy.clear()
        self.reward.clear()
        self._scores.clear()

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
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from nabla_eval.randomness import Key


@dataclass(eq=False, slots=True)
class CachedPrefix:
    """A model's cache of T tokens."""

    ids: np.ndarray  # [T]
    kv: Tensor  # [layers, 2, H, T, D]
    scores: Sequence[float] = ()  # of the reward model's head, after each token; perhaps none
    scope: tuple[Key, str] = field(kw_only=True)

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.ids)

    def first(self, count: int) -> CachedPrefix:
        """The first tokens of it; a view."""
        kv = self.kv[..., :count, :]
        return CachedPrefix(self.ids[:count], kv, self.scores[:count], scope=self.scope)


class PrefixCache:
    """Prefixes of one model, of at most `budget` tokens in all.

    A lookup compares with each prefix of its problem, which takes about 2 microseconds per prefix
    of a thousand tokens. `kind` keeps apart what is charged in different ways.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = 0  # held now
        self._order: dict[CachedPrefix, None] = {}  # least recently used first
        self._held: dict[tuple[Key, str], list[CachedPrefix]] = {}

    def find(self, problem: Key, ids: Sequence[int], kind: str = "") -> CachedPrefix | None:
        """The longest prefix of `ids` that is held for a problem; None where none is."""
        held = self._held.get((problem, kind))
        if not held or not ids:
            return None
        wanted = np.asarray(ids)
        counts = [agreement(entry.ids, wanted) for entry in held]
        best = max(range(len(held)), key=counts.__getitem__)
        if not counts[best]:
            return None
        self._order[held[best]] = self._order.pop(held[best])
        return held[best].first(counts[best])

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
        entry = CachedPrefix(np.asarray(ids), kv, scores, scope=(problem, kind))
        for other in list(self._held.get(entry.scope, ())):
            if agreement(other.ids, entry.ids) == other.tokens:
                self._drop(other)
        self._held.setdefault(entry.scope, []).append(entry)
        self._order[entry] = None
        self.tokens += entry.tokens
        while self.tokens > self.budget:
            self._drop(next(iter(self._order)))

    def _drop(self, entry: CachedPrefix) -> None:
        del self._order[entry]
        self._held[entry.scope].remove(entry)
        if not self._held[entry.scope]:
            del self._held[entry.scope]
        self.tokens -= entry.tokens

    def forget(self, problem: Key) -> None:
        """Drop what is held for a problem."""
        for entry in [e for e in self._order if e.scope[0] == problem]:
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

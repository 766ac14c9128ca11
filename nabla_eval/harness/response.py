"""The return values of `generate_until`: text for lm-eval, and what it cost for the metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NablaResponse(str):
    """A response that remembers what producing it took, in `stats`.

    The stats are `Outcome.stats()` (model calls and their parts, candidates, rejected, ties,
    rejection rate, truncated, reward) with the problem's `id`, the `method` and its `seconds`.
    It is a plain string to everything that does not ask. It keeps its stats through the string
    methods that lm-eval's filters use, through pickling (several ranks, `--use_cache`) and copying;
    a filter that builds a new string, as `regex` does, loses them: read the stats before it.
    """

    stats: dict[str, Any]

    def __new__(cls, text: str = "", stats: Mapping[str, Any] | None = None) -> NablaResponse:
        response = super().__new__(cls, text)
        response.stats = dict(stats or {})
        return response

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.stats)

    def _keep(self, text: str) -> NablaResponse:
        return type(self)(text, self.stats)

    def __getitem__(self, index: Any) -> NablaResponse:
        return self._keep(super().__getitem__(index))

    def strip(self, chars: str | None = None, /) -> NablaResponse:
        return self._keep(super().strip(chars))

    def lstrip(self, chars: str | None = None, /) -> NablaResponse:
        return self._keep(super().lstrip(chars))

    def rstrip(self, chars: str | None = None, /) -> NablaResponse:
        return self._keep(super().rstrip(chars))

    def lower(self) -> NablaResponse:
        return self._keep(super().lower())

    def upper(self) -> NablaResponse:
        return self._keep(super().upper())

    def replace(self, old: str, new: str, count: Any = -1, /) -> NablaResponse:
        return self._keep(super().replace(old, new, count))

    def removeprefix(self, prefix: str, /) -> NablaResponse:
        return self._keep(super().removeprefix(prefix))

    def removesuffix(self, suffix: str, /) -> NablaResponse:
        return self._keep(super().removesuffix(suffix))

    def translate(self, table: Any, /) -> NablaResponse:
        return self._keep(super().translate(table))

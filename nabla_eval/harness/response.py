"""The return values of `generate_until`: text for lm-eval, and what it cost for the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def _with_stats(name: str) -> Callable[..., NablaResponse]:
    plain = getattr(str, name)

    def method(self: NablaResponse, *arguments: Any) -> NablaResponse:
        return NablaResponse(plain(self, *arguments), self.stats)

    return method


for _name in (
    "__getitem__", "strip", "lstrip", "rstrip", "lower", "upper", "replace", "removeprefix",
    "removesuffix", "translate",
):  # fmt: skip
    setattr(NablaResponse, _name, _with_stats(_name))

"""Results of the same run in other batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest


def same(ours: Any, theirs: Any, within: float = 1e-9) -> bool:
    """Equal, numbers up to what the width of a batch does to sums of a few hundred float64s.

    `within`: 8e-5 for float32.
    """
    if isinstance(ours, Mapping):
        return ours.keys() == theirs.keys() and all(same(ours[n], theirs[n], within) for n in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(
            same(a, b, within) for a, b in zip(ours, theirs, strict=True)
        )
    return ours == (
        pytest.approx(theirs, rel=within, abs=within) if isinstance(ours, float) else theirs
    )

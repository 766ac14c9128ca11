"""Results of the same run in other batches."""

from __future__ import annotations

from typing import Any

import pytest


def same(ours: Any, theirs: Any) -> bool:
    """Equal, numbers up to what the width of a batch does to sums of a few hundred float64s."""
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[n], theirs[n]) for n in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == (
        pytest.approx(theirs, rel=1e-9, abs=1e-9) if isinstance(ours, float) else theirs
    )

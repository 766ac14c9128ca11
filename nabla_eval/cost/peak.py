"""The most memory that a run took.

A property of the run and not of a problem: problems advance side by side in one batch, and what
they share (weights, caches, one batch's activations) belongs to none of them. So it stands in
`run.json`, beside the seconds, and not in the ledger.
"""

from __future__ import annotations

from typing import Literal, TypedDict


class PeakMemory(TypedDict):
    """The largest use, in bytes, and of what.

    "gpu": tensors allocated while generating, summed over this process's GPUs. "process": resident
    set of the process since it started, weights, libraries and earlier runs in it included.
    """

    bytes: int
    of: Literal["gpu", "process"]


def larger(one: PeakMemory | None, other: PeakMemory | None) -> PeakMemory | None:
    """Return the larger peak of two parts of a run."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda peak: peak["bytes"])


def describe(peak: PeakMemory) -> str:
    """In words: `0.61 GiB (resident set of the process)`."""
    what = {"gpu": "allocated on GPUs", "process": "resident set of the process"}[peak["of"]]
    return f"{peak['bytes'] / 2**30:.2f} GiB ({what})"

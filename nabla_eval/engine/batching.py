"""Micro-batches: sorted by length, cut at a token budget, halved when memory runs out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from nabla_eval.errors import Fault, NablaError
from nabla_eval.models.prefix import WORTH

# What one item can cause; anything else is an error of ours, or of all items, and ends the run.
FAULTS = (NablaError, RuntimeError)

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_batches(
    run: Callable[[list[Item]], list[Result]],
    items: Sequence[Item],
    length: Callable[[Item], int],
    budget: int,
    relieve: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Apply `run` to items in micro-batches; return the results in the order of `items`.

    A micro-batch holds at most `budget` padded tokens (and at least one item), and is cut in two
    where that spares more padding than a call costs. A batch that runs out of memory, or fails with
    another of `FAULTS`, is run again as two halves, which finds the items that are to blame; out of
    memory, `relieve` is called before. A single item that fails comes back as a `Fault`.
    """
    order = sorted(range(len(items)), key=lambda i: length(items[i]), reverse=True)
    results: dict[int, Result] = {}
    while order:
        rows = max(1, budget // max(1, length(items[order[0]])))
        rows = cut([length(items[i]) for i in order[:rows]])
        batch, order = order[:rows], order[rows:]
        outputs = _halving(run, [items[i] for i in batch], relieve)
        results.update(zip(batch, outputs, strict=True))
    return [results[i] for i in range(len(items))]


def cut(lengths: Sequence[int]) -> int:
    """Return how many of the longest items go first, of lengths that fall.

    Fewer than all where the padding of the others would cost more than a call of their own.
    """
    count = len(lengths)
    while count > 1:
        # Those from i on are padded to the longest of them and not to the longest of all.
        spared, first = max(((count - i) * (lengths[0] - lengths[i]), i) for i in range(1, count))
        if spared <= WORTH:
            break
        count = first
    return count


def _halving(
    run: Callable[[list[Item]], list[Result]], items: list[Item], relieve: Callable[[], None]
) -> list[Result]:
    try:
        return run(items)
    except FAULTS as error:  # torch.OutOfMemoryError is a RuntimeError
        if len(items) == 1:
            # Its frames would keep the batch's tensors alive.
            fault: Any = Fault(error.with_traceback(None))
            return [fault]
        exhausted = isinstance(error, torch.OutOfMemoryError)
    # Outside the handler, so that the failed attempt's tensors are no longer held by it.
    if exhausted:
        relieve()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"Out of memory with a micro-batch of {len(items)}: trying again with two halves. "
            "A smaller max_batch_tokens avoids the failed attempts.",
            stacklevel=2,
        )
    half = len(items) // 2
    return _halving(run, items[:half], relieve) + _halving(run, items[half:], relieve)

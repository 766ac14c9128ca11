"""Batching of a model's rows, tried on a few tokens when it is loaded.

The engine pads rows on the left, goes on from the model's cache, and lets rows leave and repeat.
Not every architecture gives a row its own result then: a recurrent state may take padding in, a
position that sees nothing may turn into nan, a cache may lose or mix up rows. So two rows are run
as a batch and compared with each of them alone. What fails is not used: rows of different lengths
run apart, and without a cache to trust every step encodes its context again. Both are slower, and
right. A model whose rows change each other without padding too is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from nabla_eval.errors import ModelError
from nabla_eval.models.prefix import (
    FOUND,
    Batching,
    RowCache,
    batching,
    is_plain,
    padded,
    position_ids,
    reusable_by_config,
)
from nabla_eval.terminal import LOGGER

# Relative error of a token's last hidden state. Above rounding: models of float64 keep some
# float32 inside, and in 16 bits a router may choose another expert for single tokens, so that there
# the median counts. Far below what a token more or less in the context does.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
_NARROW = 0.1


@torch.no_grad()
def probe(base: torch.nn.Module, vocabulary: int, name: str) -> Batching:
    """Find out how a model's rows may share a batch, and note it; one line tells what is slower.

    Takes about five passes of a few tokens. A model that cannot take padding is changed in place:
    its padded batches run as groups of rows that need none. `vocabulary`: number of token ids.
    Raises `ModelError` for a model whose rows change each other all the same.
    """
    if not batching(base).padded:
        return batching(base)  # it was changed, so that padding looks right
    device = next(base.parameters()).device
    rows = [[i % vocabulary for i in own] for own in ((1, 2, 3, 4, 5, 6), (5, 2, 7, 1, 6, 3))]
    alone = [base(input_ids=torch.tensor([row], device=device), use_cache=False) for row in rows]
    wanted = [output.last_hidden_state[0] for output in alone]
    short, own = [rows[0][:3], rows[1]], [wanted[0][:3], wanted[1]]  # causal: a prefix's are known
    pads = _agrees(lambda: _together(base, short, own))
    if pads:
        rows, wanted = short, own
    elif not _agrees(lambda: _together(base, rows, wanted)):
        raise ModelError(
            f"{name} gives a row of a batch other results than the row alone, padded or not. Try "
            "another dtype or attn_implementation (float32 and sdpa suit most), or another model."
        )
    cache = RowCache(base, Batching(padded=pads))
    cached = _agrees(lambda: _decoded(cache, rows, wanted))
    reusable = pads and cached and is_plain(cache.held) and reusable_by_config(base)
    can = FOUND[base] = Batching(pads, cached, reusable)
    if not pads:
        _separate(base)
    if slower := can.describe():
        LOGGER.warning("%s: %s. Slower, with the same results.", name, slower)
    return can


def _agrees(run: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> bool:
    """Return whether found and wanted states `[T, D]` agree; an error of the model's says no."""
    try:
        pairs = list(run())
    except Exception:  # whatever the code of a model raises where it is asked for too much
        return False
    errors = torch.cat(
        [(own - other).norm(dim=-1) / other.norm(dim=-1).clamp(min=1e-12) for own, other in pairs]
    )
    tolerance = _TOLERANCE.get(pairs[0][1].dtype)
    if tolerance is None:
        return bool(errors.float().median() <= _NARROW)
    return bool(errors.max() <= tolerance)  # and not nan


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and mask `[B, T]`, padded with a token whose embedding is not all 0."""
    ids, mask = padded(rows, device)
    return ids + rows[1][2] * (1 - mask), mask


def _together(
    base: torch.nn.Module, rows: Sequence[Sequence[int]], wanted: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run rows as one batch without a cache."""
    ids, mask = _padded(rows, wanted[0].device)
    positions = position_ids(mask)
    output = base(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
    states = output.last_hidden_state
    for own, other in zip(states, wanted, strict=True):
        yield own[-len(other) :], other


def _decoded(
    cache: RowCache, rows: Sequence[Sequence[int]], wanted: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode rows' last two tokens: two rows swap and one is repeated, then one leaves."""
    ids, mask = _padded(rows, wanted[0].device)
    begun = ids.shape[1] - 2
    cache.encode(ids[:, :begun], mask[:, :begun], position_ids(mask[:, :begun]))
    order = [0, 1]
    for column, kept in enumerate([[1, 0, 1], [2, 1]], start=begun):
        order = [order[i] for i in kept]
        cache.select(kept)
        seen = mask[order, : column + 1]
        states = cache.encode(ids[order, column, None], seen, position_ids(seen)[:, -1:])
        for own, i in zip(states, order, strict=True):
            yield own, wanted[i][column - begun - 2, None]


def _separate(base: torch.nn.Module) -> None:
    """Let padded batches without a cache run as groups of rows of one length."""
    own: Callable[..., Any] = base.forward

    @functools.wraps(own)
    def forward(*args: Any, attention_mask: Tensor | None = None, **inputs: Any) -> Any:
        if attention_mask is None or inputs.get("use_cache") or bool(attention_mask.all()):
            return own(*args, attention_mask=attention_mask, **inputs)
        return _in_groups(own, attention_mask, inputs)

    base.forward = forward


def _in_groups(
    own: Callable[..., Any], mask: Tensor, inputs: dict[str, Any]
) -> BaseModelOutputWithPast:
    """Run a left-padded batch as several without padding; states of padding are 0."""
    width = mask.shape[1]
    lengths = mask.sum(-1).clamp(min=1)  # of a row without tokens nothing is asked
    states: Tensor | None = None
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        batch = {
            key: value[rows, width - length :] if isinstance(value, Tensor) else value
            for key, value in inputs.items()
        }
        found = own(**batch).last_hidden_state
        if states is None:
            states = found.new_zeros(len(mask), width, found.shape[-1])
        states[rows, width - length :] = found
    return BaseModelOutputWithPast(last_hidden_state=states)

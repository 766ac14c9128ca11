"""Batching of a model's rows, tried on a few tokens when it is loaded.

The engine pads rows on the left, goes on from the model's cache, and lets rows leave and repeat.
Not every architecture gives a row its own result then: a recurrent state may take padding in, a
position that sees nothing may turn into nan, a cache may lose or mix up rows. So two rows are run
as a batch and compared with each of them alone. What fails is not used: rows of different lengths
run apart, and without a cache to trust every step encodes its context again. Both are slower, and
right.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPast

from nabla_eval.terminal import LOGGER

# Relative error of a token's last hidden state. Above rounding: models of float64 keep some
# float32 inside, and in 16 bits a router may choose another expert for single tokens, so that there
# the median counts. Far below what a token more or less in the context does.
_TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
_NARROW = 0.1

Rows = Literal["padded", "equal", "alone"]
_APART: dict[Rows, str] = {
    "padded": "",
    "equal": "rows of different lengths run apart, because padding changes results",
    "alone": "rows run one by one, because other rows change results",
}


@dataclass(frozen=True)
class Batching:
    """The ways in which rows may share a batch without changing each other's results."""

    rows: Rows = "padded"  # may differ in length; "equal" may not, "alone" share no batch
    cached: bool = True  # whether the model's cache can keep some of its rows, and is used
    joins: bool = True  # whether keys and values of rows of any lengths may be put together
    reusable: bool = True  # and those of a prefix are the same whatever follows

    def describe(self) -> str:
        """Return what is slower than it might be; empty where nothing is."""
        again = "each step encodes its context again, because rows cannot leave its cache"
        return "; ".join(filter(None, (_APART[self.rows], "" if self.cached else again)))


_FOUND: WeakKeyDictionary[torch.nn.Module, Batching] = WeakKeyDictionary()


def batching(base: torch.nn.Module) -> Batching:
    """Return what the probe found of a model; if it was never tried, what its config says."""
    return _FOUND.get(base) or Batching(reusable=_reusable(base))


def cache_name(model: torch.nn.Module) -> str:
    """Return what a model calls its cache; from transformers 5.24 on all call it `cache`."""
    taken = inspect.signature(model.forward).parameters
    return next((name for name in ("cache", "cache_params") if name in taken), "past_key_values")


class RowCache:
    """The cache that a model makes for the rows of a batch."""

    def __init__(self, base: torch.nn.Module, can: Batching | None = None) -> None:
        self.base, self.can = base, can or batching(base)
        self.name = cache_name(base)
        taken = inspect.signature(base.forward).parameters
        self.recurrent = self.name != "past_key_values" and "position_ids" not in taken
        self.held: Any = None
        self.width = 0  # columns that were encoded

    def encode(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return last hidden states `[B, T, D]` of ids `[B, T]`, which join what is held.

        `mask` covers what is held too.
        """
        # Purely recurrent models have no mask for what is held, and lay one over the new ids only.
        recurrent = self.recurrent and self.held is not None
        output = self.base(
            input_ids=ids,
            attention_mask=None if recurrent or self.can.rows != "padded" else mask,
            position_ids=positions,
            use_cache=True,
            **{self.name: self.held},
        )
        self.held = getattr(output, self.name)
        self.width += ids.shape[1]
        states: Tensor = output.last_hidden_state
        return states

    def select(self, rows: Sequence[int], unused: int = 0) -> RowCache:
        """Keep these rows in this order; a row may be repeated. Unused columns stay too."""
        if self.held is not None:
            device = next(self.base.parameters()).device
            self.held.reorder_cache(torch.tensor(rows, device=device))
        return self


def is_plain(cache: Any) -> bool:
    """Return whether every layer holds keys and values of all tokens, and nothing else."""
    return type(cache) is DynamicCache and all(
        type(layer) is DynamicLayer and layer.keys is not None for layer in cache.layers
    )


def _reusable(base: torch.nn.Module) -> bool:
    """Return whether a prefix's keys and values are the same whatever follows, by the config.

    Every layer sees all tokens, and positions are rotated alike at every length.
    """
    config: Any = getattr(base, "config", None)
    if not hasattr(config, "get_text_config"):
        return False
    text = config.get_text_config()
    layers = DynamicCache(config=text).layers
    rotation = str(getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None))
    return (
        getattr(text, "is_causal", True)
        and len(layers) == text.num_hidden_layers
        and all(type(layer) is DynamicLayer for layer in layers)
        and getattr(config, "_attn_implementation", None) in ("sdpa", "eager")
        # Whose angles depend on how long the whole sequence is.
        and not any(kind in rotation for kind in ("dynamic", "longrope"))
    )


@torch.no_grad()
def probe(base: torch.nn.Module, vocabulary: int, name: str) -> Batching:
    """Find out how a model's rows may share a batch, and note it; one line tells what is slower.

    Takes about five passes of a few tokens. A model that cannot take padding is changed in place:
    its padded batches run as groups of rows that need none. `vocabulary`: number of token ids.
    """
    if batching(base).rows != "padded":
        return batching(base)  # it was changed, so that padding looks right
    tokens = torch.arange(8, device=next(base.parameters()).device) % vocabulary
    rows = [tokens[1:7], tokens[[5, 2, 7, 1, 6, 3]]]
    wanted = [base(input_ids=row[None], use_cache=False).last_hidden_state[0] for row in rows]
    short, own = [rows[0][:3], rows[1]], [wanted[0][:3], wanted[1]]  # causal: a prefix's are known
    can = Batching(rows="alone")
    if _agrees(lambda: _together(base, short, own)):
        can, rows, wanted = Batching(), short, own
    elif _agrees(lambda: _together(base, rows, wanted)):
        can = Batching(rows="equal")
    else:
        rows, wanted = rows[:1], wanted[:1]
    cache = RowCache(base, can)
    works = _agrees(lambda: _decoded(cache, rows, wanted))
    joins = works and can.rows == "padded" and is_plain(cache.held)
    can = replace(can, cached=works, joins=joins, reusable=joins and _reusable(base))
    if can.rows != "padded":
        _separate(base, can.rows)
    _FOUND[base] = can
    if slower := can.describe():
        LOGGER.warning("%s: %s. Slower, with the same results.", name, slower)
    return can


def _agrees(run: Callable[[], Iterable[tuple[Tensor, Tensor]]]) -> bool:
    """Return whether found and wanted states `[T, D]` agree; an error of the model's says no."""
    try:
        pairs = list(run())
    except Exception:  # whatever the code of a model raises where it is asked for too much
        return False
    errors = torch.cat([(own - other).norm(dim=-1) / other.norm(dim=-1) for own, other in pairs])
    tolerance = _TOLERANCE.get(pairs[0][1].dtype)
    if tolerance is None:
        return bool(errors.float().median() <= _NARROW)
    return bool(errors.max() <= tolerance)  # and not nan


def _padded(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return ids and mask `[B, T]` of rows on the right, padded with a token that is not all 0."""
    width = max(map(len, rows))
    ids = torch.stack([torch.cat([row[:1].expand(width - len(row)), row]) for row in rows])
    columns = torch.arange(width, device=ids.device)
    return ids, torch.stack([(columns >= width - len(row)).long() for row in rows])


def _together(
    base: torch.nn.Module, rows: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run rows as one batch without a cache."""
    ids, mask = _padded(rows)
    states = base(
        input_ids=ids, attention_mask=mask, position_ids=_positions(mask), use_cache=False
    ).last_hidden_state
    for own, other in zip(states, wanted, strict=True):
        yield own[-len(other) :], other


def _decoded(
    cache: RowCache, rows: Sequence[Tensor], wanted: Sequence[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Decode rows' last two tokens: two rows swap and one is repeated, then one leaves."""
    ids, mask = _padded(rows)
    begun = ids.shape[1] - 2
    cache.encode(ids[:, :begun], mask[:, :begun], _positions(mask[:, :begun]))
    order = list(range(len(rows)))
    steps = [[1, 0, 1], [2, 1]] if len(rows) == 2 else [[0], [0]]
    for column, kept in enumerate(steps, start=begun):
        order = [order[i] for i in kept]
        cache.select(kept)
        seen = mask[order, : column + 1]
        states = cache.encode(ids[order, column, None], seen, _positions(seen)[:, -1:])
        for own, i in zip(states, order, strict=True):
            yield own, wanted[i][column - begun - 2, None]


def _positions(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp_(min=0)


def _separate(base: torch.nn.Module, rows: Rows) -> None:
    """Let padded batches without a cache run as groups of rows of one length, or row by row."""
    own: Callable[..., Any] = base.forward

    @functools.wraps(own)
    def forward(*args: Any, attention_mask: Tensor | None = None, **inputs: Any) -> Any:
        if (
            attention_mask is None
            or inputs.get("use_cache")
            or (rows == "equal" and bool(attention_mask.all()))
        ):
            return own(*args, attention_mask=attention_mask, **inputs)
        return _in_groups(own, attention_mask, inputs, rows)

    base.forward = forward


def _in_groups(
    own: Callable[..., Any], mask: Tensor, inputs: dict[str, Any], rows: Rows
) -> BaseModelOutputWithPast:
    """Run a left-padded batch as several without padding; states of padding are 0."""
    width = mask.shape[1]
    groups: dict[tuple[int, int], list[int]] = {}
    for row, length in enumerate(mask.sum(-1).tolist()):
        # Of a row without tokens nothing is asked.
        groups.setdefault((max(1, length), row if rows == "alone" else 0), []).append(row)
    parts = []
    for (length, _), members in groups.items():
        chosen = torch.tensor(members, device=mask.device)
        batch = {
            key: value[chosen, width - length :] if isinstance(value, Tensor) else value
            for key, value in inputs.items()
        }
        states = own(**batch).last_hidden_state
        parts.append(torch.nn.functional.pad(states, (0, 0, width - length, 0)))
    order = torch.tensor([row for group in groups.values() for row in group], device=mask.device)
    return BaseModelOutputWithPast(last_hidden_state=torch.cat(parts)[order.argsort()])

"""Forward passes of sequences that begin alike, or whose beginning needs no gradient.

A causal model's keys and values of a prefix do not depend on what follows it. So a prefix that rows
share is encoded once, one that lies before the first wanted gradient is encoded without a graph,
and one that was encoded before not at all; the rest of each row attends to its keys and values as
constants. Exact for models whose cache is plain (`Batching.reusable`); others run whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

# A second forward call must save at least this many token-forwards: it costs about as much.
WORTH = 256


@dataclass(frozen=True)
class Batching:
    """The ways in which rows may share a batch without changing each other's results."""

    padded: bool = True  # rows may differ in length
    cached: bool = True  # the model's cache can keep some of its rows, and is used
    reusable: bool = True  # keys and values of a prefix are the same whatever follows

    def describe(self) -> str:
        """Return what is slower than it might be; empty where nothing is."""
        slower = []
        if not self.padded:
            slower.append("rows of different lengths run apart, because padding changes results")
        if not self.cached:
            slower.append(
                "each step encodes its context again, because rows cannot leave its cache"
            )
        return "; ".join(slower)


FOUND: WeakKeyDictionary[torch.nn.Module, Batching] = WeakKeyDictionary()


def batching(base: torch.nn.Module) -> Batching:
    """Return what the probe found of a model, or what the config of an untried one says."""
    return FOUND.get(base) or Batching(reusable=reusable_by_config(base))


def without_graph(base: torch.nn.Module) -> AbstractContextManager[Any]:
    """Return the mode for passes that nothing is differentiated through.

    Inference mode spares a tenth of a small batch's time. What a model keeps from a pass cannot be
    differentiated through later then: transformers' own models keep nothing, others may.
    """
    own = type(base).__module__.startswith("transformers.")
    return torch.inference_mode() if own else torch.no_grad()


def cache_name(model: torch.nn.Module) -> str:
    """Return what a model calls its cache; from transformers 5.24 on all call it `cache`."""
    return _cache_name(type(model).forward)


@lru_cache
def _cache_name(forward: Callable[..., Any]) -> str:
    taken = inspect.signature(forward).parameters
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
            attention_mask=None if recurrent or not self.can.padded else mask,
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


def reusable_by_config(base: torch.nn.Module) -> bool:
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


def keepable(base: torch.nn.Module) -> bool:
    """Return whether what it encoded can be kept: its cache is plain, and on one device."""
    return batching(base).reusable and len({weight.device for weight in base.parameters()}) == 1


class _Constant(DynamicLayer):
    """Keys and values of a layer's prefixes that calls read and never change.

    Unlike transformers' own layer it can be read twice, as the backward pass of a checkpointed
    layer does, and copies for rows that share a prefix live no longer than their layer needs.
    """

    def __init__(self, keys: Tensor, values: Tensor, rows: Tensor | None) -> None:
        super().__init__()
        self.keys, self.values = keys, values  # as transformers reads them
        self.prefix, self.rows = (keys, values), rows
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.prefix
        if self.rows is not None:
            rows = self.rows.to(keys.device)
            keys, values = keys[rows], values[rows]
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


@dataclass(frozen=True)
class Prefixes:
    """A model's cache of U prefixes, padded on the left to P tokens."""

    layers: list[tuple[Tensor, Tensor]]  # keys and values
    mask: Int[Tensor, "U P"]
    states: Float[Tensor, "U P D"] | None  # last hidden states; None where some were known before
    owner: list[int]  # the prefix of each row

    def cache(self) -> Cache:
        """Return what a call with one row per owner takes."""
        rows = None
        if self.owner != list(range(len(self.mask))):
            rows = torch.tensor(self.owner, device=self.mask.device)
        return Cache(layers=[_Constant(keys, values, rows) for keys, values in self.layers])


@dataclass(frozen=True)
class Pass:
    """B rows through a model: their last S columns, each row's tokens at the end of them."""

    embeds: Float[Tensor, "B S D"]
    states: Float[Tensor, "B S D"]  # last hidden states
    prefixes: Prefixes | None = None  # of what stands before these columns; None: nothing does

    def tail(self, row: int, count: int) -> Float[Tensor, "count D"]:
        """Return states of a row's last tokens in these columns."""
        return self.states[row, self.states.shape[1] - count :]

    def before(self, row: int, count: int) -> Float[Tensor, "1 D"] | None:
        """Return the state of the token before them; None where that was known before."""
        width = self.states.shape[1]
        if self.prefixes is None:
            return self.states[row, width - count - 1 : width - count]
        if self.prefixes.states is None:
            return None
        return self.prefixes.states[self.prefixes.owner[row], -1:]


def forward(
    base: torch.nn.Module,
    embed: Callable[[Tensor], Tensor],
    rows: Sequence[tuple[int, ...]],
    starts: Sequence[int],
    device: torch.device,
    *,
    grad: bool = False,
    known: Sequence[Tensor | None] = (),
) -> Pass:
    """Run rows of ids through a model; `embed` maps ids [B, T] to embeddings [B, T, D].

    What stands before each row's start is encoded once where rows agree about it, and without a
    graph. With `grad`, the result's `embeds` are the leaf to differentiate to. Where a cut spares
    too little or leaves nothing, or the model's cache is not plain, rows run whole, and the result
    has all their columns.

    `known` are keys and values of what rows begin with, `[layers, 2, H, T, D]` or None for each.
    They stand for the encoding where they suffice for every row.
    """
    rest = [row[start:] for row, start in zip(rows, starts, strict=True)]
    if not batching(base).reusable or not any(rest):
        return extend(base, embed, rows, device, grad, None)
    if len(known) == len(rows) and max(starts) > 0:
        held = [
            kv[..., :start, :]
            for kv, start in zip(known, starts, strict=True)
            if kv is not None and kv.shape[-2] >= start
        ]
        if len(held) == len(rows):
            own = Prefixes(*joined(held), None, list(range(len(rows))))
            return extend(base, embed, rest, device, grad, own)
    places: dict[tuple[int, ...], int] = {}
    for row, start in zip(rows, starts, strict=True):
        places.setdefault(row[:start], len(places))
    passes = 2 if grad else 1  # a backward pass to the inputs costs about a forward pass
    spared = passes * (_cells(rows) - _cells(rest)) - _cells(list(places))
    if min(starts) < 1 or spared < WORTH:
        return extend(base, embed, rows, device, grad, None)
    with torch.no_grad():
        ids, mask = padded(list(places), device)
        output = base(
            inputs_embeds=embed(ids),
            attention_mask=mask,
            position_ids=position_ids(mask),
            use_cache=True,
        )
    layers = [(layer.keys, layer.values) for layer in getattr(output, cache_name(base)).layers]
    owner = [places[row[:start]] for row, start in zip(rows, starts, strict=True)]
    shared = Prefixes(layers, mask, output.last_hidden_state, owner)
    return extend(base, embed, rest, device, grad, shared)


def _cells(rows: Sequence[tuple[int, ...]]) -> int:
    return len(rows) * max(map(len, rows))


def extend(
    base: torch.nn.Module,
    embed: Callable[[Tensor], Tensor],
    rows: Sequence[tuple[int, ...]],
    device: torch.device,
    grad: bool,
    prefixes: Prefixes | None,
) -> Pass:
    """Run rows of ids, each after the prefix that is its own; with `grad` as in `forward`."""
    ids, mask = padded(rows, device)
    width = mask.shape[1]
    if prefixes is not None:
        owner = torch.tensor(prefixes.owner, device=device)
        mask = torch.cat([prefixes.mask[owner], mask], 1)
    embeds = embed(ids).detach()
    if grad:
        embeds.requires_grad_()
    output = base(
        inputs_embeds=embeds,
        attention_mask=mask,
        position_ids=position_ids(mask)[:, -width:],
        **{cache_name(base): None if prefixes is None else prefixes.cache()},
        use_cache=prefixes is not None,
    )
    return Pass(embeds, output.last_hidden_state, prefixes)


def joined(
    kvs: Sequence[Tensor],
) -> tuple[list[tuple[Tensor, Tensor]], Int[Tensor, "B T"]]:
    """Join rows of keys and values `[layers, 2, H, T, D]` of any T; return layers and mask.

    Padded on the left with zeros: what is masked must be finite too.
    """
    lengths = [kv.shape[-2] for kv in kvs]
    width = max(lengths)
    layers, _, heads, _, size = kvs[0].shape
    whole = kvs[0].new_zeros((layers, 2, len(kvs), heads, width, size))
    for i, (kv, length) in enumerate(zip(kvs, lengths, strict=True)):
        whole[:, :, i, :, width - length :] = kv
    return [(keys, values) for keys, values in whole], _mask(lengths, width, whole.device)


def padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Return ids padded on the left with 0, and the mask: 1 at tokens; T >= 1."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + [*row] for row in rows], device=device)
    return ids, _mask(list(map(len, rows)), width, device)


def _mask(lengths: list[int], width: int, device: torch.device) -> Int[Tensor, "B T"]:
    starts = width - torch.tensor(lengths, device=device)
    return (torch.arange(width, device=device) >= starts[:, None]).long()


def position_ids(mask: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Return position ids that count tokens and not padding."""
    return (mask.cumsum(-1) - 1).clamp_(min=0)

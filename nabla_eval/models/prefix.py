"""Forward passes of sequences that begin alike, or whose beginning needs no gradient.

A causal model's keys and values of a prefix do not depend on what follows it. So a prefix that rows
share is encoded once, one that lies before the first wanted gradient is encoded without a graph,
and one that was encoded before not at all; the rest of each row attends to its keys and values as
constants. Exact for models whose cache is plain (every layer sees all tokens, and positions are
rotated alike at every length); others run whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import Cache, DynamicLayer

from nabla_eval.models.batch_probe import batching, cache_name

# Passes of one token through a model that a second call must spare: it costs about as much.
WORTH = 256
_PLAIN: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()
_WHOLE: WeakKeyDictionary[torch.nn.Module, bool] = WeakKeyDictionary()


def plain_cache(base: torch.nn.Module) -> bool:
    """Return whether a prefix's keys and values are the same whatever follows, and all of them
    stay.
    """
    if base not in _PLAIN:
        _PLAIN[base] = _plain(getattr(base, "config", None))
    return batching(base).joins and _PLAIN[base]


def keepable(base: torch.nn.Module) -> bool:
    """Return whether what it encoded can be kept: its cache is plain, and on one device."""
    if base not in _WHOLE:
        _WHOLE[base] = len({weight.device for weight in base.parameters()}) == 1
    return _WHOLE[base] and plain_cache(base)


def _plain(config: Any) -> bool:
    if config is None or not hasattr(config, "get_text_config"):
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
        """For a call with one row per owner."""
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
        """States of a row's last tokens in these columns."""
        return self.states[row, self.states.shape[1] - count :]

    def before(self, row: int, count: int) -> Float[Tensor, "1 D"] | None:
        """State of the token before them; None where that was known before."""
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
    if not plain_cache(base):
        return extend(base, embed, rows, device, grad, None)
    if _suffice(rows, starts, known):
        held = [
            kv[..., :start, :] for kv, start in zip(known, starts, strict=True) if kv is not None
        ]
        layers, mask = joined(held)
        past = Prefixes(layers, mask, None, list(range(len(rows))))
        rest = [row[start:] for row, start in zip(rows, starts, strict=True)]
        return extend(base, embed, rest, device, grad, past)
    cut = _cut(rows, starts)
    if cut is None or not _pays(rows, cut, backward=grad):
        return extend(base, embed, rows, device, grad, None)
    prefixes, owner, rest = cut
    with torch.no_grad():
        ids, mask = padded(prefixes, device)
        output = base(
            inputs_embeds=embed(ids),
            attention_mask=mask,
            position_ids=position_ids(mask),
            use_cache=True,
        )
    layers = [(layer.keys, layer.values) for layer in getattr(output, cache_name(base)).layers]
    past = Prefixes(layers, mask, output.last_hidden_state, owner)
    return extend(base, embed, rest, device, grad, past)


def _suffice(
    rows: Sequence[tuple[int, ...]], starts: Sequence[int], known: Sequence[Tensor | None]
) -> bool:
    """Return whether every row has the keys and values of what stands before its start."""
    return (
        len(known) == len(rows)
        and max(starts) > 0
        and any(start < len(row) for row, start in zip(rows, starts, strict=True))
        and all(
            kv is not None and kv.shape[-2] >= start
            for kv, start in zip(known, starts, strict=True)
        )
    )


def joined(
    kvs: Sequence[Tensor],
) -> tuple[list[tuple[Tensor, Tensor]], Int[Tensor, "B T"]]:
    """Rows of keys and values `[layers, 2, H, T, D]` of any T: layers of all, and the mask.

    Padded on the left with zeros: what is masked must be finite too.
    """
    lengths = [kv.shape[-2] for kv in kvs]
    width = max(lengths)
    layers, _, heads, _, size = kvs[0].shape
    whole = kvs[0].new_zeros((layers, 2, len(kvs), heads, width, size))
    for i, (kv, length) in enumerate(zip(kvs, lengths, strict=True)):
        whole[:, :, i, :, width - length :] = kv
    columns = torch.arange(width, device=whole.device)
    starts = width - torch.tensor(lengths, device=whole.device)
    return [(keys, values) for keys, values in whole], (columns >= starts[:, None]).long()


_Cut = tuple[list[tuple[int, ...]], list[int], list[tuple[int, ...]]]


def _cut(rows: Sequence[tuple[int, ...]], starts: Sequence[int]) -> _Cut | None:
    """Different prefixes, which of them each row has, and what follows it; None without either."""
    if min(starts) < 1 or all(start == len(row) for row, start in zip(rows, starts, strict=True)):
        return None
    known: dict[tuple[int, ...], int] = {}
    pairs = list(zip(rows, starts, strict=True))
    owner = [known.setdefault(row[:start], len(known)) for row, start in pairs]
    return list(known), owner, [row[start:] for row, start in pairs]


def _pays(rows: Sequence[tuple[int, ...]], cut: _Cut, backward: bool) -> bool:
    prefixes, _, rest = cut
    passes = 2 if backward else 1  # a backward pass to the inputs costs about a forward pass
    whole = passes * _cells(rows)
    return whole - _cells(prefixes) - passes * _cells(rest) >= WORTH


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


def padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Ids padded on the left with 0, and the mask: 1 at tokens; T >= 1."""
    width = max(1, *map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + [*row] for row in rows], device=device)
    starts = width - torch.tensor([len(row) for row in rows], device=device)
    columns = torch.arange(width, device=device)
    return ids, (columns >= starts[:, None]).long()


def position_ids(mask: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """Position ids that count tokens and not padding."""
    return (mask.cumsum(-1) - 1).clamp_(min=0)

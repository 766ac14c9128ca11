"""Keys and values of a running batch, which rows enter and leave.

A `PaddedCache` takes rows in at any time. It needs layers of plain full attention, where a token's
keys and values depend on the tokens before it and on nothing else. Any other cache (sliding
windows, linear attention, quantised) is the model's own `RowCache`, which serves a batch from its
beginning to its end, and `NoCache` serves models without one. All three have the same
`encode(ids, mask, positions)`, `select(order, unused)` and `width`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from nabla_eval.models.prefix import cache_name, is_plain, position_ids

_SPARE = 16  # columns that are allocated ahead of those in use, at least


class _Columns:
    """`[layers, 2, B, H, columns, D]` that the layers of a cache write to."""

    def __init__(self, kv: Tensor) -> None:
        self.kv = kv

    def reserve(self, columns: int) -> None:
        """Make room for as many columns."""
        if columns <= self.kv.shape[-2]:
            return
        shape = list(self.kv.shape)
        shape[-2] = columns + max(_SPARE, columns // 8)
        grown = self.kv.new_empty(shape)
        grown[..., : self.kv.shape[-2], :] = self.kv
        self.kv = grown


class _Layer(DynamicLayer):
    """One layer of a `PaddedCache`: writes in place where `DynamicLayer` concatenates."""

    def __init__(self, columns: _Columns, index: int, used: int) -> None:
        super().__init__()
        self.columns, self.index, self.used = columns, index, used
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        begin, self.used = self.used, self.used + key_states.shape[-2]
        self.columns.reserve(self.used)
        keys, values = self.columns.kv[self.index]
        keys[:, :, begin : self.used] = key_states
        values[:, :, begin : self.used] = value_states
        return keys[:, :, : self.used], values[:, :, : self.used]

    def get_seq_length(self) -> int:
        return self.used


class PaddedCache:
    """Cache of a running batch: every row's tokens end at the same column, padded on the left."""

    def __init__(self, base: torch.nn.Module, kv: Tensor, width: int) -> None:
        self.base, self.width = base, width  # columns in use
        self._columns = _Columns(kv)
        self._cache = Cache(layers=[_Layer(self._columns, i, width) for i in range(len(kv))])

    @property
    def kv(self) -> Tensor:
        """`[layers, 2, B, H, width, D]`."""
        return self._columns.kv[..., : self.width, :]

    @classmethod
    def of(
        cls,
        base: torch.nn.Module,
        rows: Sequence[Tensor],
        running: PaddedCache | None = None,
        spare: int = _SPARE,
    ) -> PaddedCache:
        """Join rows `[layers, 2, H, T, D]` of any T to those of a batch that is running.

        With memory for `spare` more columns.
        """
        layers, _, heads, _, size = rows[0].shape
        count = 0 if running is None else running.kv.shape[2]
        width = max(0 if running is None else running.width, *(row.shape[-2] for row in rows))
        # Zeros, since what is masked must be finite too.
        kv = rows[0].new_zeros((layers, 2, count + len(rows), heads, width + spare, size))
        if running is not None:
            kv[:, :, :count, :, width - running.width : width] = running.kv
        for i, row in enumerate(rows, start=count):
            kv[:, :, i, :, width - row.shape[-2] : width] = row
        return cls(base, kv, width)

    def forward(self, mask: Tensor, positions: Tensor, **inputs: Tensor) -> Tensor:
        """Return last hidden states `[B, T, D]` of inputs that join each row.

        `mask` covers what is held too.
        """
        states: Tensor = self.base(
            **inputs,
            attention_mask=mask,
            position_ids=positions,
            **{cache_name(self.base): self._cache},
            use_cache=True,
        ).last_hidden_state
        self.width += positions.shape[1]
        return states

    def encode(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return last hidden states of new ids `[B, T]`."""
        return self.forward(mask, positions, input_ids=ids)

    def select(self, order: Sequence[int], unused: int) -> PaddedCache:
        """Keep rows in an order that moves few of them, without the first `unused` columns.

        Rows that are gone leave holes, which are filled in place, so that a step in which few rows
        finish copies few. Memory is given back when half of it is idle. Consumes this batch.
        """
        kv, count, width = self._columns.kv, len(order), self.width - unused
        holes = [i for i, row in enumerate(order) if row != i]
        moved = torch.tensor([order[i] for i in holes], device=kv.device)
        used = kv[..., unused : self.width, :]
        if holes:
            used[:, :, torch.tensor(holes, device=kv.device)] = used[:, :, moved]
        needed = kv[:, :, :count, :, : width + _SPARE].numel() * kv.element_size()
        if 2 * needed >= kv.untyped_storage().nbytes():
            return PaddedCache(self.base, kv[:, :, :count, :, unused:], width)
        kept = kv.new_empty((*kv.shape[:2], count, kv.shape[3], width + _SPARE, kv.shape[-1]))
        kept[..., :width, :] = used[:, :, :count]
        return PaddedCache(self.base, kept, width)

    def row(self, index: int, tokens: int) -> Tensor:
        """View a row's last tokens, `[layers, 2, H, T, D]`."""
        return self.kv[:, :, index, :, self.width - tokens :]


class NoCache:
    """No cache: all tokens `[B, width]` of the rows, encoded again with those that are new."""

    def __init__(self, base: torch.nn.Module, ids: Tensor) -> None:
        self.base, self.ids = base, ids

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.ids.shape[1]

    def encode(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Return last hidden states of new ids `[B, T]`."""
        self.ids = torch.cat([self.ids, ids], 1)
        states: Tensor = self.base(
            input_ids=self.ids,
            attention_mask=mask,
            position_ids=position_ids(mask),
            use_cache=False,
        ).last_hidden_state
        return states[:, -ids.shape[1] :].clone()  # not a view of the states of all ids

    def select(self, order: Sequence[int], unused: int) -> NoCache:
        """Keep some of the rows, without the first `unused` columns."""
        return NoCache(self.base, self.ids[list(order), unused:])


def rows_of(cache: Any, lengths: Sequence[int]) -> list[Tensor] | None:
    """View each row's last tokens in a model's cache; None where it is not a plain one."""
    if not is_plain(cache):
        return None
    halves: list[Tensor] = [half for layer in cache.layers for half in (layer.keys, layer.values)]
    if len({(half.shape, half.device) for half in halves}) != 1:
        return None
    kv = torch.stack(halves).unflatten(0, (-1, 2))
    width = kv.shape[-2]
    return [kv[:, :, i, :, width - length :] for i, length in enumerate(lengths)]

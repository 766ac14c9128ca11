"""Keys and values of a running batch, which rows enter and leave.

A `PaddedCache` takes rows in at any time. It needs layers of plain full attention, where a token's
keys and values depend on the tokens before it and on nothing else. Any other cache (sliding
windows, linear attention, quantised) serves a batch from its beginning to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from nabla_eval.engine.batching import positions
from nabla_eval.models.batch_probe import RowCache, cache_name, is_plain

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

    def __init__(self, kv: Tensor, width: int) -> None:
        self.width = width  # columns in use
        self._columns = _Columns(kv)
        self.cache = Cache(layers=[_Layer(self._columns, i, width) for i in range(len(kv))])

    @property
    def kv(self) -> Tensor:
        """`[layers, 2, B, H, width, D]`."""
        return self._columns.kv[..., : self.width, :]

    @classmethod
    def of(
        cls, rows: Sequence[Tensor], running: PaddedCache | None = None, spare: int = _SPARE
    ) -> PaddedCache:
        """Rows `[layers, 2, H, T, D]` of any T after those of a batch that is running.

        With memory for `spare` more columns.
        """
        layers, _, heads, _, size = rows[0].shape
        count = 0 if running is None else running.kv.shape[2]
        width = max(0 if running is None else running.width, *(row.shape[-2] for row in rows))
        kv = rows[0].new_empty((layers, 2, count + len(rows), heads, width + spare, size))
        if running is not None:
            _fill(kv[:, :, :count], running.kv, width)
        for i, row in enumerate(rows, start=count):
            _fill(kv[:, :, i], row, width)
        return cls(kv, width)

    def encode(self, base: torch.nn.Module, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Last hidden states `[B, T, D]` of new ids, one row of them after each row."""
        output = base(
            input_ids=ids,
            attention_mask=mask,
            position_ids=places,
            **{cache_name(base): self.cache},
            use_cache=True,
        )
        self.advance(ids.shape[1])
        states: Tensor = output.last_hidden_state
        return states

    def advance(self, columns: int) -> None:
        """Count the columns that a forward pass has written."""
        self.width += columns

    def select(self, order: Sequence[int], unused: int) -> PaddedCache:
        """The rows in an order that moves few of them, without the first `unused` columns.

        Rows that are gone leave holes, which are filled in place, so that a step in which few rows
        finish copies few. The memory is given back when half of it is idle. This batch is no more.
        """
        kv, count, width = self._columns.kv, len(order), self.width - unused
        holes = [i for i, row in enumerate(order) if row != i]
        moved = torch.tensor([order[i] for i in holes], device=kv.device)
        used = kv[..., unused : self.width, :]
        if holes:
            used[:, :, torch.tensor(holes, device=kv.device)] = used[:, :, moved]
        needed = kv[:, :, :count, :, : width + _SPARE].numel() * kv.element_size()
        if 2 * needed >= kv.untyped_storage().nbytes():
            return PaddedCache(kv[:, :, :count, :, unused:], width)
        kept = kv.new_empty((*kv.shape[:2], count, kv.shape[3], width + _SPARE, kv.shape[-1]))
        kept[..., :width, :] = used[:, :, :count]
        return PaddedCache(kept, width)

    def view(self, index: int, tokens: int) -> Tensor:
        """A row's last tokens, `[layers, 2, H, T, D]`."""
        return self.kv[:, :, index, :, self.width - tokens :]

    def row(self, index: int, tokens: int) -> Tensor:
        """A copy of a row's last tokens."""
        return self.view(index, tokens).clone()


def _fill(kv: Tensor, tokens: Tensor, width: int) -> None:
    """Write tokens up to a column, with zeros before them: what is masked must be finite too."""
    begin = width - tokens.shape[-2]
    kv[..., :begin, :] = 0
    kv[..., begin:width, :] = tokens


class ModelCache:
    """A model's own cache of any kind: rows can leave it, and none can enter."""

    def __init__(self, own: RowCache) -> None:
        self.own = own

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.own.width

    def encode(self, base: torch.nn.Module, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Last hidden states `[B, T, D]` of new ids."""
        return self.own.encode(ids, mask, places)

    def select(self, order: Sequence[int], unused: int) -> ModelCache:
        """Some of the rows, with all columns."""
        self.own.select(order)
        return self


class NoCache:
    """No cache: all tokens `[B, width]` of the rows, encoded again with those that are new."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids

    @property
    def width(self) -> int:
        """Columns in use."""
        return self.ids.shape[1]

    def encode(self, base: torch.nn.Module, ids: Tensor, mask: Tensor, places: Tensor) -> Tensor:
        """Last hidden states `[B, width, D]` of all ids, the new ones last."""
        self.ids = torch.cat([self.ids, ids], 1)
        states: Tensor = base(
            input_ids=self.ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
        ).last_hidden_state
        return states

    def select(self, order: Sequence[int], unused: int) -> NoCache:
        """Some of the rows, without the first `unused` columns."""
        return NoCache(self.ids[list(order), unused:])


def rows_of(cache: Any, lengths: Sequence[int]) -> list[Tensor] | None:
    """Each row's last tokens in a model's cache, as views; None where it is not a plain one."""
    if not is_plain(cache):
        return None
    halves: list[Tensor] = [half for layer in cache.layers for half in (layer.keys, layer.values)]
    if len({(half.shape, half.device) for half in halves}) != 1:
        return None
    kv = torch.stack(halves).unflatten(0, (-1, 2))
    width = kv.shape[-2]
    return [kv[:, :, i, :, width - length :] for i, length in enumerate(lengths)]

"""The policy's statistics at each step of the running rows, on the device until they finish."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from nabla_eval.engine.response import COLUMNS, Known, Response
from nabla_eval.models.pair import Policy
from nabla_eval.randomness import uniforms

_BLOCK = 64  # steps whose records and random numbers are allocated together


@dataclass(eq=False)
class Row:
    """A response in the queue or in the running batch."""

    ticket: Any
    response: Response
    place: int | None = None  # in the record, while it runs
    begun: int = 0  # tokens that it had when it was admitted
    pieces: list[Known] = field(default_factory=list)  # of times that it was admitted before

    @property
    def steps(self) -> int:
        """Tokens written since it was admitted."""
        return len(self.response.tokens) - self.begun


class TokenRecord:
    """Random numbers, statistics and states of rows, one place each; C steps are allocated."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.clear()

    def clear(self) -> None:
        """Free everything."""
        device = self.policy.device
        self._free: list[int] = []
        self._most = 0  # no row has written more steps
        self._at = torch.zeros(0, dtype=torch.long, device=device)  # [places] steps written
        self._numbers = torch.zeros((0, _BLOCK), dtype=torch.float64, device=device)
        self._values = torch.zeros((0, _BLOCK, len(COLUMNS)), dtype=torch.float64, device=device)
        self._states = self.policy.embedding.new_zeros((0, _BLOCK, 0))

    def enter(self, rows: Sequence[Row]) -> None:
        """Give places to rows."""
        missing = len(rows) - len(self._free)
        if missing > 0:
            places = len(self._at)
            self._at = _padded(self._at, 0, missing)
            self._numbers = _padded(self._numbers, 0, missing)
            self._values = _padded(self._values, 0, missing)
            self._states = _padded(self._states, 0, missing)
            self._free += range(places, places + missing)
        for row in rows:
            row.place, row.begun = self._free.pop(), len(row.response.tokens)
        places_of = self.places(rows)
        self._at[places_of] = 0
        self._numbers[places_of] = self._draw(rows, 0, self._numbers.shape[1])

    def places(self, rows: Sequence[Row]) -> Tensor:
        """`[B]`."""
        return torch.tensor([row.place for row in rows], device=self.policy.device)

    def numbers(self, rows: Sequence[Row], places: Tensor) -> Tensor:
        """The number `[B]` that each row draws its next token with."""
        steps = self._numbers.shape[1]
        if self._most >= steps:
            self._most = max(row.steps for row in rows)
        if self._most >= steps:
            more = max(1, steps // 4 // _BLOCK) * _BLOCK
            self._numbers = _padded(self._numbers, 1, more)
            self._values = _padded(self._values, 1, more)
            self._states = _padded(self._states, 1, more)
            self._numbers[places, steps:] = self._draw(rows, steps, more)
        return self._numbers[places, self._at[places]]

    def _draw(self, rows: Sequence[Row], first: int, count: int) -> Tensor:
        starts = [row.begun + first for row in rows]
        numbers = uniforms([row.response.request.key for row in rows], starts, count)
        return torch.from_numpy(numbers).to(self.policy.device)

    def write(self, places: Tensor, states: Tensor, values: dict[str, Tensor]) -> None:
        """Note a step of rows: last hidden states `[B, D]` and statistics `[B]` each."""
        if self._states.shape[-1] == 0:
            self._states = states.new_zeros((*self._states.shape[:2], states.shape[-1]))
        at = self._at[places]
        self._states[places, at] = states
        # float64 holds what any of them is, token ids too.
        self._values[places, at] = torch.stack([values[name].double() for name in COLUMNS], -1)
        self._at[places] = at + 1
        self._most += 1

    def leave(self, rows: Sequence[Row]) -> list[Known]:
        """Everything known of the rows' new tokens; their places become free."""
        placed = [row for row in rows if row.place is not None and row.steps]
        if placed:
            longest = max(row.steps for row in placed)
            values = self._values[self.places(placed), :longest].transpose(1, 2).tolist()
            for row, own in zip(placed, values, strict=True):
                by_name = [column[: row.steps] for column in own]
                columns: dict[str, list[Any]] = dict(zip(COLUMNS, by_name, strict=True))
                columns["argmax"] = [int(token) for token in columns["argmax"]]
                # Not a view, which would keep the whole batch alive.
                row.pieces.append((columns, self._states[row.place, : row.steps].clone()))
        for row in rows:
            if row.place is not None:
                self._free.append(row.place)
                row.place, row.begun = None, len(row.response.tokens)
        return [_whole(row.pieces) for row in rows]


def _padded(tensor: Tensor, dim: int, count: int) -> Tensor:
    shape = list(tensor.shape)
    shape[dim] = count
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


def _whole(pieces: Sequence[Known]) -> Known:
    if len(pieces) == 1:
        return pieces[0]
    columns = {name: [value for piece, _ in pieces for value in piece[name]] for name in COLUMNS}
    states = [own for _, own in pieces if own is not None]
    return columns, torch.cat(states) if states else None

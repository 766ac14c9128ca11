"""The reward model's keys and values of responses under way: a token is read once, and then kept.

What was read of a response is a `Past`, which passes through the methods as an opaque field and
comes back with the next request about the same response, or about one that begins like it. Models
whose cache is not plain, or on several devices, keep nothing (`models.prefix.keepable`): they read
every prefix whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nabla_eval.dto.objective import embed_reward
from nabla_eval.engine.cache import Joined, Past, Pasts, rows_of
from nabla_eval.models.pair import Reward
from nabla_eval.models.prefix import keepable, padded, places
from nabla_eval.models.probe import cache_name

Ids = tuple[int, ...]  # as `embed_reward` takes them


@dataclass(frozen=True)
class Reading:
    """What is known of one row of ids."""

    ids: Ids
    kv: Tensor | None  # [layers, 2, H, T, D]; None where nothing is kept, or there are no ids
    new: int  # tokens that were forwarded for it now
    states: Tensor | None  # [new, D] their last hidden states

    @property
    def past(self) -> Past | None:
        """For the next request about the same response."""
        return None if self.kv is None else Past(self.ids, self.kv)


class Reader:
    """Reads rows of ids with the reward model; `pasts` bound what is kept."""

    def __init__(self, reward: Reward, pasts: Pasts) -> None:
        self.reward, self.pasts = reward, pasts
        self.keeps = keepable(reward.base)

    @torch.no_grad()
    def read(
        self,
        rows: Sequence[Ids],
        pasts: Sequence[Any],
        fresh: Sequence[bool],
        wanted: Sequence[bool] | None = None,
    ) -> list[Reading]:
        """Encode of each row what its past does not hold; `fresh` ones their last id in any case.

        One forward pass for all rows, over their new ids alone. Of rows that are not `wanted`, and
        have new ids, no keys and values are made.
        """
        if not self.keeps:
            return [Reading(row, None, 0, None) for row in rows]
        known = [
            self._known(row, past, len(row) - last)
            for row, past, last in zip(rows, pasts, fresh, strict=True)
        ]
        readings = [Reading(row, kv, 0, None) for row, (kv, _) in zip(rows, known, strict=True)]
        open_ = [i for i, row in enumerate(rows) if known[i][1] < len(row)]
        if open_:
            parts = [rows[i][known[i][1] :] for i in open_]
            kept = [wanted is None or wanted[i] for i in open_]
            written = self._forward(parts, [known[i][0] for i in open_], kept)
            for i, part, (kv, states) in zip(open_, parts, written, strict=True):
                readings[i] = Reading(rows[i], kv, len(part), states)
        return readings

    def keep(self, readings: Sequence[Reading]) -> list[Past | None]:
        """Their pasts, within the budget."""
        pasts = [reading.past for reading in readings]
        for past in pasts:
            if past is not None:
                self.pasts.use(past)
        self.pasts.trim()
        return pasts

    def _known(self, row: Ids, past: Past | None, most: int) -> tuple[Tensor | None, int]:
        """Keys and values of the first ids of a row that a past holds, and how many they are."""
        if past is None or past.kv is None:
            return None, 0
        pairs = enumerate(zip(row[:most], past.prompt, strict=False))
        count = next((i for i, (a, b) in pairs if a != b), min(most, len(past.prompt)))
        return (past.of(past.prompt, count), count) if count else (None, 0)

    def _forward(
        self, parts: Sequence[Ids], before: Sequence[Tensor | None], wanted: Sequence[bool]
    ) -> list[tuple[Tensor | None, Tensor]]:
        """Keys and values of each row, its new ids included, and the states of these."""
        ids, mask = padded(parts, self.reward.device)
        width = mask.shape[1]
        cache = None
        lengths = [0 if kv is None else kv.shape[-2] for kv in before]
        if any(lengths):
            cache = Joined.of(filled(before), spare=width)
            columns = torch.arange(cache.width, device=mask.device)
            starts = cache.width - torch.tensor(lengths, device=mask.device)
            mask = torch.cat([(columns >= starts[:, None]).long(), mask], 1)
        name = cache_name(self.reward.base)
        output = self.reward.base(
            inputs_embeds=embed_reward(self.reward, ids),
            attention_mask=mask,
            position_ids=places(mask)[:, -width:],
            **{name: None if cache is None else cache.cache},
            use_cache=True,
        )
        hidden = output.last_hidden_state
        states = [hidden[i, width - len(part) :] for i, part in enumerate(parts)]
        if cache is None:
            found = rows_of(getattr(output, name), [len(part) for part in parts])
            assert found is not None, "`keepable` promises plain layers on one device"
        else:
            cache.advance(width)
            found = [cache.view(i, len(part)) for i, part in enumerate(parts)]
        # Copies: a view would keep the whole batch alive.
        whole = [
            None if not keep else kv.clone() if old is None else torch.cat([old, kv], -2)
            for keep, old, kv in zip(wanted, before, found, strict=True)
        ]
        return list(zip(whole, states, strict=True))


def filled(kvs: Sequence[Tensor | None]) -> list[Tensor]:
    """Keys and values of no tokens where there are none."""
    some = next(kv for kv in kvs if kv is not None)
    return [some[..., :0, :] if kv is None else kv for kv in kvs]

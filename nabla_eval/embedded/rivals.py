"""Other tokens that might stand in a response, scored beside the one that does.

The policy's samples show the reward model few wrong tokens at any one place, and hardly one that
the policy finds unlikely, so its scores of such tokens mean nothing. The exact search labels every
token after a right prefix: some are drawn for each response and step, and all of a response's are
scored in the one pass that scores the response.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

FROM_POLICY = 0.5  # share of rivals drawn from the policy; the others are drawn uniformly


def scores_beside(model: Any, ids: Tensor, place: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [B, L] of the prefixes of ids [B, L], and [B, K] with tokens [B, K] at place [B, K].

    The tokens stand behind a row's ids; each sees what precedes its place, and itself.
    """
    (rows, width), kept = ids.shape, tokens.shape[1]
    column = torch.arange(width)
    sees = torch.zeros(rows, width + kept, width + kept, dtype=torch.bool)
    sees[:, :width, :width] = torch.ones(width, width, dtype=torch.bool).tril()
    sees[:, width:, :width] = column < place[..., None]
    sees[:, width:, width:] = torch.eye(kept, dtype=torch.bool)
    hidden = torch.finfo(model.dtype).min
    mask = torch.zeros(sees.shape, dtype=model.dtype).masked_fill(~sees, hidden)
    scores = model(
        input_ids=torch.cat([ids, tokens], dim=1),
        attention_mask=mask[:, None],
        position_ids=torch.cat([column.expand(rows, -1), place], dim=1),
    ).logits[..., 0]
    return scores[:, :width], scores[:, width:]


class Rivals:
    """Draws rivals, from a stream of its own, with their labels."""

    def __init__(
        self, policy: Any, start: int, known: Tensor, right: Tensor, count: int, seed: int
    ) -> None:
        """`right` [N, T, V] are the right tokens at the places known [N] of each response.

        Responses start at `start` in the ids; `count` rivals are drawn for each.
        """
        self._policy, self._start, self._known, self._right = policy, start, known, right
        self._count = count
        stream = int(np.random.default_rng([seed, 4]).integers(2**62))
        self._generator = torch.Generator().manual_seed(stream)

    def draw(self, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Place in ids, token and label [B, K] of rivals of the rows [B] with these ids [B, L]."""
        shape = (len(rows), self._count)
        free = torch.rand(shape, generator=self._generator)
        place = (free * self._known[rows, None]).long()
        uniform = torch.randint(self._right.shape[-1], shape, generator=self._generator)
        with torch.no_grad():
            logits = self._policy(input_ids=ids, use_cache=False).logits
        here = torch.arange(len(rows))[:, None]
        weights = logits[here, self._start + place - 1].softmax(dim=-1)
        likely = torch.multinomial(weights.flatten(0, 1), 1, generator=self._generator)
        chosen = torch.rand(shape, generator=self._generator) < FROM_POLICY
        tokens = torch.where(chosen, likely.view(shape), uniform)
        return self._start + place, tokens, self._right[rows[:, None], place, tokens].float()

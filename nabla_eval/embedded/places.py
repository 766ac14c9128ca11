"""Places of responses where the next token matters, with the tokens that are right there.

As long as a response is right, the exact search knows every token that may follow: at the first
error, and wherever the policy is unsure, as first-order methods meet it (DESIGN 3.8).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import pad

from nabla_eval.embedded.countdown import Problem
from nabla_eval.embedded.prefix import right_tokens
from nabla_eval.embedded.sampling import padded, token_logits
from nabla_eval.embedded.tokenizer import IDS, PAD_ID, TOKENS, encode_prompt, token_strings
from nabla_eval.errors import DataError

CONFIDENCE: Final = 0.97  # above it the policy is sure of its token (DESIGN 3.8)

Row: TypeAlias = tuple[Problem, list[int]]


@dataclass(frozen=True)
class Places:
    """Places in responses that are right before them; B places, L tokens, V vocabulary."""

    row: Tensor  # [B] index of the response among those that were searched
    ids: Tensor  # [B, L] prompt and response, padded on the right
    place: Tensor  # [B] index in ids of the token in question
    right: Tensor  # [B, V] whether a token there keeps the target reachable
    policy: Tensor  # [B, V] the policy's probabilities there (temperature 1)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> Places:
        """Some places, cut behind the last: causal scores do not see what follows."""
        place = self.place[rows]
        ids = self.ids[rows, : int(place.max()) + 1]
        return Places(self.row[rows], ids, place, self.right[rows], self.policy[rows])


def find_errors(policy: Any, rows: Sequence[Row]) -> Places:
    """The first error of every response that has one.

    Raises `DataError` where none has.
    """
    found = []
    for index, (problem, response) in enumerate(rows):
        tokens = token_strings(response)
        right = right_tokens(problem, tokens)
        place = len(right) - 1
        if tokens[place] not in right[place]:
            found.append((index, place, right[place]))
    return _places(policy, rows, found, "an error")


def find_doubts(policy: Any, rows: Sequence[Row]) -> Places:
    """Every place up to the first error where the policy gives no token more than `CONFIDENCE`.

    Raises `DataError` where there is none.
    """
    found = [
        (index, place, right)
        for index, (problem, response) in enumerate(rows)
        for place, right in enumerate(right_tokens(problem, token_strings(response)))
    ]
    every = _places(policy, rows, found, "a token")
    unsure = torch.nonzero(every.policy.amax(dim=-1) <= CONFIDENCE)[:, 0]
    if not len(unsure):
        raise DataError(
            f"The policy is sure of every token of {len(rows)} responses: there is nothing to "
            "align. Train it for fewer steps, or align at first errors."
        )
    return every[unsure]


def _places(
    policy: Any, rows: Sequence[Row], chosen: Sequence[tuple[int, int, set[str]]], wanted: str
) -> Places:
    """Places from (row, place in the response, right tokens)."""
    if not chosen:
        raise DataError(
            f"None of {len(rows)} responses has {wanted} to align with. Draw more questions."
        )
    needed = sorted({index for index, _, _ in chosen})
    logits = token_logits(policy, [rows[i][0] for i in needed], [rows[i][1] for i in needed])
    values = dict(zip(needed, logits, strict=True))
    prompts = [encode_prompt(rows[index][0]) for index, _, _ in chosen]
    sequences = [[*prompt, *rows[c[0]][1]] for prompt, c in zip(prompts, chosen, strict=True)]
    return Places(
        row=torch.tensor([index for index, _, _ in chosen]),
        ids=padded(sequences),
        place=torch.tensor(
            [len(prompt) + place for prompt, (_, place, _) in zip(prompts, chosen, strict=True)]
        ),
        right=as_mask([right for _, _, right in chosen]),
        policy=torch.stack([values[i][place] for i, place, _ in chosen]).softmax(dim=-1),
    )


def join(parts: Sequence[Places]) -> Places:
    """Several searches' places, one after the other; `row` counts within each search."""
    width = max(part.ids.shape[1] for part in parts)
    ids = [pad(part.ids, (0, width - part.ids.shape[1]), value=PAD_ID) for part in parts]
    return Places(
        row=torch.cat([part.row for part in parts]),
        ids=torch.cat(ids),
        place=torch.cat([part.place for part in parts]),
        right=torch.cat([part.right for part in parts]),
        policy=torch.cat([part.policy for part in parts]),
    )


def as_mask(sets: Sequence[set[str]]) -> Tensor:
    """Sets of tokens as rows [len(sets), V] of booleans."""
    mask = torch.zeros(len(sets), len(TOKENS), dtype=torch.bool)
    for row, tokens in zip(mask, sets, strict=True):
        row[[IDS[token] for token in tokens]] = True
    return mask

"""Alignment of two vocabularies by token string (DESIGN 6).

The gradient with respect to a one-hot token needs the reward model's embedding of every token of
the *policy*. Sizes say nothing (tables are padded differently inside one family), so strings are
compared: the same string is the same token, whatever its ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from nabla_eval.errors import ConfigError, VocabularyError

Mode = Literal["align", "same", "force"]

# Relatives know all but a few special tokens of each other (Qwen2.5 and Qwen3: 100 and 99.997 %).
# Strangers reach 72-85 % all the same (Qwen and Llama 3 grew from one base vocabulary), but split
# text differently: numbers, for one. Nothing real lies between, so the exact limit hardly matters.
LEAST_OVERLAP = 0.99


@dataclass(frozen=True)
class Overlap:
    """How two vocabularies compare. Counts are tokens; padded ids without a string do not count."""

    policy: int
    reward: int
    moved: int  # in both, under different ids
    missing: int  # the policy's that the reward model lacks
    first_moved: tuple[tuple[str, int, int], ...] = ()  # string, policy id, reward id
    first_missing: tuple[tuple[str, int], ...] = ()  # string, policy id

    @property
    def shared(self) -> int:
        """Return how many policy tokens the reward model has too."""
        return self.policy - self.missing

    @property
    def share(self) -> float:
        """Return the share of the policy's tokens that the reward model has too."""
        return self.shared / self.policy if self.policy else 0.0

    @property
    def kind(self) -> Literal["shared", "aligned", "foreign"]:
        """Same ids for all that is shared; alignable by string; or too different."""
        if self.share < LEAST_OVERLAP:
            return "foreign"
        return "aligned" if self.moved else "shared"

    def describe(self) -> str:
        """Return one sentence with the numbers and the first differences."""
        parts = [f"the reward model has {self.shared} of the policy's {self.policy} tokens"]
        if self.missing:
            token, index = self.first_missing[0]
            parts.append(f"lacks {self.missing} (first: {token!r} {index})")
        if self.moved:
            token, index, other = self.first_moved[0]
            parts.append(f"has {self.moved} under another id (first: {token!r} {index} vs {other})")
        return f"{', '.join(parts)}; overlap {percent(self.share)}"


def percent(share: float) -> str:
    """Return a percentage that says 100 % only when it is all."""
    return "100 %" if share == 1 else f"{min(100 * share, 99.999):.{3 if share > 0.99 else 1}f} %"


def compare(policy: Mapping[str, int], reward: Mapping[str, int], examples: int = 5) -> Overlap:
    """Compare two vocabularies, each string -> id."""
    if policy.items() <= reward.items():  # the usual case, without a walk over the vocabulary
        return Overlap(policy=len(policy), reward=len(reward), moved=0, missing=0)
    by_id = sorted(policy.items(), key=lambda item: item[1])
    missing = [(token, i) for token, i in by_id if token not in reward]
    moved = [(token, i, reward[token]) for token, i in by_id if reward.get(token, i) != i]
    return Overlap(
        policy=len(policy),
        reward=len(reward),
        moved=len(moved),
        missing=len(missing),
        first_moved=tuple(moved[:examples]),
        first_missing=tuple(missing[:examples]),
    )


def check_overlap(overlap: Overlap, mode: Mode = "align") -> None:
    """Raise `VocabularyError` where the vocabularies cannot work together under `mode`."""
    if mode not in get_args(Mode):
        raise ConfigError(f"vocab={mode!r} is not one of {', '.join(get_args(Mode))}. Try align.")
    if mode == "same" and (overlap.moved or overlap.missing):
        raise VocabularyError(
            f"vocab=same asks for one vocabulary, but {overlap.describe()}. "
            "Use a reward model with the policy's tokenizer, or vocab=align."
        )
    if overlap.shared == 0 or (mode == "align" and overlap.kind == "foreign"):
        forced = ", or vocab=force to give unknown tokens probability 0" if overlap.shared else ""
        raise VocabularyError(
            f"The vocabularies are too different: {overlap.describe()}, and "
            f"{percent(LEAST_OVERLAP)} is needed. Use a reward model of the policy's family (Qwen "
            f"with Qwen, Llama with Llama){forced}."
        )


def align(
    table: Tensor,
    policy: Mapping[str, int],
    reward: Mapping[str, int],
    rows: int,
    mode: Mode = "align",
) -> tuple[Tensor, Tensor | None]:
    """Re-index the reward model's table `[own vocabulary, D]` by the policy's ids.

    Returns the embedding `[rows, D]`, and which of its rows are known `[rows]`, None for all.
    Tokens the reward model lacks, and padded ids without a string, get zero rows and False.
    Where the ids agree the embedding is a view of `table`: no memory. Its unknown rows, which no
    string of the reward model leads to, are then zeroed in place.

    `mode`: "align" needs 99 % of the policy's tokens, "same" needs all of them under the same ids,
    "force" takes any overlap. Raises `VocabularyError` with the numbers.
    """
    overlap = compare(policy, reward)
    check_overlap(overlap, mode)
    ids = [-1] * rows  # the reward model's id of every policy id
    for token, index in policy.items():
        other = reward.get(token, -1)
        if index < rows and other < table.shape[0]:
            ids[index] = other
    unknown = [index for index, other in enumerate(ids) if other < 0]
    aligned = not overlap.moved and table.shape[0] >= rows
    in_place = aligned and set(unknown).isdisjoint(reward.values())
    with torch.no_grad():
        wanted = torch.tensor(ids, device=table.device).clamp_(min=0)
        embedding = table[:rows] if in_place else table[wanted]
        embedding[unknown] = 0
    known = torch.ones(rows, dtype=torch.bool, device=table.device)
    known[unknown] = False
    return embedding, known if unknown else None

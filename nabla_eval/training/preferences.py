"""Pairs of a better and a worse response, as tokens of the reward model, with where they part."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nabla_eval.errors import DataError
from nabla_eval.models.chat import Framer, encode
from nabla_eval.structure import UNREADABLE
from nabla_eval.training.data import DataFacts, fingerprint, rank

KEYS: Final = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class Preference:
    """One line of the file."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Parted:
    """A pair as token ids; up to `place` both are the same."""

    preference: Preference
    chosen_ids: tuple[int, ...]  # the reward model's whole input
    rejected_ids: tuple[int, ...]
    place: int  # index of the first token in which they differ
    prefix: tuple[int, ...]  # the response's tokens before it

    @property
    def right(self) -> int:
        """The chosen token where they part."""
        return self.chosen_ids[self.place]


def read(path: Path) -> list[Preference]:
    """Preferences of a JSON Lines file. Raises `DataError` with the line."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {path}: {error}. Give a JSON Lines file in UTF-8.") from error
    return list(_lines(path, text))


def _lines(path: Path, text: str) -> Iterator[Preference]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            found = {name: row.get(name) for name in KEYS} if isinstance(row, dict) else {}
            texts = [value for value in found.values() if isinstance(value, str) and value]
            if len(texts) != len(KEYS):
                raise ValueError(f"has no text under each of {', '.join(KEYS)}")
        except UNREADABLE as error:
            raise DataError(
                f"{path}, line {number}: {error}. Every line is an object such as "
                '{"prompt": "1+1=?", "chosen": "1+1=2", "rejected": "1+1=3"}.'
            ) from None
        yield Preference(*texts)


def part(preference: Preference, tokenizer: Any, framer: Framer) -> Parted | None:
    """The pair as the reward model reads it, or None where both are the same tokens."""
    frame = framer([{"role": "user", "content": preference.prompt}])
    chosen, rejected = (
        (*encode(tokenizer, text), *frame.after)
        for text in (preference.chosen, preference.rejected)
    )
    pairs = enumerate(zip(chosen, rejected, strict=False))
    place = next((index for index, (one, other) in pairs if one != other), None)
    if place is None:  # equal, or one is the beginning of the other: no token is right
        return None
    return Parted(
        preference=preference,
        chosen_ids=(*frame.before, *chosen),
        rejected_ids=(*frame.before, *rejected),
        place=len(frame.before) + place,
        prefix=chosen[:place],
    )


def select(
    name: str,
    preferences: Sequence[Preference],
    convert: Callable[[Preference], Parted | None],
    *,
    seed: int,
    size: int | None,
    limit: int,
) -> tuple[list[Parted], DataFacts]:
    """The first `size` usable pairs in the order that the seed gives them; None takes all.

    Raises `DataError` where none, or fewer than `size`, are left.
    """
    distinct = {json.dumps([p.prompt, p.chosen, p.rejected]): p for p in preferences}
    chosen: dict[str, Parted] = {}
    unusable = too_long = 0
    for identity in rank(distinct, seed):
        if len(chosen) == size:
            break
        pair = convert(distinct[identity])
        if pair is None:
            unusable += 1
        elif max(len(pair.chosen_ids), len(pair.rejected_ids)) > limit:
            too_long += 1
        else:
            chosen[identity] = pair
    facts = DataFacts(
        name=name,
        seed=seed,
        problems=len(chosen),
        fingerprint=fingerprint(chosen),
        read=len(preferences),
        duplicates=len(preferences) - len(distinct),
        held_out=0,
        evaluated=0,
        unusable=unusable,
        too_long=too_long,
    )
    if not chosen or (size is not None and len(chosen) < size):
        wanted = "some" if size is None else f"{size:,}"
        raise DataError(
            f"{name} leaves {len(chosen):,} pairs, and {wanted} are asked for: of "
            f"{facts['read']:,}, {facts['duplicates']:,} are duplicates, {unusable:,} do not "
            f"differ in a token and {too_long:,} have over {limit:,} tokens. Ask for fewer "
            "(--size), allow more tokens (--max-length), or give more data."
        )
    return list(chosen.values()), facts

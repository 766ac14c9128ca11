"""Which problems are trained on: none that is evaluated, none twice, a seeded part of the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.randomness import Key
from nabla_eval.training.reward import Verifier
from nabla_eval.training.sources import Example, Rows, open_rows

Need = Literal["solution", "answer"]


class DataFacts(TypedDict):
    """A training record's facts about its data."""

    name: str
    seed: int
    problems: int  # trained on
    fingerprint: str  # hash of the chosen problems, in their order
    read: int  # rows that belong to the data set or subset
    duplicates: int  # spellings of a problem that was there already
    held_out: int  # of the embedded task's validation and test split
    evaluated: int  # found in an evaluation set that was given
    unusable: int  # without what the method needs, among those that were looked at
    too_long: int  # among those that were looked at


@dataclass(frozen=True)
class DataSelection:
    """The chosen examples, in an order that does not depend on that of the rows, and the facts."""

    examples: tuple[Example, ...]
    facts: DataFacts


def select(
    rows: Rows,
    verifier: Verifier,
    *,
    need: Need,
    seed: int = 0,
    size: int | None = None,
    evaluated: frozenset[str] = frozenset(),
    fits: Callable[[Example], bool] = lambda example: True,
) -> DataSelection:
    """The first `size` usable problems in the order that the seed gives them; None takes all.

    The place of a problem is a hash of (seed, its identity) and of nothing else: neither the order
    of the rows nor duplicates change the choice, and a smaller one is the beginning of a larger.
    `evaluated` holds identities that must not be trained on. Raises `DataError` for rows without a
    problem, and where fewer than `size` are left.
    """
    size = rows.size if size is None else size
    tally = {"read": 0, "duplicates": 0, "held_out": 0, "evaluated": 0}
    found: dict[str, int] = {}
    for index, problem in rows.problems():
        identity = _identity(rows, index, problem, verifier)
        tally["read"] += 1
        if not verifier.trainable(problem):
            tally["held_out"] += 1
        elif identity in evaluated:
            tally["evaluated"] += 1
        elif identity in found:
            tally["duplicates"] += 1
        else:
            found[identity] = index
    chosen: dict[str, Example] = {}
    unusable = too_long = 0
    for identity in rank(found, seed):
        if len(chosen) == size:
            break
        example = rows.example(found[identity])
        if getattr(example, need) is None:
            unusable += 1
        elif not fits(example):
            too_long += 1
        else:
            chosen[identity] = example
    facts = DataFacts(
        name=rows.name,
        seed=seed,
        problems=len(chosen),
        fingerprint=fingerprint(chosen),
        unusable=unusable,
        too_long=too_long,
        **tally,  # type: ignore[typeddict-item]
    )
    _check(facts, need, size)
    return DataSelection(tuple(chosen.values()), facts)


def rank(identities: Iterable[str], seed: int) -> list[str]:
    """Identities in a random order that is a function of the seed and of each identity alone."""
    key = Key.root(seed) / "subsample"
    return sorted(identities, key=lambda identity: (key / identity).digest)


def fingerprint(identities: Iterable[str]) -> str:
    """Short hash of problems in their order."""
    text = "\n".join(identities)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def identities(names: Iterable[str], verifier: Verifier, split: str = "test") -> frozenset[str]:
    """Identities of every problem of some evaluation sets (files or hub ids)."""
    found: set[str] = set()
    for name in names:
        rows = open_rows(name, split=split)
        found.update(_identity(rows, index, text, verifier) for index, text in rows.problems())
    return frozenset(found)


def _identity(rows: Rows, index: int, problem: str, verifier: Verifier) -> str:
    try:
        return verifier.identity(problem)
    except DataError as error:
        raise DataError(f"{rows.name}, row {index + 1}: {error}") from None


def _check(facts: DataFacts, need: Need, size: int | None) -> None:
    if facts["problems"] and (size is None or facts["problems"] == size):
        return
    left = {name: facts[name] for name in ("duplicates", "held_out", "evaluated")}
    wanted = "at least 1" if size is None else f"{size:,}"
    raise DataError(
        f"{facts['name']} leaves {facts['problems']:,} problems to train on, and {wanted} are "
        f"asked for: of {facts['read']:,}, {left['held_out']:,} are held out, "
        f"{left['evaluated']:,} are evaluated, {left['duplicates']:,} are duplicates, "
        f"{facts['unusable']:,} have no {need} and {facts['too_long']:,} are too long. "
        "Ask for fewer (--size), allow more tokens, or give more data."
    )

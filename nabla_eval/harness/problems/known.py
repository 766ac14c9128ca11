"""Is a copy of a problem set right? Its count, and the hashes of the copy that was tested."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypedDict

from nabla_eval.harness.problems import store
from nabla_eval.harness.problems.store import Copy, Item, answering, wording

Verdict = Literal["ok", "other wording", "wrong"]


class KnownSet(TypedDict):
    """Hashes of the copy of a set that nabla_eval was tested with."""

    hash: str  # of all its items in order
    rows: dict[str, str]  # hash of each problem's wording -> hash of its answer


@dataclass(frozen=True)
class Findings:
    """The faults of a copy, a sentence each, and mere differences."""

    faults: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        if self.faults:
            return "wrong"
        return "other wording" if self.notes else "ok"


@cache
def reference_copies() -> Mapping[str, KnownSet]:
    """Return hashes by name of the set; the package holds no problems and no answers."""
    text = files("nabla_eval.harness.problems").joinpath("known.json").read_text("utf-8")
    entries: dict[str, KnownSet] = json.loads(text)
    return entries


def examine(copy: Copy) -> Findings:
    """Compare a copy with its set's count and with the tested copy.

    Copies word and order problems differently, so an answer is compared with that of the problem
    of the same wording; answers to the rest must be those that are left, in any order.
    """
    faults, notes = [], []
    if len(copy.items) != copy.expected:
        faults.append(f"{len(copy.items)} items instead of {copy.expected}")
    if again := store.repeated(copy.items):
        faults.append(f"problems that stand there twice: {_named(again)}")
    tested = reference_copies().get(copy.problems.name)
    if tested is not None and copy.hash != tested["hash"]:
        wrong, reworded, missing = _against(copy, tested)
        if wrong:
            faults.append(f"answers other than the known ones: {_named(wrong)}")
        if missing:
            faults.append(f"{missing} known problems, or their answers, are not there")
        if reworded:
            notes.append(f"problems worded otherwise than in the tested copy: {_named(reworded)}")
    return Findings(tuple(faults), tuple(notes))


def _against(copy: Copy, tested: KnownSet) -> tuple[list[str], list[str], int]:
    """Return the ids of wrong answers, of other wordings, and how many known items are missing."""
    left = dict(tested["rows"])
    whole = len(left) >= copy.expected  # else nothing can be said about some of the items
    wrong, unknown, reworded = [], [], []
    for one in copy.items:
        answer = left.pop(wording(one), None)
        if answer is None:
            unknown.append(one)
        elif answer != answering(one):
            wrong.append(one["id"])
    unmatched = Counter(left.values())
    for one in unknown:
        if unmatched[answering(one)] > 0:
            unmatched[answering(one)] -= 1
            reworded.append(one["id"])
        elif whole:
            wrong.append(one["id"])
    return wrong, reworded, 0 if whole else unmatched.total()


def _named(ids: Sequence[str], most: int = 8) -> str:
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


def fingerprint(items: Sequence[Item]) -> KnownSet:
    """Return what `known.json` holds of a copy; `tests/harness/test_problems.py` compares it."""
    return {
        "hash": store.items_hash(items),
        "rows": {wording(one): answering(one) for one in items},
    }

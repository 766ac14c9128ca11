"""Which responses of a problem are right: graded once, and kept beside the traces.

The task scores the answer alone. Its first draft and its candidates are graded here by the task's
own rules, and `.grades.jsonl` beside the shards keeps what came out: `trace list` of a large run
would spend most of its time on it. A kept grade counts as long as its trace line, the task's item
and score and the rules are what they were. The file may be removed; where it cannot be written,
grades are found again each time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import msgspec

from nabla_eval.thought import answered
from nabla_eval.traces.schema import document

FILE = ".grades.jsonl"
HELD = 500  # grades that are found before they are written


class Graded(NamedTuple):
    """One response: whether it is right, and what it answers; None where nobody knows."""

    right: bool | None = None
    answer: str | None = None  # where `right` is known: None without an answer


class Grades(NamedTuple):
    """The first draft and the answer of a problem, and its candidates where they were asked for."""

    first: Graded = Graded()
    final: Graded = Graded()
    judged: tuple[Graded, ...] | None = None

    @property
    def right(self) -> tuple[bool | None, bool | None]:
        """Whether the first draft and the answer are right."""
        return self.first.right, self.final.right


# lm-eval's doc and target with the grader's name, and a response -> its grade
Judge: TypeAlias = Callable[[Mapping[str, Any], str], Graded]


def graded(
    entry: Mapping[str, Any],
    scores: Mapping[str, Sequence[float]],
    items: Mapping[str, Mapping[str, Any]],
    judge: Judge | None,
    candidates: Sequence[str] | None = None,
) -> Grades:
    """Grade the first draft and the answer of a shortened record, and the texts of candidates.

    `scores` and `items` are the task's, by problem (task/document). The task's own score of the
    answer counts, where there is one: a mean over several answers to a problem says nothing of one
    of them. Where `judge` contradicts it, what it says of other responses is not known to be the
    task's opinion, and is left out.
    """
    problem = document(entry["id"])
    known, item = set(scores.get(problem, ())), items.get(problem)
    seen: dict[str, Graded] = {}

    def grade(text: str) -> Graded:
        if judge is None or item is None:
            return Graded()
        if text not in seen:
            seen[text] = judge(item, answered(entry["prompt"], text))
        return seen[text]

    final = grade(entry["outcome"]["text"])
    if known in ({0.0}, {1.0}):
        contradicted = final.right is not None and final.right != (known == {1.0})
        final = Graded(known == {1.0}, None if contradicted else final.answer)
        if contradicted:
            judge = None
    first = final if entry["first"] is None else grade(entry["first"])
    judged = None if candidates is None else tuple(map(grade, candidates))
    return Grades(first, final, judged)


class KeptGrades:
    """The grades of a run's records, in the file that keeps them; a context manager.

    `rules` names the rules by which responses are graded now.
    """

    def __init__(self, folder: Path, rules: str) -> None:
        self._path, self._rules = folder / FILE, rules
        self._known = dict(_stored(self._path))
        self._new: list[bytes] = []

    def __enter__(self) -> KeptGrades:
        return self

    def __exit__(self, *_: object) -> None:
        self._write()

    def get(
        self,
        entry: Mapping[str, Any],
        scores: Mapping[str, Sequence[float]],
        items: Mapping[str, Mapping[str, Any]],
        judge: Judge | None,
        candidates: Sequence[str] | None = None,
    ) -> Grades:
        """Return what `graded` says, from the file where it is known."""
        key = self._key(entry, scores, items)
        found = None if key is None else self._known.get(key)
        if found is None or (candidates is not None and found.judged is None):
            found = graded(entry, scores, items, judge, candidates)
            if key is not None and judge is not None:
                self._known[key] = found
                self._new.append(json.dumps([key, found]).encode() + b"\n")
                if len(self._new) >= HELD:
                    self._write()
        return found

    def _key(
        self,
        entry: Mapping[str, Any],
        scores: Mapping[str, Sequence[float]],
        items: Mapping[str, Mapping[str, Any]],
    ) -> str | None:
        """Name everything that the grades of a record depend on; None where it has no checksum."""
        place = entry.get("place")
        if place is None or place[1].check is None:
            return None
        problem = document(entry["id"])
        asked = [self._rules, entry["id"], place[1].check, scores.get(problem), items.get(problem)]
        text = json.dumps(asked, default=str)
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def _write(self) -> None:
        lines, self._new = self._new, []
        try:
            if lines:
                with self._path.open("ab", buffering=0) as file:
                    file.write(b"".join(lines))  # at once: others may append to it too
        except OSError:  # a folder that may only be read
            pass


def _stored(path: Path) -> list[tuple[str, Grades]]:
    """Return the lines of the file that are whole; later ones know more."""
    decoder, found = msgspec.json.Decoder(tuple[str, Grades]), []
    try:
        with path.open("rb") as lines:
            for line in lines:
                try:
                    found.append(decoder.decode(line))
                except msgspec.DecodeError:  # torn, or of another version
                    continue
    except OSError:
        return []
    return found

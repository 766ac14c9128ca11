"""Problems with their answers: read from rows of any source, checked, and told apart by hashes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.harness.problems.sets import Hub, ProblemSet

_INTEGER = re.compile(r"[-−]?[0-9]{1,1000}(?:\.0+)?")


class Item(TypedDict):
    """One problem, as the JSONL files store it and as lm-eval's tasks see it."""

    id: str
    problem: str
    answer: str
    source: str


def item(
    problems: ProblemSet, row: Mapping[str, Any], place: str, columns: Hub | None = None
) -> Item:
    """An item of a row; its columns are called as in the files, or as a hub data set calls them.

    Integer answers get one spelling: 25 for "025", "25.0" and 25.0, 70000 for "70,000". GSM8K's are
    taken out of its worked solutions. Raises `DataError` that names the row by its `place`.
    """
    names = ("id", "problem", "answer") if columns is None else _columns(columns)
    id_, problem, answer = (row.get(name) for name in names)
    if not isinstance(problem, str) or not problem.strip():
        raise DataError(
            f"{place} has no text under {names[1]!r}: it holds {_keys(row)}. Each row needs a "
            "problem and its answer."
        )
    if not isinstance(answer, str | int | float) or isinstance(answer, bool) or answer == "":
        raise DataError(
            f"{place} has no answer under {names[2]!r} but {answer!r}. Each row needs a problem "
            "and its answer."
        )
    text = str(answer).rpartition("####")[2].strip()
    return {
        "id": str(id_) if id_ is not None else place.rpartition(" ")[2],
        "problem": problem,
        "answer": _integer(text, place, problems) if problems.integers else text,
        "source": str(row.get("source", columns or "")),
    }


def _columns(hub: Hub) -> tuple[str, str, str]:
    return hub.id, hub.problem, hub.answer


def _integer(text: str, place: str, problems: ProblemSet) -> str:
    plain = text.replace(",", "").replace("$", "")
    if not _INTEGER.fullmatch(plain):
        raise DataError(
            f"{place} has the answer {text[:80]!r}, and every answer of {problems.title} is an "
            "integer. Mend the row, or fetch it anew."
        )
    return str(int(plain.partition(".")[0].replace("−", "-")))


def _keys(row: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, row)) or "nothing"


def items_hash(items: Iterable[Item]) -> str:
    """16 hex digits that name these problems with these answers in this order; ids do not count."""
    digest = hashlib.sha256()
    for one in items:
        digest.update(json.dumps([one["problem"], one["answer"]]).encode() + b"\n")
    return digest.hexdigest()[:16]


def wording(one: Item) -> str:
    """8 hex digits of a problem's letters and digits: copies differ in spaces and in markup."""
    return _short(re.sub(r"[^0-9a-z]", "", one["problem"].lower()))


def answering(one: Item) -> str:
    """8 hex digits of an answer without its spaces."""
    return _short("".join(one["answer"].split()))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def repeated(items: Sequence[Item]) -> list[str]:
    """Ids of items whose problem stands before them already."""
    seen: set[str] = set()
    again = []
    for one in items:
        key = "".join(one["problem"].split())
        if key in seen:
            again.append(one["id"])
        seen.add(key)
    return again

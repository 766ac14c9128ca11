"""The records of an analysis, cut down, so that a run takes a few kilobytes of memory a problem.

Numbers are kept, and of texts the prompt and the answer. Token ids are kept as their number; the
texts of drafts and candidates, the moves of a search and what is recorded token by token stay on
disk, where `whole` finds them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from nabla_eval.traces.read import fetch, parse, scan
from nabla_eval.traces.schema import Record

_DRAFT = ("stop", "reward")
_CANDIDATE = (
    "index", "sweep", "position", "entropy", "gradient_norm", "old_reward", "new_reward", "verdict",
)  # fmt: skip
_LEFT = ("steps", "choices", "profiles")
_TEXTS = ("prompt", "method", "config_hash")  # that runs on the same problems share
_SAME = ("config", "models", "versions")  # of all records of most runs


def kept(path: str | Path) -> Iterator[Record]:
    """The records of `traces.stream`, each without what analyses do not use."""
    last: dict[str, Any] = {}
    for place, record in scan(path, _shortened):
        for name in _SAME:  # one object serves as long as the value stays the same
            if record[name] == last.get(name):
                record[name] = last[name]
        last = record
        yield cast(Record, {**record, "place": (record["id"], place)})


def whole(record: Record) -> Record:
    """All of a record: read from its shard if it was shortened, else itself."""
    return fetch(*cast(Any, record)["place"]) if "place" in record else record


def light(record: Record) -> Record:
    """Return what `whole` needs: where a record lies, or all of one that was not shortened."""
    known: Mapping[str, Any] = record
    return cast(Record, {n: known[n] for n in ("id", "place")}) if "place" in known else record


def length(part: Mapping[str, Any]) -> int:
    """Tokens of a draft, a candidate or an outcome, shortened or not."""
    return int(part["length"]) if "length" in part else len(part["tokens"])


def _shortened(line: bytes, file: Path, number: int) -> dict[str, Any]:
    record: dict[str, Any] = {**parse(line, file, number)}
    for name in _TEXTS:
        record[name] = sys.intern(record[name])
    outcome: dict[str, Any] = dict(record["outcome"])
    outcome["length"] = len(outcome.pop("tokens"))
    record["outcome"], record["ledger"] = _named(outcome), _named(record["ledger"])
    record["drafts"] = [_part(draft, _DRAFT) for draft in record["drafts"]]
    record["candidates"] = [_part(each, _CANDIDATE) for each in record["candidates"]]
    return {name: value for name, value in record.items() if name not in _LEFT}


def _part(part: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {**{name: part[name] for name in names}, "length": len(part["tokens"])}


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under names that all records share."""
    return {sys.intern(name): value for name, value in values.items()}

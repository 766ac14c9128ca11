"""The index of a shard: a few kilobytes a problem, so that the texts need not be read.

`.trace-rank0.jsonl.index` holds, for each line of the shard, its place and its record cut down.
Of the texts it keeps the prompt, the answer and the first draft; of token ids their number. The
writer of the shard appends to it.

It is trusted as far as it agrees with the shard: each line has a checksum, and names the checksum
of the shard's line, which must stand where it says. What follows is read from the shard itself. So
a lost, torn or outdated index costs time, never an answer.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from nabla_eval.options import fingerprint
from nabla_eval.traces.read import Place, fetch, restore, scan, shards, written
from nabla_eval.traces.schema import FLOAT, TAIL, Record, check_of, complete, loads, seal, sealed
from nabla_eval.validation import regular

VERSION = 1  # of what an index holds; another one is not read
_DRAFT = ("stop", "reward")
_CANDIDATE = (
    "index", "sweep", "position", "entropy", "gradient_norm", "old_reward", "new_reward", "verdict",
)  # fmt: skip
_LEFT = ("steps", "choices", "profiles")
_TEXTS = ("prompt", "method", "config_hash")  # that runs on the same problems share
_SAME = ("config", "models", "versions")  # of all records of most runs
_LISTED = ("question", "first", "moves", "stats")  # what lists and resumed runs alone use


def path_of(file: Path) -> Path:
    """Return the path of a shard's index."""
    return file.with_name(f".{file.name}.index")


def entries(path: str | Path, *, growing: bool = False) -> Iterator[Record]:
    """Yield the records of `traces.stream`, shortened, each with its `place`.

    Errors and warnings are those of `stream`, for the lines that no index vouches for.
    """
    last: dict[str, Any] = {}
    for file in shards(path):
        end = Place(file)
        for end, entry, _ in _trusted(file):
            yield _placed(entry, end, last)
        for place, record in scan(file, end, growing=growing):
            yield _placed(shortened(record), place, last)


def kept(path: str | Path) -> Iterator[Record]:
    """Yield the `entries` without what analyses do not use, so that a run fits into memory."""
    for entry in entries(path):
        yield cast(Record, {n: value for n, value in entry.items() if n not in _LISTED})


def done(path: str | Path, *, growing: bool = False) -> Mapping[str, Record]:
    """Finished problems of a trace by id (the last record of each); empty where there is no trace.

    `growing` as in `stream`: ranks of one run look for what earlier runs have left in all shards.

    Before an item is taken from here, `unlike` must find no difference.
    """
    there = entries(path, growing=growing) if written(path) else ()
    return Stored(cast(Any, entry)["place"] for entry in there)


class Stored(Mapping[str, Record]):
    """Finished problems of a trace by id; each is read from its shard when it is asked for."""

    def __init__(self, places: Iterable[tuple[str, Place]]) -> None:
        self._places = dict(places)

    def __getitem__(self, name: str) -> Record:
        return fetch(name, self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def whole(record: Record) -> Record:
    """Return all of a record: read from its shard if it was shortened, else itself."""
    return fetch(*cast(Any, record)["place"]) if "place" in record else record


def light(record: Record) -> Record:
    """Return what `whole` needs: where a record lies, or all of one that was not shortened."""
    known: Mapping[str, Any] = record
    return cast(Record, {n: known[n] for n in ("id", "place")}) if "place" in known else record


def length(part: Mapping[str, Any]) -> int:
    """Return the number of tokens of a draft, a candidate or an outcome, shortened or not."""
    return int(part["length"]) if "length" in part else len(part["tokens"])


def shortened(record: Record) -> dict[str, Any]:
    """Return what an index keeps of a record."""
    drafts, outcome = record["drafts"], record["outcome"]
    same = not drafts or drafts[0]["text"] == outcome["text"]
    found = {name: value for name, value in record.items() if name not in _LEFT}
    return found | {
        "outcome": _part(outcome, tuple(name for name in outcome if name != "tokens")),
        "drafts": [_part(draft, _DRAFT) for draft in drafts],
        "candidates": [_part(each, _CANDIDATE) for each in record["candidates"]],
        "first": None if same else drafts[0]["text"],  # where the answer is another one
        "revised": bool(drafts) and drafts[0]["tokens"] != outcome["tokens"],
        "moves": len(record.get("steps", ())),
        "stats": restore(record).stats(),
    }


def _part(part: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {**{name: part[name] for name in names}, "length": len(part["tokens"])}


def _placed(entry: dict[str, Any], place: Place, last: dict[str, Any]) -> Record:
    """Return an entry with its place, which shares its options and texts with the one before."""
    for name in _TEXTS:
        entry[name] = sys.intern(entry[name])
    for name in _SAME:  # one object serves as long as the value stays the same
        if entry[name] != last.get(name):
            last[name] = entry[name]
        entry[name] = last[name]
    entry["place"] = (entry["id"], place)
    return cast(Record, entry)


def _trusted(file: Path) -> Iterator[tuple[Place, dict[str, Any], int]]:
    """Yield what the index says of each line of a shard as long as both agree.

    That is the line's place, its shortened record, and where its entry ends in the index.
    """
    place, end = Place(file), 0
    try:
        lines = regular(path_of(file)).open("rb")
    except OSError:  # there is none, or none that can be read
        return
    with lines, file.open("rb", buffering=0) as shard:
        for line in lines:
            entry = _entry(line)
            if entry is None:
                return
            before, place = place, Place(file, place.number + 1, *entry.pop("line"))
            shard.seek(max(0, place.end - TAIL))
            tail = shard.read(TAIL)
            if place.start != before.end or not tail.endswith(b"\n"):
                return
            if check_of(tail) != place.check:
                return
            end += len(line)
            yield place, entry, end


def _entry(line: bytes) -> dict[str, Any] | None:
    """Return what a line of an index says; None for a damaged one, or one of another version."""
    entry = _decoded(line) if sealed(line) else {}
    if entry.pop("index", None) != VERSION:
        return None
    del entry["check"]
    options = complete(entry["method"], entry["config"], entry["config_hash"])
    if options is not entry["config"]:
        entry |= {"config": options, "config_hash": fingerprint(options)}
    return entry


def _decoded(line: bytes) -> Any:
    """Return what a line says, quickly unless it holds infinities or half characters."""
    try:
        return loads(line) if FLOAT.encode() in line else msgspec.json.decode(line)
    except msgspec.DecodeError:
        return loads(line)


class IndexWriter:
    """The index of a shard that is being written.

    Raises `DataError` where the shard is damaged before its last line.
    """

    def __init__(self, file: Path) -> None:
        known, size = Place(file), 0
        for place, _, end in _trusted(file):
            known, size = place, end
        self.end = known.end  # of the shard's last whole line
        self._file = path_of(file).open("ab", buffering=0)
        try:
            self._file.truncate(size)
            for place, record in scan(file, known, growing=True):
                self.add(record, place)
                self.end = place.end
        except BaseException:
            self._file.close()
            raise

    def add(self, record: Record, place: Place) -> None:
        """Append the entry of a line, once it stands in the shard.

        A line of before there were checksums has none: it and what follows is always read itself.
        """
        if place.check is not None:
            line = [place.start, place.length, place.check]
            self._file.write(seal({"index": VERSION, "line": line, **shortened(record)}))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

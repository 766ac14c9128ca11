"""Read traces back line by line: records, what of a run is done, and the outcomes it came to."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import DataError
from nabla_eval.options import fingerprint, flatten
from nabla_eval.outcome import Candidate, Choice, Draft, Outcome, Step
from nabla_eval.protocol import Problem
from nabla_eval.traces.schema import (
    READABLE,
    LedgerRecord,
    Record,
    complete,
    identifier,
    problem_hash,
    unseal,
)
from nabla_eval.validation import mismatch

T = TypeVar("T")
LARGEST = 1e100  # of a ledger's counts, whose squares and sums must be finite


class Place(NamedTuple):
    """Where a record lies: the bytes of its line in a shard."""

    file: Path
    number: int  # of the line, from 1
    start: int
    length: int


class Stored(Mapping[str, Record]):
    """Finished problems of a trace by id; each is read from its shard when it is asked for."""

    def __init__(self, found: Iterable[tuple[str, Place]]) -> None:
        self._places = dict(found)

    def __getitem__(self, name: str) -> Record:
        return fetch(name, self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def stream(path: str | Path, *, growing: bool = False) -> Iterator[Record]:
    """Records of a trace file, or of every `trace-rank*.jsonl` of a folder, one by one.

    They come in file order. A torn last line, which a killed run leaves behind, is dropped with a
    warning; without one where files are `growing`, written by other processes at the moment. Raises
    `DataError` for a missing file, a damaged line before the last one, or another schema.
    """
    return (record for _, record in scan(path, parse, growing=growing))


def read(path: str | Path, *, growing: bool = False) -> list[Record]:
    """The records of `stream` as a list, for runs that fit into memory."""
    return list(stream(path, growing=growing))


def places(path: str | Path, *, growing: bool = False) -> Iterator[tuple[str, Place]]:
    """Id and place of every record, in file order; see `stream` for errors and warnings.

    A line with a checksum is not parsed: that it is what was written is enough.
    """
    return ((name, place) for place, name in scan(path, _identifier, growing=growing))


def done(path: str | Path, *, growing: bool = False) -> Mapping[str, Record]:
    """Finished problems of a trace by id (the last record of each); empty where there is no trace.

    `growing` as in `stream`: ranks of one run look for what earlier runs have left in all shards.

    Before an item is taken from here, `unlike` must find no difference.
    """
    path = Path(path)
    if not os.path.exists(path) or (path.is_dir() and not _shards(path)):
        return Stored(())
    return Stored(places(path, growing=growing))


def fetch(name: str, place: Place) -> Record:
    """The record of an id from its place.

    Raises `DataError` where the line there is no longer this record's, or is damaged.
    """
    file, number, start, length = place
    try:
        with file.open("rb") as shard:
            shard.seek(start)
            record = parse(shard.read(length), file, number)
    except (OSError, ValueError) as error:
        raise _damaged(file, number, error) from error
    if record["id"] != name:
        raise DataError(f"{file} was changed while it was read. Give the same command again.")
    return record


def unlike(
    record: Record,
    problem: Problem,
    method: str,
    config: Any,
    models: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return in words how a record differs from what is asked: `n: 8 there, 4 here`, or "".

    Compared are the problem, the method and its options, the seed and the models.
    """
    options = flatten(config)
    there = {"method": record["method"], **record["config"], **_named(record["models"])}
    here = {"method": method, **options, **_named(models or {})}
    found = [
        f"{name}: {there.get(name, 'not set')} there, {here.get(name, 'not set')} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
    if not found and record["config_hash"] != fingerprint(options):
        found.append("the options")  # of a type that JSON does not tell apart
    if record["id"] != problem.id or record["problem_hash"] != problem_hash(problem):
        found.append("the problem: its prompt, reward frame, length limit or stop strings")
    if record["key"] != problem.key.digest.hex():
        found.append("the seed")
    return found


def _named(models: Mapping[str, Any]) -> dict[str, Any]:
    return {f"models' {name}": value for name, value in models.items()}


def restore(record: Record) -> Outcome:
    """The outcome that a record was made from."""
    known = {field.name for field in dataclasses.fields(Ledger)}
    ledger = {name: value for name, value in record["ledger"].items() if name in known}
    values: dict[str, Any] = dict(record["outcome"])
    return Outcome(
        **{**values, "tokens": tuple(values["tokens"])},
        drafts=tuple(_make(Draft, draft) for draft in record["drafts"]),
        candidates=tuple(_make(Candidate, candidate) for candidate in record["candidates"]),
        steps=tuple(_make(Step, step) for step in record.get("steps", [])),
        choices=tuple(_make(Choice, choice) for choice in record.get("choices", [])),
        ledger=Ledger(**ledger),  # type: ignore[arg-type]
    )


def _make(kind: type[T], stored: Mapping[str, Any]) -> T:
    """A flat dataclass from its JSON, ignoring what the record adds to it."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    values = {name: stored[name] for name in names if name in stored}
    return kind(**{n: tuple(v) if isinstance(v, list) else v for n, v in values.items()})


def scan(
    path: str | Path, look: Callable[[bytes, Path, int], T], *, growing: bool = False
) -> Iterator[tuple[Place, T]]:
    """Place of each record and what `look(line, file, number)` sees in it; see `stream`."""
    for file in _files(Path(path)):
        end = 0
        with file.open("rb") as shard:
            size = os.fstat(shard.fileno()).st_size  # others may append to it meanwhile
            for place, seen in _lines(shard, file, size, look):
                end = place.start + place.length
                yield place, seen
        if not growing and end < size:
            warnings.warn(
                f"{file}: the last line is torn and was dropped; its problem counts as not done.",
                stacklevel=2,
            )


def intact(file: Path) -> int:
    """Offset in bytes where the torn last line of a file starts; without one, the file's size.

    Raises `DataError` as `stream` does.
    """
    end = 0
    with file.open("rb") as shard:
        size = os.fstat(shard.fileno()).st_size
        for place, _ in _lines(shard, file, size, _identifier):
            end = place.start + place.length
    return end


def _lines(
    shard: IO[bytes], file: Path, size: int, look: Callable[[bytes, Path, int], T]
) -> Iterator[tuple[Place, T]]:
    """The lines of one shard, up to a torn last one.

    A last line is torn when it does not end with a newline or is not JSON.
    """
    start = 0
    for number, line in enumerate(shard, start=1):
        last = start + len(line) >= size
        try:
            seen = look(line, file, number)
        except ValueError as error:
            if last and not isinstance(error, DataError):
                return
            raise _damaged(file, number, error) from error
        if last and not line.endswith(b"\n"):
            return
        yield Place(file, number, start, len(line)), seen
        if last:
            return
        start += len(line)


def _identifier(line: bytes, file: Path, number: int) -> str:
    """The id of a record, without parsing the rest of a line that its checksum vouches for."""
    found = identifier(line)
    return parse(line, file, number)["id"] if found is None else found


def parse(line: bytes, file: Path, number: int) -> Record:
    """The record in one line of a trace.

    Raises `DataError` for what is none that this version reads, ValueError for what is not JSON.
    """
    record = unseal(line)
    if not isinstance(record, dict) or "schema" not in record:
        raise DataError(
            f"{file}:{number} is not a trace record: it has no schema. "
            "Point to a trace-rank*.jsonl that nabla_eval wrote with trace_dir=."
        )
    if record["schema"] not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise DataError(
            f"{file}:{number} has schema {record['schema']!r}; this version reads {known}. "
            "Read it with the version of nabla_eval that wrote it, or run again."
        )
    ledger = record.get("ledger")
    wrong = mismatch(record, Record, "the record") or mismatch(ledger, LedgerRecord, "its ledger")
    if wrong:
        raise DataError(f"{file}:{number}: {wrong}. Run again.")
    if wrong := _impossible(record):
        raise DataError(f"{file}:{number}: {wrong}. Run again.")
    complete(record)
    return record  # type: ignore[return-value]


def _impossible(record: Mapping[str, Any]) -> str:
    """Return what is of the right type in a record and cannot be all the same; "" where nothing
    is.
    """
    for name in LedgerRecord.__annotations__:
        count = record["ledger"][name]
        unknown = name == "flops" and count == math.inf
        if count < 0 or (count > LARGEST and not unknown):
            return f"{name} of the ledger is {count}"
    for name, profile in record.get("profiles", {}).items():
        texts, entropies = len(profile["tokens"]), len(profile["entropy"])
        if texts != entropies:
            return f"the profile of {name} has {texts} tokens and {entropies} entropies"
    return ""


def _damaged(file: Path, number: int, error: Exception) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(
        f"{file}:{number} is damaged ({error}). Remove the line to run its problem again."
    )


def _files(path: Path) -> list[Path]:
    files = _shards(path) if os.path.isdir(path) else [path]
    if not files or not os.path.exists(path):
        raise DataError(f"No trace at {path}. Give a folder that was a run's trace_dir=.")
    for file in files:
        if not os.path.isfile(file):
            raise DataError(f"{file} is not a regular file. Remove it, or give another folder.")
    return files


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("trace-rank*.jsonl"), key=lambda file: (len(file.name), file.name))

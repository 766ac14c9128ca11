"""Read traces back line by line: records, the finished problems of a run, and their outcomes."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import msgspec

from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import DataError
from nabla_eval.options import fingerprint
from nabla_eval.outcome import Outcome
from nabla_eval.traces.schema import (
    COUNTS,
    READABLE,
    Record,
    as_record,
    complete,
    decode,
    identifier,
    unseal,
)
from nabla_eval.validation import in_words, shown

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


def restore(stored: Mapping[str, Any]) -> Outcome:
    """Return the outcome that a record was made from."""
    record = as_record(stored)
    known = {field.name for field in dataclasses.fields(Ledger)}
    ledger: dict[str, Any] = {k: v for k, v in record.ledger.items() if k in known}
    return Outcome(
        **record.outcome,
        drafts=record.drafts,
        candidates=record.candidates,
        steps=record.steps,
        choices=record.choices,
        ledger=Ledger(**ledger),
    )


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
    """Return the record in one line of a trace.

    Raises `DataError` for what is none that this version reads, ValueError for what is not JSON.
    """
    try:
        record = decode(line)
    except ValueError:
        record = _looked_at(line, file, number)
    if wrong := _impossible(record):
        raise DataError(f"{file}:{number}: {wrong}. Run again.")
    options = complete(record.method, record.config, record.config_hash)
    if options is record.config:
        return record
    return dataclasses.replace(record, config=options, config_hash=fingerprint(options))


def _looked_at(line: bytes, file: Path, number: int) -> Record:
    """Return the record in a line by Python's own JSON; says what is wrong where there is none."""
    stored = unseal(line)
    if not isinstance(stored, dict) or "schema" not in stored:
        raise DataError(
            f"{file}:{number} is not a trace record: it has no schema. "
            "Point to a trace-rank*.jsonl that nabla_eval wrote with trace_dir=."
        )
    if stored["schema"] not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise DataError(
            f"{file}:{number} has schema {shown(stored['schema'])}; this version reads {known}. "
            "Read it with the version of nabla_eval that wrote it, or run again."
        )
    try:
        return as_record(stored)
    except msgspec.ValidationError as error:
        wrong = in_words(error, "the record", stored)
    except (RecursionError, SystemError):  # SystemError: huge integers, until msgspec 0.22
        wrong = "the record is too deep, or holds a huge integer"
    raise DataError(f"{file}:{number}: {wrong}. Run again.")


def _impossible(record: Record) -> str:
    """Say what is of the right type in a record and cannot be all the same; "" for nothing."""
    if absent := [name for name in COUNTS if name not in record.ledger]:
        return f"the record's ledger lacks {', '.join(absent)}"
    for name in COUNTS:
        count = record.ledger[name]
        unknown = name == "flops" and count == math.inf
        if not 0 <= count <= LARGEST and not unknown:
            return f"{name} of the ledger is {shown(count)}"
    for name, profile in record.profiles.items():
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

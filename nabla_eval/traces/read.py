"""Read traces back line by line: records, and the outcomes that they were made from."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

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
    check_of,
    complete,
    decode,
    unseal,
)
from nabla_eval.validation import in_words, shown

LARGEST = 1e100  # of a ledger's counts, whose squares and sums must be finite


class Place(NamedTuple):
    """Where a record lies: the bytes of its line in a shard."""

    file: Path
    number: int = 0  # of the line, from 1
    start: int = 0
    length: int = 0
    check: str | None = None  # the checksum that ends the line; older lines have none

    @property
    def end(self) -> int:
        """Where the next line starts."""
        return self.start + self.length


def stream(path: str | Path, *, growing: bool = False) -> Iterator[Record]:
    """Records of a trace file, or of every `trace-rank*.jsonl` of a folder, one by one.

    They come in file order. A torn last line, which a killed run leaves behind, is dropped with a
    warning; without one where files are `growing`, written by other processes at the moment. Raises
    `DataError` for a missing file, a damaged line before the last one, or another schema.
    """
    for file in shards(path):
        for _, record in scan(file, Place(file), growing=growing):
            yield record


def read(path: str | Path, *, growing: bool = False) -> list[Record]:
    """The records of `stream` as a list, for runs that fit into memory."""
    return list(stream(path, growing=growing))


def fetch(name: str, place: Place) -> Record:
    """The record of an id from its place.

    Raises `DataError` where the line there is no longer this record's, or is damaged.
    """
    try:
        with place.file.open("rb") as shard:
            shard.seek(place.start)
            record = parse(shard.read(place.length), place.file, place.number)
    except (OSError, ValueError) as error:
        raise _damaged(place.file, place.number, error) from error
    if record["id"] != name:
        raise DataError(f"{place.file} was changed while it was read. Give the same command again.")
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


def scan(file: Path, after: Place, *, growing: bool = False) -> Iterator[tuple[Place, Record]]:
    """Yield place and record of the lines of a shard that follow a place; see `stream`.

    A last line is torn when it does not end with a newline or is not JSON.
    """
    place = after
    with file.open("rb") as shard:
        size = os.fstat(shard.fileno()).st_size  # others may append to it meanwhile
        shard.seek(place.end)
        while place.end < size:
            line = shard.readline()
            last = place.end + len(line) >= size
            here = Place(file, place.number + 1, place.end, len(line), check_of(line))
            try:
                record = parse(line, file, here.number)
            except ValueError as error:
                if not last or isinstance(error, DataError):
                    raise _damaged(file, here.number, error) from error
                break
            if not line.endswith(b"\n"):
                break
            place = here
            yield place, record
    if not growing and place.end < size:
        warnings.warn(
            f"{file}: the last line is torn and was dropped; its problem counts as not done.",
            stacklevel=2,
        )


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


def written(path: str | Path) -> bool:
    """Return whether there is a trace at a path."""
    path = Path(path)
    return bool(_shards(path)) if os.path.isdir(path) else os.path.exists(path)


def shards(path: str | Path) -> list[Path]:
    """Return a trace file, or those of a folder in the order of ranks.

    Raises `DataError` where there are none, or what is there is no file.
    """
    path = Path(path)
    if not written(path):
        raise DataError(f"No trace at {path}. Give a folder that was a run's trace_dir=.")
    files = _shards(path) if os.path.isdir(path) else [path]
    for file in files:
        if not os.path.isfile(file):
            raise DataError(f"{file} is not a regular file. Remove it, or give another folder.")
    return files


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("trace-rank*.jsonl"), key=lambda file: (len(file.name), file.name))

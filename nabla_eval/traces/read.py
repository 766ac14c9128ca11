"""Read traces back: whole runs, what of a run is done, and the outcomes it came to."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from nabla_eval.config import fingerprint, flatten
from nabla_eval.cost.ledger import Ledger
from nabla_eval.errors import DataError
from nabla_eval.requests import Candidate, Choice, Draft, Outcome, Problem, Step
from nabla_eval.traces.schema import READABLE, Record, complete, problem_hash, unseal

T = TypeVar("T")


def read(path: str | Path, *, growing: bool = False) -> list[Record]:
    """Records of a trace file, or of every `trace-rank*.jsonl` of a folder, in file order.

    A torn last line, which a killed run leaves behind, is dropped with a warning; without one
    where files are `growing`, written by other processes at the moment. Raises `DataError` for a
    missing file, a damaged line before the last one, or another schema.
    """
    records: list[Record] = []
    for file in _files(Path(path)):
        found, end = intact(file)
        if not growing and end < file.stat().st_size:
            warnings.warn(
                f"{file}: the last line is torn and was dropped; its problem counts as not done.",
                stacklevel=2,
            )
        records += found
    return records


def done(path: str | Path, *, growing: bool = False) -> dict[str, Record]:
    """Finished problems of a trace by id (the last record of each); empty where there is no trace.

    `growing` as in `read`: ranks of one run look for what earlier runs have left in all shards.

    Before an item is taken from here, `unlike` must find no difference.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not _shards(path)):
        return {}
    return {record["id"]: record for record in read(path, growing=growing)}


def unlike(
    record: Record,
    problem: Problem,
    method: str,
    config: Any,
    models: Mapping[str, Any] | None = None,
) -> list[str]:
    """What a record answers otherwise than asked, in words: `n: 8 there, 4 here`; empty if nothing.

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
    ledger = {k: v for k, v in record["ledger"].items() if k != "model_calls"}
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


def intact(file: Path) -> tuple[list[Record], int]:
    """Records of one file, and the offset in bytes where its torn last line starts, if any.

    Without a torn line the offset is the size of the file. A last line is torn when it does not
    end with a newline or is not JSON.
    """
    records: list[Record] = []
    end = 0
    content = file.read_bytes()
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        last = end + len(line) == len(content)
        try:
            record = _parse(line, file, number)
        except ValueError as error:
            if last and not isinstance(error, DataError):
                break
            raise _damaged(file, number, error) from error
        if last and not line.endswith(b"\n"):
            break
        records.append(record)
        end += len(line)
    return records, end


def _parse(line: bytes, file: Path, number: int) -> Record:
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
    missing = Record.__required_keys__ - record.keys()
    if missing:
        raise DataError(f"{file}:{number} lacks {', '.join(sorted(missing))}. Run again.")
    complete(record)
    return record  # type: ignore[return-value]


def _damaged(file: Path, number: int, error: ValueError) -> DataError:
    if isinstance(error, DataError):
        return error
    return DataError(
        f"{file}:{number} is damaged ({error}). Remove the line to run its problem again."
    )


def _files(path: Path) -> list[Path]:
    files = _shards(path) if path.is_dir() else [path]
    if not files or not path.exists():
        raise DataError(f"No trace at {path}. Give a folder that was a run's trace_dir=.")
    return files


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("trace-rank*.jsonl"), key=lambda file: (len(file.name), file.name))

"""Build trace lines and append them to a file, one system call per problem."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import os
import platform
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import fields, replace
from io import FileIO
from pathlib import Path
from typing import Any

import nabla_eval
from nabla_eval.errors import DataError
from nabla_eval.options import fingerprint, flatten
from nabla_eval.outcome import Answer, Candidate, Outcome
from nabla_eval.protocol import Problem
from nabla_eval.traces.index import IndexWriter
from nabla_eval.traces.lock import sole_writer
from nabla_eval.traces.observe import Observed
from nabla_eval.traces.read import Place
from nabla_eval.traces.schema import Record, check_of, problem_hash, seal

CONTEXT_TOKENS = 32  # kept before a revised token: enough to read, and it does not grow with L
SYNC_SECONDS = 5.0  # between calls of fsync, which costs milliseconds on a disk that is shared
_LIBRARIES = ("torch", "transformers", "lm_eval")


def trace_path(folder: str | Path, rank: int = 0) -> Path:
    """The file that one rank of a run writes: ranks never share a file."""
    return Path(folder) / f"trace-rank{rank}.jsonl"


class TraceWriter:
    """Append records to a trace file; a context manager, and the file's only writer.

    A line is handed over in one system call and reaches the disk within `SYNC_SECONDS`: of a
    killed process at most the last line is torn, of a machine that loses power at most the last
    seconds' lines are missing. Opening a trace removes such a torn line, so that the next record
    starts on a line of its own; a line that no longer fits on the disk is taken back. The shard's
    index is written beside it, and brought up to date when the trace is opened.

    Raises `DataError` where the file cannot be written, is no trace that this version reads, or has
    another writer.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: FileIO | None = None
        self._index: IndexWriter | None = None
        self._locked = ExitStack()
        self._synced = 0.0

    def __enter__(self) -> TraceWriter:
        try:
            self._locked.enter_context(sole_writer(self.path.parent, self.path.name))
            self._file = self.path.open("ab", buffering=0)
            self._index = self._locked.enter_context(closing(IndexWriter(self.path)))
            if (end := self._index.end) < self._file.tell():
                warnings.warn(f"Removing the torn last line of {self.path}.", stacklevel=2)
                self._file.truncate(end)
            self._synced = time.monotonic()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise _unwritable(self.path, error) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, record: Record) -> None:
        """Append one record and hand it to the operating system before returning."""
        if self._file is None or self._index is None:
            raise DataError(f"Trace {self.path} is not open. Use it as `with TraceWriter(...)`.")
        line = seal(record)
        place = Place(self.path, 0, self._file.tell(), len(line), check_of(line))
        try:
            if (written := self._file.write(line)) != len(line):
                self._file.truncate(place.start)
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes fitted")
            self._index.add(record, place)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                _sync(self._file)
                self._synced = time.monotonic()
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file, all lines on disk; harmless when it is closed already."""
        file, self._file = self._file, None
        with self._locked:
            if file is not None:
                with file:
                    _sync(file)


def _sync(file: FileIO) -> None:
    try:
        os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.EINVAL:  # of what is no file on a disk
            raise


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"Cannot write the trace {path}: {error.strerror or error}. What was answered before is in "
        "it: the same command goes on from there once there is room. Free some space, or copy the "
        "folder to another disk and name it as trace_dir."
    )


def record(
    problem: Problem,
    method: str,
    config: Any,
    outcome: Outcome,
    seconds: float,
    token_text: Callable[[int], str],
    decode: Callable[[Sequence[int]], str],
    models: Mapping[str, Any] | None = None,
    observed: Observed | None = None,
) -> Record:
    """One trace line: everything that was asked, decided and spent on one problem.

    `config` is the method's (nested) options dataclass; `token_text` and `decode` turn one token
    and several into text, with special tokens visible; `models` names policy and reward model;
    `observed` holds the numbers of single tokens.
    """
    options = flatten(config)
    answer = Answer(**{each.name: getattr(outcome, each.name) for each in fields(Answer)})
    return Record(
        id=problem.id,
        problem_hash=problem_hash(problem),
        key=problem.key.digest.hex(),
        prompt=problem.text,
        question=problem.question if problem.question != problem.text else "",
        method=method,
        config=options,
        config_hash=fingerprint(options),
        models=dict(models or {}),
        drafts=outcome.drafts,
        candidates=tuple(_with_texts(each, token_text, decode) for each in outcome.candidates),
        steps=outcome.steps,
        outcome=answer,
        ledger=outcome.ledger.as_dict(),
        seconds=seconds,
        versions=dict(versions()),
        choices=tuple(
            replace(
                choice, old_text=token_text(choice.old_token), new_text=token_text(choice.new_token)
            )
            for choice in outcome.choices
        ),
        profiles={} if observed is None else observed.profiles(outcome, token_text),
    )


def _with_texts(
    candidate: Candidate,
    token_text: Callable[[int], str],
    decode: Callable[[Sequence[int]], str],
) -> Candidate:
    start = max(0, candidate.position - CONTEXT_TOKENS)
    return replace(
        candidate,
        old_text=token_text(candidate.old_token),
        new_text=token_text(candidate.new_token),
        context=decode(candidate.tokens[start : candidate.position]),
    )


@functools.cache
def versions() -> Mapping[str, str | None]:
    """Versions of what produced a record; None for a library that is not installed."""
    found: dict[str, str | None] = {
        "nabla_eval": nabla_eval.__version__,
        "python": platform.python_version(),
    }
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found

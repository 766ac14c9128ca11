"""Folders of problems: one JSONL file a set, and a manifest of what was fetched into it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.harness.problems.items import Item, answering, item, items_hash, wording
from nabla_eval.harness.problems.sets import ProblemSet
from nabla_eval.validation import UNREADABLE, mismatch, text_of

VARIABLE = "NABLA_DATA"
MANIFEST = "nabla_data.json"


class Entry(TypedDict):
    """The manifest's entry about one file."""

    file: str
    items: int
    hash: str
    dataset: str
    rows: list[str]  # wording and answer of each item, in order: says which of them changed


@dataclass(frozen=True)
class Copy:
    """The items of one set, and where they came from."""

    problems: ProblemSet
    items: tuple[Item, ...]
    source: str  # a file or a hub data set
    expected: int

    @property
    def part(self) -> bool:
        """Return whether it is meant to hold only the first of the set's items."""
        return self.expected < self.problems.items

    @property
    def hash(self) -> str:
        return items_hash(self.items)


def find(folder: Path, problems: ProblemSet) -> Path | None:
    """The file of a folder that holds the set or, failing that, a part of it."""
    return next((folder / name for name in problems.files if os.path.isfile(folder / name)), None)


def read(folder: Path, problems: ProblemSet) -> Copy:
    """The set's items out of a folder, all of them.

    Raises `DataError` where the folder or its file is missing or torn, or has another number of
    items than the set.
    """
    file = find(folder, problems)
    if file is None:
        raise DataError(_absent(folder, problems))
    items = tuple(
        item(problems, row, f"{file}, row {number}") for number, row in enumerate(_rows(file), 1)
    )
    return Copy(problems, items, str(file), problems.files[file.name])


def counted(copy: Copy) -> Copy:
    """The same copy. Raises `DataError` where it has another number of items than the set."""
    if len(copy.items) != copy.expected:
        raise DataError(
            f"{copy.source} has {len(copy.items)} items, and {copy.problems.title} has "
            f"{copy.expected}. Fetch it anew (nabla-eval data fetch DIR)."
        )
    return copy


def _absent(folder: Path, problems: ProblemSet) -> str:
    advice = (
        f"Fetch it where there is a network (nabla-eval data fetch DIR --only {problems.name}), or "
        f"unset {VARIABLE} and data_dir to take it from the hub."
    )
    if not os.path.isdir(folder):
        return f"The folder of problems {folder} does not exist. Check {VARIABLE}. {advice}"
    held = ", ".join(sorted(file.name for file in folder.glob("*.jsonl"))) or "no *.jsonl file"
    return f"{folder} has no {problems.file} ({problems.title}): it holds {held}. {advice}"


def _rows(file: Path) -> Iterator[Any]:
    try:
        lines = text_of(file).split("\n")  # splitlines() also splits at U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}. Fetch it anew.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except UNREADABLE as error:
            raise DataError(
                f"{file}, row {number} is no JSON ({error}): {line[:60]!r}. Fetch it anew."
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{file}, row {number} is no object but {line[:60]!r}. Fetch it anew.")
        yield row


def write(folder: Path, copy: Copy) -> Path:
    """Store a copy as the folder's file of its set and in its manifest, each atomically."""
    file = folder / copy.problems.file
    lines = [json.dumps(one, ensure_ascii=False) for one in copy.items]
    _replace(file, "\n".join(lines) + "\n")
    entry: Entry = {
        "file": file.name,
        "items": len(copy.items),
        "hash": copy.hash,
        "dataset": copy.source,
        "rows": row_hashes(copy.items),
    }
    entries = {**manifest(folder), copy.problems.name: entry}
    _replace(folder / MANIFEST, json.dumps(entries, indent=1) + "\n")
    return file


def row_hashes(items: Sequence[Item]) -> list[str]:
    """One hash an item, as the manifest keeps them."""
    return [wording(one) + answering(one) for one in items]


def manifest(folder: Path) -> dict[str, Entry]:
    """Return what was fetched into a folder, by name of set; nothing for one that was filled
    otherwise.
    """
    file = folder / MANIFEST
    if not os.path.isfile(file):
        return {}
    try:
        entries = json.loads(text_of(file))
        wrong = mismatch(entries, dict[str, Entry])
    except UNREADABLE as error:
        entries, wrong = {}, str(error)
    if wrong:
        raise DataError(
            f"{file} is no manifest of nabla-eval data fetch ({wrong}). Remove it, or fetch anew."
        )
    return dict(entries)


def _replace(file: Path, text: str) -> None:
    """Write a file so that a reader, or a run that is killed, sees the old or the new one whole."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)  # mkstemp's files are for their owner's eyes only
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error}. Choose another folder.") from error

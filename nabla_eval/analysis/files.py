"""lm-eval's own files in a run folder: results, and samples line by line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.validation import UNREADABLE, mismatch, regular, text_of

_TEXTS = ("arguments", "resps", "filtered_resps")  # traces have them, and they are long


class _Nabla(TypedDict, total=False):
    seed: int | None
    preset: str | None


class _Config(TypedDict, total=False):
    nabla: _Nabla | None


class Facts(TypedDict, total=False):
    """What is read of `run.json`, and of lm-eval's results."""

    status: str
    seed: int | None
    preset: str | None
    seconds: float | None
    continued: int
    config: _Config | None
    results: dict[str, Any] | None
    configs: dict[str, Any] | None


class _Item(TypedDict):
    doc_id: int | str


class Sample(_Item, total=False):
    """What is read of a line of a samples file, beside the values of its metrics."""

    filter: str
    metrics: list[str]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises `DataError` where it is torn, or none that has these facts."""
    try:
        content = json.loads(text_of(path))
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read ({error}). Run again, or remove it.") from error
    if wrong := mismatch(content, Facts):
        raise DataError(f"{path}: {wrong}. Run again, or remove it.")
    assert isinstance(content, dict)
    return content


def read_samples(file: Path) -> list[dict[str, Any]]:
    """The lines of lm-eval's samples file, without the texts of requests and responses.

    Raises `DataError` for a damaged or repeated one.
    """
    samples = []
    seen = set()
    for number, line in _lines(file):
        try:
            sample = json.loads(line)
            wrong = mismatch(sample, Sample)
        except UNREADABLE as error:
            sample, wrong = {}, str(error)
        if wrong:
            raise DataError(
                f"{file}:{number} is damaged ({wrong}). Evaluate again: trace_dir= keeps the "
                "answers, so it takes seconds."
            )
        item = (sample["doc_id"], sample.setdefault("filter", "none"))
        if item in seen:
            raise DataError(f"{file}:{number} repeats document {item[0]}. Evaluate again.")
        seen.add(item)
        samples.append({name: value for name, value in sample.items() if name not in _TEXTS})
    if not samples:
        raise DataError(f"{file} is empty. Evaluate again.")
    return samples


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank."""
    try:
        with regular(file).open(encoding="utf-8") as lines:
            yield from ((i, line) for i, line in enumerate(lines, start=1) if line.strip())
    except UNREADABLE as error:
        raise DataError(f"{file} cannot be read ({error}). Evaluate again.") from error

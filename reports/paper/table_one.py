"""The rows of the paper's main table: printed cells, our figures, and the command of each row."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.reporting.tables import Column, Table, text
from nabla_eval.reporting.text import MISSING, number
from nabla_eval.validation import UNREADABLE, mismatch, text_of


class _Run(TypedDict):
    run: str
    method: str
    accuracy: float
    se: float
    model_calls: float


class _Accuracy(TypedDict):
    runs: list[_Run]


class _Share(TypedDict):
    value: float
    se: float


class _Gap(TypedDict):
    value: float
    low: float
    high: float


class _TrainedName(TypedDict):
    name: str
    accuracy: _Share


class _Trained(_TrainedName, total=False):
    against: dict[str, _Gap]


class _Study(TypedDict, total=False):
    """What is read of a study's report.json, or of training's."""

    accuracy: _Accuracy
    rows: list[_Trained]


@dataclass(frozen=True)
class MethodRow:
    """One row of the main table."""

    row: str
    printed: dict[str, str]  # policy and benchmark -> as printed
    embedded: str  # our figures, in words
    study: str  # which study they are from
    command: str


def row_tables(printed: Mapping[str, Any], folder: Path) -> list[Table]:
    """The table and its commands; empty where the file names no rows.

    Raises `DataError` for a study that is there and lacks what the file names in it.
    """
    studies = {name: _read(folder / path) for name, path in (printed.get("studies") or {}).items()}
    rows = [_row(printed, row, studies) for row in printed.get("rows") or ()]
    names = list(dict.fromkeys(name for row in rows for name in row.printed))
    columns = [
        text("Row", lambda row: row.row),
        *(_cell(name) for name in names),
        text("Embedded", lambda row: row.embedded),
        text("Study", lambda row: row.study or MISSING),
    ]
    commands = [
        text("Row", lambda row: row.row),
        text("Command", lambda row: row.command),
    ]
    return [
        Table("rows", "The paper's rows, and ours on the embedded task", columns, rows, NOTES),
        Table("commands", "One command per row", commands, rows),
    ]


NOTES = (
    "Per cent. Printed: another policy on another problem set, so levels are not to be compared "
    "across columns; orders within a column are. Embedded: greedy or searched accuracy ± se on "
    "held-out Countdown problems, with the mean model calls of a problem, read from the study's "
    "committed figures. SFT and GRPO stand beside the policy that each began with: the difference "
    "is what they did, with a 95 % interval, paired by problem.",
)


def _cell(name: str) -> Column:
    return Column(name, lambda row: row.printed.get(name, MISSING), str)


def _read(file: Path) -> dict[str, Any] | None:
    """A study's figures; None where it was not run."""
    if not file.is_file():
        return None
    try:
        packed = file.suffix == ".gz"
        content = json.loads(gzip.decompress(file.read_bytes()) if packed else text_of(file))
    except UNREADABLE as error:
        raise DataError(f"{file} cannot be read: {error}. Run that study again.") from error
    if wrong := mismatch(content, _Study):
        raise DataError(f"{file}: {wrong}. Run that study again.")
    assert isinstance(content, dict)
    return content


def _row(
    printed: Mapping[str, Any], row: Mapping[str, Any], studies: Mapping[str, Any]
) -> MethodRow:
    cells = {
        f"{block['policy']} {block['benchmark']}": block["cells"][row["row"]]
        for block in printed["accuracy"]
        if row["row"] in block["cells"]
    }
    study = row.get("study", "")
    if study and study not in studies:
        raise DataError(
            f"Row {row['row']}: {study!r} is not among the file's studies. Add it there."
        )
    if not study:
        embedded = f"not run: {row['unless']}" if "unless" in row else MISSING
    elif studies[study] is None:
        embedded = "not run yet"
    else:
        found = list(_figures(studies[study], row))
        if not found:
            raise DataError(
                f"Row {row['row']}: no run of {study} is {row.get('run', row.get('method'))!r}. "
                "Its runs are named in its report.json."
            )
        embedded = "; ".join(found)
    command = row.get("training") or f"{printed.get('command', '')}{row.get('options', '')}"
    return MethodRow(row["row"], cells, embedded, study, command)


def _figures(study: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy of a run by its name, or of every run of a method with their names."""
    for found in study.get("rows", ()):  # of training
        if found["name"] == row.get("run"):
            yield _trained(found)
    for found in study.get("accuracy", {}).get("runs", ()):
        figures = (
            f"{number(100 * found['accuracy'])} ± {number(100 * found['se'])} "
            f"at {number(found['model_calls'], 0)} calls"
        )
        if found["run"] == row.get("run"):
            yield figures
        elif "method" in row and found["method"] == row["method"]:
            yield f"{found['run']}: {figures}"


def _trained(found: Mapping[str, Any]) -> str:
    accuracy = found["accuracy"]
    words = f"{number(100 * accuracy['value'])} ± {number(100 * accuracy['se'])}"
    for control, gap in found.get("against", {}).items():
        value, low, high = (100 * gap[name] for name in ("value", "low", "high"))
        words += f", {value:+.1f} [{low:+.1f}, {high:+.1f}] against {control}"
    return words

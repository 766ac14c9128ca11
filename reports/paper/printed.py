"""Reads printed.yaml, the paper's printed figures, strictly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import yaml

from nabla_eval.errors import DataError
from nabla_eval.validation import UNREADABLE, mismatch, text_of

LARGEST = 50_000  # answers of a benchmark; GRIM looks at each number of right ones
MOST_RUNS = 64


class Source(TypedDict):
    what: str
    where: str


class Size(TypedDict):
    """Problems x runs, and sizes of other copies of the set."""

    problems: int
    runs: int


class Block(TypedDict):
    """Accuracies of one policy on one benchmark, by method, as printed."""

    policy: str
    benchmark: str
    source: str
    cells: dict[str, Any]


class Rate(TypedDict):
    policy: str
    source: str
    ours: str


class Rejection(TypedDict):
    n: int
    rows: list[Rate]


class Quoted(TypedDict):
    what: str
    printed: str
    source: str


class _RowNames(TypedDict):
    row: str


class Row(_RowNames, total=False):
    """A row of the main table: its command, and where our figures of it are."""

    options: str
    training: str
    study: str
    run: str
    method: str
    unless: str


class _Needed(TypedDict):
    paper: str
    sources: dict[str, Source]
    benchmarks: dict[str, Size]
    accuracy: list[Block]


class Printed(_Needed, total=False):
    """The whole file."""

    ours: str
    notes: list[str]  # sentences that the page begins with
    rejection: Rejection | None
    quoted: list[Quoted] | None
    studies: dict[str, str] | None
    command: str
    rows: list[Row] | None


class Also(TypedDict, total=False):
    """What a benchmark or a row may say beside what it must."""

    also: list[list[int]]
    baseline: str | None


def read_printed(file: str | Path) -> dict[str, Any]:
    """The YAML or JSON file of printed figures. Raises `DataError` for what cannot be used."""
    file = Path(file)
    try:
        content = yaml.safe_load(text_of(file))
    except (*UNREADABLE, yaml.YAMLError) as error:
        raise DataError(f"{file} cannot be read: {error}. It is YAML or JSON.") from error
    wrong = mismatch(content, Printed) or _inside(content)
    if wrong:
        raise DataError(f"{file}: {wrong}. See reports/paper/printed.yaml.")
    for block in content["accuracy"]:
        _check_block(file, content, block)
    assert isinstance(content, dict)
    return content


def _inside(content: Mapping[str, Any]) -> str | None:
    """What types alone do not say."""
    for name, size in content["benchmarks"].items():
        place = f"benchmarks.{name}"
        if wrong := mismatch(size, Also, place):
            return wrong
        for counts in ([size["problems"], size["runs"]], *size.get("also", ())):
            if len(counts) != 2 or min(counts) < 1:
                return f"{place} has {counts} where it takes problems and runs, each at least 1"
            if counts[1] > MOST_RUNS or counts[0] * counts[1] > LARGEST:
                return f"{place} has {counts}: over {MOST_RUNS} runs or {LARGEST:,} answers"
    section = content.get("rejection") or {"n": 2, "rows": []}
    if not 2 <= section["n"] <= 1_000_000:
        return f"rejection.n is {section['n']} and not an integer from 2 to 1,000,000"
    kinds: list[tuple[str, Any]] = [("rejection.rows", row) for row in section["rows"]]
    return next((bad for place, row in kinds if (bad := mismatch(row, Also, place))), None)


def _check_block(file: Path, content: Mapping[str, Any], block: Mapping[str, Any]) -> None:
    for kind, known in (("benchmark", "benchmarks"), ("source", "sources")):
        if block[kind] not in content[known]:
            raise DataError(
                f"{file}: {kind} {block[kind]!r} is not among its {known}. Add it there, or mend "
                "the name."
            )
    for method, value in block["cells"].items():
        if not isinstance(value, str):
            raise DataError(
                f"{file}: {method} of {block['policy']} on {block['benchmark']} is {value!r}. "
                "Write it in quotes, as printed, so that its decimals are kept."
            )

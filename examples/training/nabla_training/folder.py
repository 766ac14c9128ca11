"""The output folder of one training run: who may write there, where it stands, what it holds."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from nabla_eval.errors import DataError
from nabla_eval.validation import UNREADABLE, mismatch, text_of
from nabla_training.data import DataFacts

OPTIONS = "options.json"
RECORD = "training.json"
CHECKPOINTS = "checkpoints"
ADAPTER = "adapter"
LOG = "log.txt"  # what libraries print; it may be there before the run is
ELSE = "Choose another --output."


class TrainRecord(TypedDict):
    """training.json: everything that the weights beside it depend on, and how training went."""

    schema: int
    method: str  # "sft" or "grpo"
    options: dict[str, Any]  # as in options.json
    data: DataFacts
    learning_rate: float
    parameters: dict[str, int]  # total and trained
    steps: int
    resumed_from: int | None  # optimiser step of the checkpoint
    seconds: float  # of this process
    first: dict[str, float]  # means over the first and last tenth of the steps
    last: dict[str, float]
    history: list[dict[str, float]]
    threads: int
    device: str
    dtype: str
    versions: dict[str, str]


def claim(folder: Path, options: Mapping[str, Any], *, resume: bool) -> Path | None:
    """Make the folder this run's own; return the checkpoint to go on from, if there is one.

    Raises `DataError` where the folder holds a finished run, another run, or one that was not
    asked to be resumed.
    """
    if os.path.exists(folder / RECORD):
        raise DataError(f"{folder} holds a finished training run. {ELSE}")
    stored = _stored(folder)
    if resume and stored is None:
        raise DataError(f"There is nothing to resume in {folder}. Leave out --resume.")
    if stored is not None and not resume:
        raise DataError(f"{folder} holds an unfinished training run. Go on with --resume. {ELSE}")
    now = json.loads(json.dumps(options))
    if stored is None:
        if folder.exists() and any(path.name != LOG for path in folder.iterdir()):
            raise DataError(f"{folder} is not empty and holds no training run. {ELSE}")
    elif odd := sorted(key for key in stored.keys() | now if stored.get(key) != now.get(key)):
        first = f"{odd[0]}={stored.get(odd[0])!r} there, {now.get(odd[0])!r} here"
        raise DataError(
            f"{folder} holds a run with other options: {', '.join(odd)} (first: {first}). "
            f"Resume with the same. {ELSE}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / OPTIONS, now)
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error}. {ELSE}") from error
    return _newest(folder / CHECKPOINTS)


def kept(folder: Path) -> str:
    """Return what is there of a run that was stopped, and how to go on."""
    if (folder / RECORD).exists():
        return f"the finished run is in {folder}."
    if not (folder / OPTIONS).exists():
        return "nothing was trained; the same command starts over."
    newest = _newest(folder / CHECKPOINTS)
    where = "the start" if newest is None else newest.name
    return f"the same command with --resume goes on from {where} in {folder}."


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all: a killed run leaves no half file."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)


def _stored(folder: Path) -> dict[str, Any] | None:
    """Read the options of the run that the folder holds, if any."""
    path = folder / OPTIONS
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file. {ELSE}")
    if not path.exists():
        return None
    options: dict[str, Any] = {}
    try:
        options = json.loads(text_of(path))
        wrong = mismatch(options, dict[str, Any])
    except UNREADABLE as error:
        wrong = str(error)
    if wrong:
        raise DataError(f"{path} is torn: {wrong}. {ELSE}")
    return options


def _newest(folder: Path) -> Path | None:
    """Return the checkpoint of the latest step that was written to its end, or None.

    transformers writes trainer_state.json last, so a whole one says that the rest is there.
    """
    steps = {}
    for path in folder.glob("checkpoint-*"):
        try:
            json.loads(text_of(path / "trainer_state.json"))
            steps[int(path.name.partition("-")[2])] = path
        except UNREADABLE:
            continue
    return steps[max(steps)] if steps else None

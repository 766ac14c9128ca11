"""`run.json`: what a run folder is the result of, written when the run starts and when it ends."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

from nabla_eval.cost.peak import PeakMemory
from nabla_eval.errors import DataError
from nabla_eval.options import fingerprint
from nabla_eval.traces.schema import complete
from nabla_eval.validation import UNREADABLE, mismatch, shown, text_of

FILE = "run.json"
MANIFEST_SCHEMA = 1
# What has to agree for a folder to hold the same run: all that its answers and scores depend on.
IDENTITY = ("tasks", "method", "config", "seed", "limit", "model_args", "options")


class Manifest(TypedDict):
    """Content of `run.json`."""

    schema: int
    name: str  # as tables call the run
    command: str  # that makes or continues it
    status: Literal["running", "done", "failed"]  # a killed run stays "running"
    tasks: list[str]
    limit: float | None
    method: str
    preset: str | None
    config: dict[str, Any]  # the method's flat options, defaults included
    config_hash: str  # as traces store it
    seed: int | None
    model_args: dict[str, Any]  # the other model arguments that answers depend on
    options: dict[str, Any]  # lm-eval's options that answers or scores depend on, if not default
    models: dict[str, Any]  # names and fingerprints; empty until they were loaded
    versions: dict[str, str | None]
    device: str | None
    batch_size: int | str | None
    started: str  # ISO 8601, UTC
    seconds: float | None  # of generating, in the sitting that finished the run
    wall_seconds: float | None  # of the whole evaluation, likewise
    peak_memory: PeakMemory | None  # while generating, likewise
    continued: int  # sittings before it: where this is not 0, the seconds are not the whole run's
    error: str | None  # what made it fail


def read_manifest(folder: str | Path) -> Manifest | None:
    """The `run.json` of a folder; None where there is none.

    Raises `DataError` for one that is damaged or of another schema.
    """
    path = Path(folder) / FILE
    try:
        content = json.loads(text_of(path))
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        raise DataError(f"{path} cannot be read: {error}. Remove the folder, run again.") from error
    known = isinstance(content, dict)
    _refuse_schema(path, content.get("schema") if known else type(content).__name__)
    content.setdefault("peak_memory", None)  # which early runs did not note
    if wrong := mismatch(content, Manifest):
        raise DataError(f"{path}: {wrong}. Remove it, run again.")
    options = complete(content["method"], content["config"], content["config_hash"])
    if options is not content["config"]:
        content |= {"config": options, "config_hash": fingerprint(options)}
    return content


def check_schema(folder: str | Path) -> None:
    """Raise `DataError` for a `run.json` of another version, whatever else is wrong with it."""
    path = Path(folder) / FILE
    try:
        content = json.loads(text_of(path))
    except UNREADABLE:
        return
    if isinstance(content, dict):
        _refuse_schema(path, content.get("schema", MANIFEST_SCHEMA))


def _refuse_schema(path: Path, found: Any) -> None:
    if found != MANIFEST_SCHEMA:
        raise DataError(
            f"{path} has schema {shown(found)}; this version reads {MANIFEST_SCHEMA}. Read it with "
            "the version of nabla_eval that wrote it, or run again."
        )


def write_manifest(folder: str | Path, manifest: Manifest) -> None:
    """Write `run.json` in one step: a reader sees the old one or the new one, never half of one.

    Raises `DataError` where the folder cannot be written.
    """
    write_json(Path(folder) / FILE, manifest)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file in one step. Raises `DataError` where it cannot be written."""
    partial = path.with_suffix(".json.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error}. Choose another --output.") from error


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return what keeps two manifests from being of one run, in words: `n: 8 there, 4 here`."""
    here, there = (_flat(manifest) for manifest in (other, one))
    return [
        f"{name}: {_word(there, name)} there, {_word(here, name)} here"
        for name in sorted(here.keys() | there.keys())
        if (name in here) != (name in there) or here.get(name) != there.get(name)
    ]


def _flat(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The identity as one flat mapping, as JSON would read it back."""
    flat: dict[str, Any] = {}
    for name in IDENTITY:
        value = manifest[name]
        flat.update(value if isinstance(value, dict) else {name: value})
    return json.loads(json.dumps(flat, default=str))


def _word(flat: Mapping[str, Any], name: str) -> str:
    return json.dumps(flat[name], ensure_ascii=False) if name in flat else "not set"

"""Run folders: whose results a folder holds, and how a run takes it, continues it and closes it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from nabla_eval.errors import DataError
from nabla_eval.harness.arguments import NEUTRAL, Arguments
from nabla_eval.harness.lmeval import files_of
from nabla_eval.methods.registry import option_names
from nabla_eval.options import fingerprint, flatten
from nabla_eval.traces.manifest import (
    FILE,
    IDENTITY,
    MANIFEST_SCHEMA,
    Manifest,
    differences,
    read_manifest,
    write_manifest,
)
from nabla_eval.traces.write import versions

OUTPUTS = ("trace-rank*.jsonl", "results_*.json", "samples_*.jsonl")


@dataclass(frozen=True)
class Claim:
    """The finding about a folder that a run asks for."""

    state: Literal["new", "unfinished", "done"]
    before: Manifest | None = None  # of the sitting before

    @property
    def other_versions(self) -> dict[str, tuple[str | None, str | None]]:
        """Libraries whose version has changed since, with both versions."""
        old, new = ({} if self.before is None else self.before["versions"]), versions()
        return {n: (old[n], new.get(n)) for n in old if old[n] != new.get(n)}


def manifest_of(
    arguments: Arguments,
    model_args: Mapping[str, Any],
    tasks: Sequence[str],
    *,
    command: str,
    name: str = "",
    seed: int | None = None,
    limit: float | None = None,
    options: Mapping[str, Any] | None = None,
    device: str | None = None,
    batch_size: int | str | None = None,
) -> Manifest:
    """The `run.json` of a run about to start.

    `arguments` are what `model_args` were read as; `options` those of lm-eval that change answers.
    """
    own = {*option_names(arguments.method), *NEUTRAL}
    others = {name: value for name, value in model_args.items() if name not in own}
    if limit is not None and limit == int(limit):
        limit = int(limit)
    manifest: Manifest = {
        "schema": MANIFEST_SCHEMA,
        "name": name,
        "command": command,
        "status": "running",
        "tasks": list(tasks),
        "limit": limit,
        "method": arguments.method,
        "preset": arguments.preset,
        "config": flatten(arguments.config),
        "config_hash": arguments.fingerprint,
        "seed": arguments.seed if seed is None else seed,
        "model_args": _plain(others),
        "options": _plain(options or {}),
        "models": {},
        "versions": dict(versions()),
        "device": device,
        "batch_size": batch_size,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": None,
        "wall_seconds": None,
        "peak_memory": None,
        "continued": 0,
        "error": None,
    }
    return manifest


def identity_hash(manifest: Manifest) -> str:
    """Short hash of what makes a run this run: equal for runs that may share a folder."""
    return fingerprint({name: manifest[name] for name in IDENTITY})  # type: ignore[literal-required]


def inspect(folder: Path, manifest: Manifest) -> Claim:
    """Find out what a folder holds for a run; touches nothing.

    Raises `DataError` where it holds another run (saying the differences) or results that no
    `run.json` explains.
    """
    before = read_manifest(folder)
    if before is None:
        _refuse_strays(folder)
        return Claim("new")
    if unlike := differences(before, manifest):
        raise DataError(
            f"{folder} holds another run ({'; '.join(unlike)}). Choose another --output, or "
            "remove that folder."
        )
    return Claim("done" if before["status"] == "done" else "unfinished", before)


def claim(folder: Path, manifest: Manifest) -> Claim:
    """`inspect` a folder, and take it: write `run.json` into it, unless the run is done there."""
    claimed = inspect(folder, manifest)
    if claimed.before is not None:
        manifest["continued"] = claimed.before["continued"] + 1
    if claimed.state != "done":
        write_manifest(folder, manifest)
    return claimed


def clear(folder: Path) -> None:
    """Remove a run's files from its folder, and nothing else."""
    for pattern in (*OUTPUTS, FILE):
        for path in folder.glob(pattern):
            path.unlink()


def _refuse_strays(folder: Path) -> None:
    strays = [path for pattern in OUTPUTS for path in folder.glob(pattern)]
    if strays:
        raise DataError(
            f"{folder} holds {strays[0].name} and no {FILE} that says of which run. Choose another "
            "--output, or remove that folder."
        )


def close(folder: Path, manifest: Manifest, *, device: str, wall_seconds: float) -> Manifest:
    """Complete `run.json` of a run that lm-eval has finished.

    Raises `DataError` where lm-eval's files or the traces are missing.
    """
    results, _ = files_of(folder, ())
    try:
        about = json.loads(results.read_text(encoding="utf-8"))["config"].get("nabla", {})
    except (ValueError, LookupError) as error:  # lm-eval warns where it cannot write, and goes on
        raise DataError(
            f"lm-eval wrote no whole results to {results} ({error}). Give --output a name that "
            "this locale can write, and the disk some room; then run again: the answers are kept."
        ) from error
    if not any(folder.glob(OUTPUTS[0])):
        raise DataError(f"{folder} has no trace-rank*.jsonl: no response was generated. Run again.")
    done: Manifest = {
        **manifest,
        "status": "done",
        "models": about.get("models", {}),
        "device": device,
        "seconds": about.get("seconds"),
        "wall_seconds": wall_seconds,
        "peak_memory": about.get("peak_memory"),
    }
    write_manifest(folder, done)
    return done


def fail(folder: Path, manifest: Manifest, error: BaseException) -> None:
    """Say in `run.json` why a run ended early; a later one continues it all the same.

    A reader that has gone, of a pipe that the run printed to, is no failure of the run.
    """
    if isinstance(error, BrokenPipeError):
        return
    text = str(error) or type(error).__name__
    write_manifest(folder, {**manifest, "status": "failed", "error": text})


def first_rank() -> bool:
    """Return whether this process is the one that writes `run.json` (of several under
    `accelerate`).
    """
    return int(os.environ.get("RANK", "0")) == 0


def device_name(device: str | None) -> str:
    """Return what a device is: `cpu`, or `cuda:0 (NVIDIA H100)`. Needs torch loaded already."""
    import torch

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and torch.cuda.is_available():
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as JSON reads them back, without those that say nothing."""
    given = {name: value for name, value in values.items() if value is not None}
    plain: dict[str, Any] = json.loads(json.dumps(given, default=str))
    return plain

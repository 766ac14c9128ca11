"""Run folders: `run.json`, and how a run claims its folder, continues it and completes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nabla_eval.errors import DataError
from nabla_eval.options import fingerprint
from nabla_eval.probing.store import LINES, SETTINGS
from nabla_eval.traces.manifest import (
    FILE,
    IDENTITY,
    Manifest,
    differences,
    read_manifest,
    write_manifest,
)
from nabla_eval.traces.write import versions

STUDY = "study.json"
# What each command keeps in its folder.
KEPT = {
    "a run": (FILE,), "the study of a sweep": (STUDY,),
    "what `nabla-eval probe` measured": (SETTINGS, LINES),
}  # fmt: skip
OUTPUTS = ("trace-rank*.jsonl", "results_*.json", "samples_*.jsonl")


@dataclass(frozen=True)
class Claim:
    """What a folder held when a run asked for it.

    A finished run whose results, samples or traces were removed is unfinished: the same command
    makes them again, from the answers that are kept.
    """

    state: Literal["new", "unfinished", "done"]
    before: Manifest | None = None  # of the previous sitting

    @property
    def other_versions(self) -> dict[str, tuple[str | None, str | None]]:
        """Libraries whose version has changed since then, with both versions."""
        old, new = ({} if self.before is None else self.before["versions"]), versions()
        return {n: (old[n], new.get(n)) for n in old if old[n] != new.get(n)}


def identity_hash(manifest: Manifest) -> str:
    """Return a short hash that is equal for runs that may share a folder."""
    return fingerprint({name: manifest[name] for name in IDENTITY})  # type: ignore[literal-required]


def inspect(folder: Path, manifest: Manifest) -> Claim:
    """Find out what a folder holds for a run; touches nothing.

    Another run that ended before its first answer leaves the folder as if it were new.
    Raises `DataError` where it holds another run (naming the differences), results without a
    `run.json`, a study or a probe.
    """
    before = read_manifest(folder)
    unlike = [] if before is None else differences(before, manifest)
    if before is not None and not unlike:
        whole = before["status"] == "done" and _whole(folder)
        return Claim("done" if whole else "unfinished", before)
    found = [path for pattern in OUTPUTS for path in folder.glob(pattern)]
    if before is not None:  # shards are opened, and empty, before the first answer
        found = [path for path in found if path.lstat().st_size]
    if not found:
        refuse_others(folder, FILE)
        return Claim("new")
    held = f"{found[0].name} and no {FILE} that says of which run"
    if before is not None:
        held = f"another run ({'; '.join(unlike)})"
    raise DataError(f"{folder} holds {held}. Choose another --output, or remove that folder.")


def refuse_others(folder: Path, own: str) -> None:
    """Raise `DataError` where a folder holds what another command keeps than that of `own`."""
    for what, files in KEPT.items():
        if own not in files and all((folder / name).exists() for name in files):
            raise DataError(
                f"{folder} holds {what}. Choose another --output, or remove that folder."
            )


def claim(folder: Path, manifest: Manifest) -> Claim:
    """`inspect` a folder and take it: write `run.json` into it, unless the run is done there."""
    claimed = inspect(folder, manifest)
    if claimed.before is not None:
        manifest["continued"] = claimed.before["continued"] + 1
    if claimed.state != "done":
        write_manifest(folder, manifest)
    return claimed


def clear(folder: Path) -> None:
    """Remove a run's files from its folder, and nothing else."""
    for pattern in (*OUTPUTS, ".trace-rank*.index", FILE):
        for path in folder.glob(pattern):
            path.unlink()


def complete(folder: Path, manifest: Manifest, *, device: str, wall_seconds: float) -> Manifest:
    """Write the `run.json` of a run that lm-eval has finished, and return it.

    Raises `DataError` where lm-eval's results, its samples or the traces are missing: lm-eval only
    warns when it cannot write.
    """
    about = _told(folder)
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


def _whole(folder: Path) -> bool:
    """Tell whether everything is there that a finished run leaves."""
    try:
        _told(folder)
    except DataError:
        return False
    return True


def _told(folder: Path) -> dict[str, Any]:
    """Return what lm-eval's results say of our model, once all files of a run are there."""
    found = sorted(folder.glob("results_*.json"), key=lambda path: path.name)
    if not found:
        raise DataError(
            f"lm-eval wrote no results to {folder}. Is the disk full or the folder read-only?"
        )
    try:
        results = json.loads(found[-1].read_text(encoding="utf-8"))
        about, tasks = results["config"].get("nabla", {}), results["configs"]
    except (ValueError, LookupError) as error:
        raise DataError(
            f"lm-eval wrote no whole results to {found[-1]} ({error}). Give --output a name that "
            "this locale can write, and the disk some room; then run again: the answers are kept."
        ) from error
    for task in tasks:
        if not any(folder.glob(f"samples_{task}_[0-9]*.jsonl")):
            raise DataError(f"lm-eval wrote no samples of {task} to {folder}. Run again.")
    if not any(folder.glob(OUTPUTS[0])):
        raise DataError(f"{folder} has no trace-rank*.jsonl: no response was generated. Run again.")
    return dict(about)


def fail(folder: Path, manifest: Manifest, error: BaseException) -> None:
    """Note in `run.json` why a run ended early; a later sitting continues it all the same.

    A closed pipe that the run printed to is no failure of the run.
    """
    if isinstance(error, BrokenPipeError):
        return
    text = str(error) or type(error).__name__
    write_manifest(folder, {**manifest, "status": "failed", "error": text})

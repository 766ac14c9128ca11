"""A probe's folder: what was measured of each problem, a line each, so that nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError
from nabla_eval.traces.manifest import write_json
from nabla_eval.traces.schema import loads, seal, sealed
from nabla_eval.validation import UNREADABLE, regular, shown, text_of

SETTINGS, LINES = "settings.json", "problems.jsonl"


class Store:
    """The figures of a probe's problems by id and hash, in a folder or (None) in memory alone.

    `identity` is what they depend on. Raises `DataError` for a folder that holds another probe's.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder, self.found = folder, dict[tuple[str, str], Any]()
        if folder is None:
            return
        inspect(folder, identity)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / SETTINGS).exists():
                write_json(folder / SETTINGS, identity)
            self._read(folder / LINES)
        except UNREADABLE as error:
            raise DataError(f"{folder} cannot be used ({error}). {_OTHER}") from error

    def _read(self, path: Path) -> None:
        """Take up the lines of a file, and cut off a torn last one, which has no newline.

        Any other line that is not as it was written is refused: nothing of it may be lost.
        """
        if not path.exists():
            return
        *lines, torn = regular(path).read_bytes().split(b"\n")
        for number, line in enumerate(lines, start=1):
            if not sealed(line + b"\n"):
                raise ValueError(f"line {number} of {LINES} is not one that a probe wrote")
            own = loads(line)
            self.found[own["id"], own["problem"]] = own["figures"]
        if torn:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size - len(torn))

    def add(self, name: tuple[str, str], figures: Mapping[str, Any]) -> None:
        """Keep what was measured of a problem, on disk before this returns."""
        self.found[name] = figures
        if self.folder is None:
            return
        try:
            with (self.folder / LINES).open("ab", buffering=0) as file:
                file.write(seal({"id": name[0], "problem": name[1], "figures": figures}))
        except OSError as error:
            raise DataError(
                f"Cannot write to {self.folder}: {error}. Mend that, and the same call goes on "
                "from what was measured."
            ) from error


def inspect(folder: Path, identity: Mapping[str, Any]) -> None:
    """Raise `DataError` for a folder that holds no probe of this identity, or of this part of one.

    Touches nothing. A folder that is new or empty holds none, and may.
    """
    ours = json.loads(json.dumps(identity, default=str))
    try:
        if not (folder / SETTINGS).exists():
            found = sorted(own.name for own in folder.iterdir()) if folder.is_dir() else []
            if others := [own for own in found if not own.startswith((".", SETTINGS))]:
                raise DataError(
                    f"{folder} cannot be a probe's: it holds {others[0]} and no {SETTINGS} that "
                    "says of which probe. Choose another --output."
                )
            return
        stored = loads(text_of(folder / SETTINGS))
        if not isinstance(stored, dict):
            raise ValueError(f"{SETTINGS} is none of a probe")
        if unlike := list(_differences({name: stored.get(name) for name in ours}, ours)):
            raise ValueError(f"it is of a probe with another {'; '.join(unlike)}")
    except UNREADABLE as error:
        raise DataError(f"{folder} cannot be used ({error}). {_OTHER}") from error


def _differences(stored: Any, ours: Any, name: str = "") -> Iterator[str]:
    """Yield where two JSON values differ: `plan.drafts (4 there, 8 here)`."""
    if isinstance(stored, dict) and isinstance(ours, dict):
        for key in {**ours, **stored}:
            yield from _differences(stored.get(key), ours.get(key), f"{name}.{key}".lstrip("."))
    elif stored != ours:
        yield f"{name} ({shown(stored)} there, {shown(ours)} here)"


_OTHER = "Choose another --output, or remove that folder."

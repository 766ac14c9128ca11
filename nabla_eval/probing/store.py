"""A probe's folder: what was measured of each problem, a line each, so that nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from nabla_eval.errors import DataError
from nabla_eval.traces.schema import loads, seal, sealed
from nabla_eval.validation import UNREADABLE, regular, text_of

SETTINGS, LINES = "settings.json", "problems.jsonl"


class Store:
    """The figures of a probe's problems by id, in a folder or (None) in memory alone.

    `identity` is what they depend on. Raises `DataError` for a folder that holds another probe's.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self.folder, self.found = folder, dict[str, Any]()
        if folder is None:
            return
        ours = json.loads(json.dumps(identity, default=str))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / SETTINGS).exists():
                (folder / SETTINGS).write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")
            stored = loads(text_of(folder / SETTINGS))
            if not isinstance(stored, dict):
                raise ValueError(f"{SETTINGS} is none of a probe")
            unlike = [n for n in {**ours, **stored} if stored.get(n) != ours.get(n)]
            if unlike:
                raise ValueError(f"it is of a probe with another {', '.join(unlike)}")
            self._read(folder / LINES)
        except UNREADABLE as error:
            raise DataError(f"{folder} cannot be used ({error}). {_OTHER}") from error

    def _read(self, path: Path) -> None:
        """Take up the whole lines of a file, and cut off a torn last one."""
        if not path.exists():
            return
        lines = regular(path).read_bytes().splitlines(keepends=True)
        whole = list(takewhile(lambda line: line.endswith(b"\n") and sealed(line), lines))
        self.found = {own["id"]: own["figures"] for own in map(loads, whole)}
        with path.open("r+b") as file:
            file.truncate(sum(map(len, whole)))

    def add(self, name: str, figures: Mapping[str, Any]) -> None:
        """Keep what was measured of a problem, on disk before this returns."""
        self.found[name] = figures
        if self.folder is None:
            return
        try:
            with (self.folder / LINES).open("ab", buffering=0) as file:
                file.write(seal({"id": name, "figures": figures}))
        except OSError as error:
            raise DataError(f"Cannot write to {self.folder}: {error}. {_OTHER}") from error


_OTHER = "Choose another --output, or remove that folder."

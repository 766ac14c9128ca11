"""Files of the study: made once, written whole, kept by later runs.

A file's name ends in a hash of what it was made by, so other settings never read an older file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn


def _write(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    write(partial)
    os.replace(partial, path)


def _named(path: Path, by: object) -> Path:
    """Return the path with a hash of the settings, which print as they are (no addresses)."""
    told = hashlib.blake2b(repr(by).encode(), digest_size=4).hexdigest()
    return path.with_name(f"{path.stem}.{told}{path.suffix}")


def kept_json(path: Path, by: object, make: Callable[[], Any]) -> Any:
    """Return what was made by these settings; make it and write it first where it was not."""
    path = _named(path, by)
    if not path.exists():
        made = make()
        _write(path, lambda partial: partial.write_text(json.dumps(made)))
    return json.loads(path.read_text())


def kept_model(path: Path, by: object, model: nn.Module, train: Callable[[], None]) -> None:
    """Load the weights trained by these settings; train and write them first if there are none."""
    path = _named(path, by)
    if not path.exists():
        train()
        _write(path, lambda partial: torch.save(model.state_dict(), partial))
        print("trained", path, flush=True)
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval().requires_grad_(False)

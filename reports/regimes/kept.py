"""Files of the study: made once, written whole, kept by later runs."""

from __future__ import annotations

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


def kept_json(path: Path, make: Callable[[], Any]) -> Any:
    """Return what the file holds; make it and write it first where there is none."""
    if not path.exists():
        made = make()
        _write(path, lambda partial: partial.write_text(json.dumps(made)))
    return json.loads(path.read_text())


def kept_model(path: Path, model: nn.Module, train: Callable[[], None]) -> None:
    """Load the weights into the model; train it and write them first where there are none."""
    if not path.exists():
        train()
        _write(path, lambda partial: torch.save(model.state_dict(), partial))
        print("trained", path, flush=True)
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval().requires_grad_(False)

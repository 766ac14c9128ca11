"""The files of the study's runs: one .npz a unit, with the numbers of every problem.

Arrays are [problems], in the fixed order of the split's problems; `meta` is JSON. A file is written
in one step, so that what exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from grid import Study, Unit, numbers_of
from numpy.typing import NDArray

from nabla_eval.embedded.countdown import Problem
from nabla_eval.errors import DataError

SCHEMA = 1
ARRAYS = {
    "right": np.float32,  # 1 where countdown.verify says so
    "reward": np.float32,  # final r(y|x) of the answer, scored after the clock had stopped
    "calls": np.int32,
    "flops": np.float64,
    "tokens": np.int32,  # generated
    "visited": np.int32,  # positions at which something was asked
    "changed": np.int32,  # tokens that another took the place of, in the answer's making
    "gradients": np.int32,  # gradient passes, of whole responses or of one prefix
}


@dataclass(frozen=True)
class Result:
    """A finished unit."""

    file: Path
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def folders(pairs: Path, unit: Unit) -> tuple[Path, Path]:
    """Folders of a unit's policy and reward model."""
    reward = pairs / str(numbers_of(unit.cell)) / f"{unit.kind}-{unit.reward_seed}"
    return pairs / unit.cell / "policy", reward / "reward"


def weights(pairs: Path, unit: Unit) -> dict[str, str]:
    """SHA-256 of both models' weights."""
    names = ("policy", "reward")
    return {name: _sha256(path) for name, path in zip(names, folders(pairs, unit), strict=True)}


@cache
def _sha256(folder: Path) -> str:
    file = folder / "model.safetensors"
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"There are no weights at {file}. Train the pair first: reports/first_order/run.sh has "
            "a function for each."
        ) from error


def problems_hash(problems: list[Problem]) -> str:
    """Tells one list of problems from another."""
    return hashlib.sha256("\n".join(p.prompt for p in problems).encode()).hexdigest()[:16]


def identity(unit: Unit) -> dict[str, Any]:
    """What a unit's file has to say of itself."""
    return {
        "schema": SCHEMA,
        "split": unit.split,
        "cell": unit.cell,
        "kind": unit.kind,
        "reward_seed": unit.reward_seed,
        "seed": unit.seed,
        "family": unit.variant.family,
        "config": unit.variant.flat,
    }


def write(file: Path, meta: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write a unit's file, whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    cast = {name: np.asarray(arrays[name], dtype=kind) for name, kind in ARRAYS.items()}
    with partial.open("wb") as stream:
        np.savez_compressed(stream, meta=np.array(json.dumps(meta)), **cast)
    os.replace(partial, file)


def read(unit: Unit, study: Study, runs: Path) -> Result | None:
    """A unit's file, checked; None where it was not decoded yet.

    Raises `DataError` where the file is torn, of another unit, or of another number of problems.
    """
    file = unit.file(runs)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            meta = json.loads(str(content["meta"]))
            arrays = {name: content[name] for name in ARRAYS}
    except FileNotFoundError:
        return None
    except Exception as error:  # zip, JSON and numpy have an error each for torn files
        raise DataError(
            f"{file} is no finished unit ({error}). Remove it, decode again."
        ) from error
    wanted = json.loads(json.dumps(identity(unit)))
    odd = [name for name, value in wanted.items() if meta.get(name) != value]
    count = study.splits[unit.split].problems
    if odd:
        raise DataError(
            f"{file} differs in {odd[0]}: {meta.get(odd[0])!r}, not {wanted[odd[0]]!r}. Decode "
            "into another --output."
        )
    if any(array.shape != (count,) for array in arrays.values()):
        raise DataError(
            f"{file} holds {len(arrays['right'])} problems, and study.yaml asks for {count}. "
            "Decode into another --output."
        )
    return Result(file, meta, arrays)


def same_weights(result: Result, found: dict[str, str]) -> None:
    """Raise `DataError` unless a unit was decoded with these weights."""
    for model, sha in found.items():
        if result.meta["weights"][model] != sha:
            raise DataError(
                f"{result.file} was decoded with another {model} model (sha256 "
                f"{result.meta['weights'][model][:12]}, now {sha[:12]}): runs of different weights "
                "do not mix. Decode into another --output, or put the old weights back."
            )

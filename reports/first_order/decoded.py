"""What was decoded: numbers [reward seeds, decoding seeds, problems] of a setting on a cell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import units
from grid import Study, Variant
from numpy.typing import NDArray

from nabla_eval.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Runs:
    """All units of one setting with the reward models of one kind."""

    variant: Variant
    found: tuple[tuple[units.Result, ...], ...]  # [reward seeds][decoding seeds]

    def array(self, name: str) -> Floats:
        """[reward seeds, decoding seeds, problems]; one decoding seed where nothing is drawn."""
        return np.array([[r.arrays[name] for r in row] for row in self.found], dtype=float)

    def by_problem(self, name: str = "right") -> Floats:
        """[problems], the mean over both kinds of seeds."""
        return self.array(name).mean(axis=(0, 1))

    def by_seed(self, name: str = "right") -> Floats:
        """[reward seeds, problems], the mean over decoding seeds."""
        return self.array(name).mean(axis=1)

    @cached_property
    def calls(self) -> float:
        """Model calls a problem."""
        return float(self.by_problem("calls").mean())

    @cached_property
    def gflops(self) -> float:
        """10^9 floating-point operations a problem."""
        return float(self.by_problem("flops").mean()) / 1e9

    @cached_property
    def milliseconds(self) -> float:
        """Processor time a problem, of one thread in a batch."""
        metas = [r.meta["processor_seconds"] for row in self.found for r in row]
        return 1000 * float(np.mean(metas)) / self.array("right").shape[-1]

    @cached_property
    def accuracy(self) -> float:
        return float(self.by_problem().mean())

    def cost(self, unit: str) -> float:
        """By the name of a cost: calls, gflops or milliseconds."""
        return float(getattr(self, unit))


COSTS = ("calls", "gflops", "milliseconds")
PER_PROBLEM = {"calls": "calls", "gflops": "flops"}  # the arrays of costs that problems have


def collect(study: Study, split: str, cell: str, kind: str, runs: Path) -> dict[str, Runs]:
    """Every setting of a cell and kind that is decoded in full, by its name."""
    found: dict[str, Runs] = {}
    for name, variant in study.variants.items():
        rows: dict[int, list[units.Result]] = {}
        whole = True
        for unit in study.units(split, cell, kind, variant):
            result = units.read(unit, study, runs)
            whole &= result is not None
            if result is not None:
                rows.setdefault(unit.reward_seed, []).append(result)
        if whole:
            found[name] = Runs(variant, tuple(tuple(row) for row in rows.values()))
    _one_policy(found, f"{split}, {cell}, {kind}")
    return found


def _one_policy(found: Mapping[str, Runs], where: str) -> None:
    """Raise `DataError` unless all units are of one policy, and of one reward model a seed."""
    seen: dict[str, str] = {}  # model -> weights
    for run in found.values():
        for result in (r for row in run.found for r in row):
            for model in ("policy", f"reward model of seed {result.meta['reward_seed']}"):
                sha = result.meta["weights"][model.split()[0]]
                if seen.setdefault(model, sha) != sha:
                    raise DataError(
                        f"{where}: {result.file} is of another {model} than other settings. Decode "
                        "into an --output of its own."
                    )
    rewards = [sha for model, sha in seen.items() if model != "policy"]
    if len(set(rewards)) < len(rewards):
        raise DataError(f"{where}: reward models of two seeds have the same weights. Train them.")


def versions(found: Iterable[Runs]) -> dict[str, Any]:
    """Of the libraries, as the units say; raises `DataError` where they differ."""
    metas = [r.meta["versions"] for run in found for row in run.found for r in row]
    seen = {str(sorted(meta.items())): meta for meta in metas}
    if len(seen) != 1:
        raise DataError(f"Units are of different versions: {' and '.join(seen)}. Decode anew.")
    return next(iter(seen.values()))

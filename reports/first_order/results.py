"""What was decoded: numbers [reward seeds, decoding seeds, problems] of a setting on a cell."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import units
from grid import Study, Variant
from numpy.typing import NDArray

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
    return found


def versions(found: dict[str, Runs]) -> dict[str, Any]:
    """Of the libraries, as the units say; raises where they differ."""
    seen = {str(r.meta["versions"]): r.meta["versions"] for v in found.values() for r in v.found[0]}
    assert len(seen) == 1, f"units of different versions: {list(seen)}"
    return next(iter(seen.values()))

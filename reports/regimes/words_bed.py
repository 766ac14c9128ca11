"""Bed 4, words: ∇-Reasoner, its twin, best-of-N and DVTS on a policy that writes sentences.

The sweep is `words.yaml`; runs are compared at equal model calls and at equal FLOPs as
`nabla-eval report scaling` does it. Its reward model is below the other beds' gate, as the pair's
card says, so this bed counts for nothing in the map's verdict.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.cost import mean_costs
from nabla_eval.analysis.intervals import Estimate
from nabla_eval.analysis.runs import Run
from nabla_eval.analysis.scaling import at_equal_cost
from nabla_eval.analysis.study import load

OURS, RIVALS = "nabla", ("twin", "best-of-n", "dvts")
UNITS = ("model_calls", "flops")


def run(folder: Path) -> dict[str, Any]:
    """Run the cells of the sweep that are not there yet, and compare."""
    sweep = ["sweep", str(Path(__file__).with_name("words.yaml")), "--output", str(folder)]
    subprocess.run([sys.executable, "-m", "nabla_eval.cli.main", *sweep], check=True)
    return figures((run, *name_of(run)) for run in load([folder]))


def name_of(run: Run) -> tuple[str, int]:
    """Return method and N of a cell, from its folder's name."""
    method, n, *_ = run.folders[0].name.split("_")
    return method, int(n.removeprefix("n"))


def figures(runs: Iterable[tuple[Run, str, int]]) -> dict[str, Any]:
    """Return a row for each run, and ∇-Reasoner's margin over each rival at its cost."""
    found = sorted(runs, key=lambda each: each[1:])
    rows = [
        {"method": method, "n": n, "accuracy": plain(accuracy(run.scores)),
         **{unit: float(mean_costs(run, unit).mean()) for unit in UNITS}}
        for run, method, n in found
    ]  # fmt: skip
    margins = []
    for ours, n in ((run, n) for run, method, n in found if method == OURS):
        for rival in RIVALS:
            theirs = [run for run, method, _ in found if method == rival]
            for unit in UNITS:
                equal = at_equal_cost(ours, theirs, unit)
                if equal is not None:
                    margin = {**plain(equal.difference.estimate), "p": equal.difference.p}
                    margins.append({"n": n, "rival": rival, "unit": unit, **margin})
    return {"problems": len(found[0][0].scores), "rows": rows, "margins": margins}


def plain(estimate: Estimate) -> dict[str, float]:
    """Return an estimate's value and its interval."""
    values = asdict(estimate)
    return {name: float(values[name]) for name in ("value", "low", "high")}

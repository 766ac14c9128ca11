"""Which settings the test problems see: chosen on the validation problems, by rules stated here.

Of each family the setting with the highest mean accuracy over the reward seeds (of equals the
cheaper one), and for each budget the best setting that keeps within it. For each first-order
family's best setting its rivals: the best gradient-free setting of any family that cost no more
there, in model calls and in processor time (5 % more is let pass, because the two are measured).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from grid import Study
from results import Runs

SLACK = 1.05
EQUAL = {"calls": "calls", "seconds": "milliseconds"}  # what a rival is equal in


def choose(study: Study, found: Mapping[str, Runs]) -> dict[str, Any]:
    """The entry of chosen.yaml for one cell and kind of reward model."""
    families: dict[str, Any] = {}
    for family in study.families.values():
        own = [found[variant.name] for variant in family.variants if variant.name in found]
        if len(own) < len(family.variants):
            raise SystemExit(f"{family.name} is not decoded on validation in full: decode first.")
        within = (best(r for r in own if r.calls <= budget) for budget in study.budgets)
        ladder = dict.fromkeys(r.variant.name for r in within if r is not None)
        chosen = best(own)
        assert chosen is not None
        families[family.name] = {"best": chosen.variant.name, "ladder": list(ladder)}
    controls = [
        found[variant.name]
        for name in study.named("control")
        for variant in study.families[name].variants
    ]
    rivals = {}
    for name in study.named("first-order"):
        own_best = found[families[name]["best"]]
        rivals[name] = {
            equal: rival.variant.name
            for equal, unit in EQUAL.items()
            if (rival := rival_of(own_best, controls, unit)) is not None
        }
    return {"families": families, "rivals": rivals}


def best(found: Iterable[Runs]) -> Runs | None:
    """The most accurate, of equals the cheapest in calls."""
    return max(found, key=lambda run: (run.accuracy, -run.calls), default=None)


def rival_of(own: Runs, controls: Iterable[Runs], unit: str) -> Runs | None:
    """The best control that cost no more."""
    return best(c for c in controls if c.cost(unit) <= SLACK * own.cost(unit))

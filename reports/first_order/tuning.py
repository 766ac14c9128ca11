"""Which settings the test problems see: chosen on the validation problems, by rules stated here.

Of each family the setting with the highest mean accuracy over the reward seeds (of equals the
cheaper one), and for each budget the best setting that keeps within it. For each first-order
family's best setting its rivals: of all coins between two gradient-free settings that cost as much
there (in calls, in FLOPs, in processor time), the most accurate; once over all controls, and once
for each of the family's own. Greedy decoding may be one side of every coin. And the first-order
family whose margin over its rival at equal calls was greatest: it is the one the goal is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from decoded import Runs
from grid import Study
from margins import Coin, strongest_coin

from nabla_eval.errors import DataError

EQUAL = {"calls": "calls", "FLOPs": "gflops", "seconds": "milliseconds"}  # what a rival equals


def choose(study: Study, found: Mapping[str, Runs]) -> dict[str, Any]:
    """The entry of chosen.yaml for one cell and kind of reward model."""
    settings: dict[str, list[Runs]] = {}
    families: dict[str, Any] = {}
    for family in study.families.values():
        own = [found[variant.name] for variant in family.variants if variant.name in found]
        if len(own) < len(family.variants):
            raise DataError(
                f"{family.name} is not decoded in full on the validation problems. Run decode.py "
                "--split validation first."
            )
        settings[family.name] = own
        within = (best(r for r in own if r.calls <= budget) for budget in study.budgets)
        ladder = dict.fromkeys(r.variant.name for r in within if r is not None)
        families[family.name] = {"best": best(own).variant.name, "ladder": list(ladder)}

    cheapest = [
        run for name in study.named("control") if name == "greedy" for run in settings[name]
    ]
    rivals, controls, margins = {}, {}, {}
    for name in study.named("first-order"):
        own_best = found[families[name]["best"]]
        everyone = [run for control in study.named("control") for run in settings[control]]
        rivals[name] = _coins(own_best, everyone)
        controls[name] = {
            control: _coins(own_best, [*cheapest, *settings[control]])
            for control in study.families[name].controls
        }
        at_calls = strongest_coin(everyone, "calls", own_best.calls)
        if at_calls is not None:
            margins[name] = own_best.accuracy - at_calls.accuracy
    chosen = {"families": families, "rivals": rivals, "controls": controls}
    if margins:
        chosen["champion"] = max(margins, key=lambda name: margins[name])
    return chosen


def best(found: Iterable[Runs]) -> Any:
    """The most accurate, of equals the cheapest in calls; None of none."""
    return max(found, key=lambda run: (run.accuracy, -run.calls), default=None)


def _coins(own: Runs, controls: Iterable[Runs]) -> dict[str, list[str]]:
    """By what is equal, the names of the strongest coin's two sides."""
    controls = list(controls)
    coins = {equal: strongest_coin(controls, unit, own.cost(unit)) for equal, unit in EQUAL.items()}
    return {equal: _sides(coin) for equal, coin in coins.items() if coin is not None}


def _sides(coin: Coin) -> list[str]:
    return [coin.low.variant.name, coin.high.variant.name]

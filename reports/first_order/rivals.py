"""First-order settings beside gradient-free ones at equal cost, as chosen on validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from decoded import Runs
from margins import Coin, Margin, against, coin, corrected
from tuning import EQUAL


@dataclass(frozen=True)
class Rivalry:
    """A first-order family's tuned setting beside a coin of controls at equal cost."""

    family: str
    control: str  # the family of the controls, or "any"
    equal: str  # in what
    own: Runs
    coin: Coin
    margin: Margin

    @property
    def costs(self) -> str:
        """Ours and theirs: different only where the coin has one side."""
        unit = EQUAL[self.equal]
        scale = 1000 if unit == "gflops" else 1  # shown in MFLOP
        return f"{scale * self.own.cost(unit):.1f} / {scale * self.coin.cost(unit):.1f}"


def rivalries(entry: Mapping[str, Any], found: Mapping[str, Runs]) -> list[Rivalry]:
    """Each first-order family beside its rivals of any family; Holm over these."""
    groups = [(family, "any", coins) for family, coins in entry["rivals"].items()]
    return _compared(groups, entry, found)


def own_controls(entry: Mapping[str, Any], found: Mapping[str, Runs]) -> list[Rivalry]:
    """Each first-order family beside each of its own controls; Holm over these."""
    groups = [
        (family, control, coins)
        for family, controls in entry["controls"].items()
        for control, coins in controls.items()
    ]
    return _compared(groups, entry, found)


def _compared(
    groups: Iterable[tuple[str, str, Mapping[str, Sequence[str]]]],
    entry: Mapping[str, Any],
    found: Mapping[str, Runs],
) -> list[Rivalry]:
    lines = []
    for family, control, coins in groups:
        own = found[entry["families"][family]["best"]]
        for equal, (low, high) in coins.items():
            unit = EQUAL[equal]
            other = coin(found[low], found[high], unit, own.cost(unit))
            lines.append(Rivalry(family, control, equal, own, other, against(own, other, unit)))
    adjusted = corrected([line.margin for line in lines])
    return [replace(line, margin=m) for line, m in zip(lines, adjusted, strict=True)]

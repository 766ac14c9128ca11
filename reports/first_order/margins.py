"""Paired differences between settings: by problem, over both kinds of seeds (DESIGN 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from decoded import PER_PROBLEM, Floats, Runs

from nabla_eval.analysis.intervals import Estimate, mean
from nabla_eval.analysis.significance import holm, sign_flip_test


@dataclass(frozen=True)
class Margin:
    """Accuracy of one setting minus another's, in shares of problems."""

    estimate: Estimate  # over problems
    p: float  # sign flips, a problem at a time
    by_seed: tuple[float, ...]  # of each reward model: three say how much training luck there is
    holm: float = float("nan")


def margin(own: Runs, other: Runs) -> Margin:
    """The paired difference on all problems."""
    ours, theirs = own.by_seed(), other.by_seed()
    seeds = (ours - theirs).mean(axis=1)
    return _margin(own.by_problem() - other.by_problem(), seeds)


def _margin(differences: Floats, seeds: Floats) -> Margin:
    return Margin(mean(list(differences)), sign_flip_test(list(differences)), tuple(seeds.tolist()))


def corrected(margins: Sequence[Margin]) -> list[Margin]:
    """The same with Holm's p over all of them."""
    adjusted = holm([entry.p for entry in margins])
    pairs = zip(margins, adjusted, strict=True)
    return [Margin(m.estimate, m.p, m.by_seed, p) for m, p in pairs]


@dataclass(frozen=True)
class Coin:
    """A control at another setting's cost: a coin decides between two of its settings.

    What is expected of the coin is known for each problem, so that nothing is drawn.
    """

    low: Runs
    high: Runs
    share: float  # of problems that `high` answers

    @property
    def accuracy(self) -> float:
        return (1 - self.share) * self.low.accuracy + self.share * self.high.accuracy

    @property
    def words(self) -> str:
        if self.share in (0.0, 1.0):
            return (self.high if self.share else self.low).variant.name
        low, high = self.low.variant.name, self.high.variant.name
        return f"{1 - self.share:.0%} {low}, {self.share:.0%} {high}"

    def cost(self, unit: str) -> float:
        return (1 - self.share) * self.low.cost(unit) + self.share * self.high.cost(unit)

    def mixed(self, of_low: Floats, of_high: Floats) -> Floats:
        return (1 - self.share) * of_low + self.share * of_high


def coin(low: Runs, high: Runs, unit: str, cost: float) -> Coin:
    """The coin between two settings that comes nearest to a cost."""
    room = high.cost(unit) - low.cost(unit)
    share = 0.0 if room <= 0 else (cost - low.cost(unit)) / room
    return Coin(low, high, min(1.0, max(0.0, share)))


def strongest_coin(controls: Sequence[Runs], unit: str, cost: float) -> Coin | None:
    """The most accurate coin that costs no more; None where every setting costs more.

    Of the settings one side costs no more than `cost` and the other more; or both sides are one
    setting that costs less, where the controls have no use for the rest.
    """
    below = [run for run in controls if run.cost(unit) <= cost]
    above = [run for run in controls if run.cost(unit) > cost]
    pairs = [(run, run) for run in below] + [(low, high) for low in below for high in above]
    coins = [coin(low, high, unit, cost) for low, high in pairs]
    return max(coins, key=lambda one: (one.accuracy, -one.cost(unit)), default=None)


def against(own: Runs, other: Coin, unit: str) -> Margin:
    """The paired difference to a coin at equal cost.

    Mean costs are estimates too: the coin's slope (accuracy per cost) times the difference in cost
    is taken off problem by problem, as `analysis.scaling.at_equal_cost` does (the delta method).
    That leaves the mean as it is and gives the spread what the costs are uncertain by. Processor
    time is known for whole batches alone and is taken as known; so is the cost of a coin with one
    side, whose cost is not made equal.
    """
    right = other.mixed(other.low.by_seed(), other.high.by_seed())
    difference = own.by_seed() - right
    per_problem = difference.mean(axis=0)
    if unit in PER_PROBLEM and 0.0 < other.share < 1.0:
        name = PER_PROBLEM[unit]
        spent = other.mixed(other.low.by_problem(name), other.high.by_problem(name))
        room = other.high.by_problem(name).mean() - other.low.by_problem(name).mean()
        slope = (other.high.accuracy - other.low.accuracy) / room
        per_problem = per_problem - slope * (own.by_problem(name) - spent)
    return _margin(per_problem, difference.mean(axis=1))


def mended_and_broken(own: Runs, greedy: Runs) -> tuple[float, float]:
    """Of answers that greedy had wrong, the share made right; of its right ones, made wrong."""
    before, after = greedy.by_problem(), own.by_problem()
    wrong, right = before == 0, before == 1
    mended = float(after[wrong].mean()) if wrong.any() else float("nan")
    broken = float(1 - after[right].mean()) if right.any() else float("nan")
    return mended, broken


def spread(values: Sequence[float]) -> str:
    """Each reward seed's figure in points."""
    return ", ".join(f"{100 * value:+.1f}" for value in values)


def rewards(own: Runs) -> float:
    """Mean final reward of the answers, in nats of log-odds."""
    return float(np.mean(own.array("reward")))

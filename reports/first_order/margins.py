"""Paired differences between settings: by problem, over both kinds of seeds (DESIGN 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from results import Floats, Runs

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
class Mixture:
    """A control at exactly another one's cost: a coin decides between two of its settings.

    Per problem the expectation of the coin is known, so that nothing is drawn.
    """

    words: str
    cost: float
    right: Floats  # [reward seeds, problems]


def mixture(ladder: Sequence[Runs], unit: str, cost: float) -> Mixture | None:
    """The family at this cost, between its neighbouring settings; None where it has none so cheap.

    Where even the dearest setting costs less, that setting itself: the family has no use for more.
    """
    ordered = sorted(ladder, key=lambda run: run.cost(unit))
    below = [run for run in ordered if run.cost(unit) <= cost]
    above = [run for run in ordered if run.cost(unit) > cost]
    if not below:
        return None
    low = below[-1]
    if not above:
        return Mixture(low.variant.name, low.cost(unit), low.by_seed())
    high = above[0]
    share = (cost - low.cost(unit)) / (high.cost(unit) - low.cost(unit))
    right = (1 - share) * low.by_seed() + share * high.by_seed()
    words = f"{1 - share:.0%} {low.variant.name}, {share:.0%} {high.variant.name}"
    return Mixture(words, cost, right)


def against_mixture(own: Runs, other: Mixture) -> Margin:
    """The paired difference to a control at equal cost."""
    difference = own.by_seed() - other.right
    return _margin(difference.mean(axis=0), difference.mean(axis=1))


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

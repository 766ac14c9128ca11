"""Estimates over problems and reward seeds, and comparisons at equal cost.

A method has settings; each setting was run on validation and on test problems. At a cost limit the
setting that is most accurate on the validation problems, and costs no more there on average, is the
method's; the test problems only say how good that one is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from nabla_eval.analysis.intervals import LEVEL, Estimate, mean
from nabla_eval.analysis.significance import sign_flip_test

Floats = NDArray[np.float64]
GOAL, ALPHA = 0.05, 0.01  # points over every control, and p over problems
SEEDS = 5  # of reward models; the goal asks for every one


def crossed(values: Floats) -> Estimate:
    """Return the mean of `[seeds, problems]`, both random, with Student's interval.

    The variance is the sum of those of the seeds' and of the problems' means, which counts what is
    neither twice and so is no too small; degrees of freedom by Welch and Satterthwaite. One
    seed has no interval.
    """
    seeds, problems = mean(values.mean(1)), mean(values.mean(0))
    se = math.hypot(seeds.se, problems.se)
    if math.isnan(se):
        return Estimate(seeds.value, se, se, se, values.shape[1])
    if not se > 0:
        return Estimate(seeds.value, se, seeds.value, seeds.value, values.shape[1])
    parts = [e.se**4 / (e.clusters - 1) for e in (seeds, problems)]
    half = float(stdtrit(se**4 / sum(parts), (1 + LEVEL) / 2)) * se
    return Estimate(seeds.value, se, seeds.value - half, seeds.value + half, values.shape[1])


def by_cluster(values: Floats, cluster: NDArray[np.int64]) -> Floats:
    """Return the means `[seeds, clusters]` of values `[seeds, E]`."""
    index = np.unique(cluster, return_inverse=True)[1]
    count = np.bincount(index)
    return np.stack([np.bincount(index, weights=row) / count for row in values])


@dataclass(frozen=True)
class Tried:
    """A method's settings on one split: how right and how costly, each `[settings, seeds, E]`."""

    right: Floats
    calls: Floats
    flops: Floats
    seconds: Floats | None = None


@dataclass(frozen=True)
class Family:
    """A method: is it first-order, does it learn from right tokens, its settings' results."""

    first_order: bool
    gold: bool
    settings: list[str]
    validation: Tried
    test: Tried


def best_setting(family: Family, limit: float, unit: str) -> int | None:
    """Return the most accurate setting within the limit on validation; the cheapest of equals."""
    cost = getattr(family.validation, unit).mean((1, 2))
    right = family.validation.right.mean((1, 2))
    within = np.flatnonzero(cost <= limit + 1e-9)
    if not len(within):
        return None
    return int(within[np.lexsort((cost[within], -right[within]))[0]])


def margin(ours: Floats, theirs: Floats, cluster: NDArray[np.int64]) -> dict[str, Any]:
    """Compare two `[seeds, E]`: the margin, its interval, p over problems, and each seed's."""
    apart = by_cluster(ours - theirs, cluster)
    found = crossed(apart)
    return {
        "value": found.value, "low": found.low, "high": found.high,
        "p": sign_flip_test(list(apart.mean(0))),
        "by_seed": [float(x) for x in apart.mean(1)],
    }  # fmt: skip


def leads(row: dict[str, Any], seeds: int = SEEDS) -> bool:
    """Return whether a margin meets the goal: size, p over problems, so many seeds above zero."""
    found = row["by_seed"]
    return row["value"] >= GOAL and row["p"] < ALPHA and len(found) >= seeds and min(found) > 0


def compare(
    families: dict[str, Family], cluster: NDArray[np.int64], limits: list[float], unit: str
) -> list[dict[str, Any]]:
    """Return, for each limit, every family at its best and each first-order one's margins."""
    rows = []
    for limit in limits:
        chosen = {name: best_setting(family, limit, unit) for name, family in families.items()}
        used = {name: index for name, index in chosen.items() if index is not None}
        at = {}
        for name, index in used.items():
            test = families[name].test
            value = crossed(by_cluster(test.right[index], cluster))
            at[name] = {
                "setting": families[name].settings[index],
                "tuned": float(families[name].validation.right[index].mean()),
                "right": value.value, "low": value.low, "high": value.high,
                "cost": float(getattr(test, unit)[index].mean()),
            }  # fmt: skip
        margins = {
            name: {
                other: margin(
                    families[name].test.right[used[name]],
                    families[other].test.right[used[other]],
                    cluster,
                )
                for other in used
                if not families[other].first_order
            }
            for name in used
            if families[name].first_order
        }
        rows.append({"limit": limit, "at": at, "margins": margins})
    return rows


def headline(rows: list[dict[str, Any]], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the first-order method at the cost where it leads most on validation, and its rivals.

    `least` is its smallest test margin over a control; methods named in `without` do not count.
    """
    best: dict[str, Any] = {}
    for row in rows:
        controls = {
            other for found in row["margins"].values() for other in found if other not in without
        }
        for name, found in row["margins"].items():
            if name in without:
                continue
            ahead = row["at"][name]["tuned"] - max(row["at"][c]["tuned"] for c in controls)
            if best and ahead <= best["ahead"]:
                continue
            margins = {other: found[other] for other in sorted(controls)}
            rival = min(margins, key=lambda other: margins[other]["value"])
            best = {
                "ahead": ahead, "limit": row["limit"], "ours": name, **row["at"][name],
                "rival": rival, "theirs": row["at"][rival], "least": margins[rival],
                "leads": all(map(leads, margins.values())),
            }  # fmt: skip
    return best

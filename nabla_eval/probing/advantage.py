"""Advantage: what does a draw from the refined distribution buy over one from the policy's own?

At a position where DTO draws from q and its twin from t, with a from (q - t)+/d and b from
(t - q)+/d, d their total variation,

    E[r | DTO's draw] - E[r | the twin's draw] = d E[r after a - r after b]

so only tokens on which the two differ are rolled out, and both with the same keys. `loops` carries
the same idea to the end of both methods.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nabla_eval.analysis.intervals import (
    Estimate,
    mean,
    mean_probability,
    proportion,
    ratio,
    skewed_mean,
    won_minus_lost,
)
from nabla_eval.probing.fidelity import Values
from nabla_eval.probing.grades import Problems, known
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Coupling

Runs: TypeAlias = Sequence[Sequence[Mapping[str, Any]]]  # of each problem


def differing(positions: Sequence[int], couplings: Sequence[Coupling], plan: Plan) -> list[Any]:
    """Return (position, a, b) of draws that differ, a few of each position where any can."""
    return [
        (i, a, b)
        for i, own in zip(positions, couplings, strict=True)
        for a, b in zip(own.more[: plan.splits], own.less[: plan.splits], strict=True)
        if own.variation
    ]


def measure(
    positions: Sequence[int], couplings: Sequence[Coupling], values: Values, plan: Plan
) -> dict[str, Any]:
    """Return sums over the positions."""
    variation = {i: own.variation for i, own in zip(positions, couplings, strict=True)}
    apart = differing(positions, couplings, plan)
    gains = [
        variation[i] * float(np.mean(values[i, a]) - np.mean(values[i, b])) for i, a, b in apart
    ]
    each = len(apart) / max(1, sum(own.variation > 0 for own in couplings))  # pairs of a position
    return {
        "draws": len(couplings),
        "variation": sum(variation.values()),
        "reward": sum(gains) / max(1.0, each),
    }


def summary(problems: Problems, n: int) -> dict[str, Any]:
    """Return what the gradient buys per draw, and the expected margin of ∇-Reasoner at N rollouts.

    Margins are of whole loops (`probing.loops`): `reward` in units of the reward, `accuracy` as a
    share of one, over the problems that are graded (None without). `calls` are what gradients cost
    a problem.
    """
    drawn = [each["advantage"] for each in problems]
    column = {key: [each[key] for each in drawn] for key in ("draws", "variation", "reward")}
    runs = [each["loops"] for each in problems]
    once = [1] * len(runs)
    calls = ratio(by_problem(runs, lambda run: 4 * run["gradient_passes"]), once)
    reward = expected(runs, "reward")
    assert reward is not None, "all runs have rewards"
    told = [each["loops"] for each in known(problems)]
    right = [[run["common"]["right"] for run in own] for own in told]
    return {
        "per_draw": ratio(column["reward"], column["draws"]),
        "per_differing_draw": ratio(column["reward"], column["variation"]),
        "n": n,
        "draws_per_problem": ratio(by_problem(runs, lambda run: run["draws"]), once),
        "calls_per_problem": calls,
        "runs_that_differ": mean_probability(by_problem(runs, lambda run: run["differ"]), once),
        "margin": {
            "reward": reward,
            "accuracy": expected(told, "right"),
            "reward_per_100_calls": 100 * reward.value / calls.value if calls.value else None,
        },
        "common": {
            "reward": mean(by_problem(runs, lambda run: run["common"]["reward"])),
            **({"right": proportion(right)} if told else {}),
        },
    }


def expected(runs: Runs, name: str) -> Estimate | None:
    """Return the mean over problems of W (V(nabla) - V(twin)); None without problems.

    A difference of shares has each end of the interval from the further one of Student's t and of
    `won_minus_lost` times the mean W, which has a width where no split was decided differently.
    """
    if not runs:
        return None
    products = by_problem(runs, lambda run: run["differ"] * _apart(run, name))
    if name == "reward":
        return skewed_mean(products)
    chances = by_problem(runs, lambda run: run["differ"])
    found, chance = mean(products), float(chances.mean())
    if not chance:
        return found
    inner = won_minus_lost(
        np.clip(products / np.where(chances > 0, chances, 1), -1, 1),
        len(runs),
        len(runs) * len(runs[0]),
    )
    # W and the outcome of a split may go together, which the interval's place then shows.
    shift = found.value - chance * inner.value
    low, high = chance * inner.low + shift, chance * inner.high + shift
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def _apart(run: Mapping[str, Any], name: str) -> float:
    return float(np.mean([ours[name] - theirs[name] for ours, theirs in run["splits"]] or [0.0]))


def by_problem(runs: Runs, each: Callable[[Mapping[str, Any]], float]) -> NDArray[np.float64]:
    """Return the mean over the runs of each problem; `[P]`."""
    return np.array([np.mean([each(run) for run in own]) for own in runs])

"""Advantage: what does a draw from the refined distribution buy over one from the policy's own?

At a position where DTO draws from q and its twin from t, with a from (q - t)+/d and b from
(t - q)+/d, d their total variation,

    E[r | DTO's draw] - E[r | the twin's draw] = d E[r after a - r after b]

so only tokens on which the two differ are rolled out, and both with the same keys. `loops` carries
the same idea to the end of both methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nabla_eval.analysis.intervals import (
    mean,
    ratio,
    skewed_mean,
    won_minus_lost,
)
from nabla_eval.probing.fidelity import Values
from nabla_eval.probing.plan import Plan
from nabla_eval.probing.requests import Coupling
from nabla_eval.probing.room import said


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


def summary(problems: Sequence[Mapping[str, Any]], n: int) -> dict[str, Any]:
    """Return what the gradient buys per draw, and the expected margin of ∇-Reasoner at N rollouts.

    Margins are of whole loops (`probing.loops`): `reward` in units of the reward, `accuracy` as a
    share of one (None where answers are not known). `calls` are what gradients cost a problem.
    """
    drawn = [each["advantage"] for each in problems]
    column = {key: [each[key] for each in drawn] for key in ("draws", "variation", "reward")}
    runs = [each["loops"] for each in problems]
    calls = mean([_mean(4 * run["gradient_passes"] for run in own) for own in runs])
    draws = mean([_mean(run["draws"] for run in own) for own in runs])
    reward = expected(runs, "reward")
    return {
        "per_draw": said(ratio(column["reward"], column["draws"])),
        "per_differing_draw": said(ratio(column["reward"], column["variation"])),
        "n": n,
        "draws_per_problem": said(draws),
        "calls_per_problem": said(calls),
        "runs_that_differ": said(mean([_mean(run["differ"] for run in own) for own in runs])),
        "margin": {
            "reward": said(reward),
            "accuracy": said(accuracy) if (accuracy := expected(runs, "right")) else None,
            "reward_per_100_calls": 100 * reward.value / calls.value if calls.value else None,
        },
        "common": {
            name: said(mean([_mean(run["common"][name] for run in own) for own in runs]))
            for name in ("reward", "right")
            if all(run["common"][name] is not None for own in runs for run in own)
        },
    }


def expected(runs: Sequence[Sequence[Mapping[str, Any]]], name: str) -> Any:
    """Return the mean over problems of W (V(nabla) - V(twin)); None where V is not known.

    A difference of shares has each end of the interval from the further one of Student's t and of
    `won_minus_lost` times the mean W, which has a width where no split was decided differently.
    """
    values = [each[name] for own in runs for run in own for both in run["splits"] for each in both]
    if any(value is None for value in values) or not runs:
        return None
    products = [_mean(run["differ"] * _apart(run, name) for run in own) for own in runs]
    if name == "reward":
        return skewed_mean(products)
    chances = np.array([_mean(run["differ"] for run in own) for own in runs])
    found, chance = mean(products), float(chances.mean())
    if not chance:
        return found
    inner = won_minus_lost(
        np.clip(np.array(products) / np.where(chances > 0, chances, 1), -1, 1),
        len(runs),
        len(runs) * len(runs[0]),
    )
    # W and the outcome of a split may go together, which the interval's place then shows.
    shift = found.value - chance * inner.value
    low, high = chance * inner.low + shift, chance * inner.high + shift
    return replace(found, low=min(found.low, low), high=max(found.high, high))


def _apart(run: Mapping[str, Any], name: str) -> float:
    return _mean(float(ours[name]) - float(theirs[name]) for ours, theirs in run["splits"])


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0

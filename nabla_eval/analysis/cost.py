"""The cost of answers and of right ones (the paper's Fig. 3); work saved (D.2) or wasted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.frames import by_problem, means, sums
from nabla_eval.analysis.intervals import (
    LEVEL,
    Estimate,
    bootstrap,
    ratio,
    same_problems,
    share,
    skewed_means,
)
from nabla_eval.analysis.runs import Run

COSTS = (
    "model_calls",
    "generated_tokens",
    "gradient_passes",
    "scorings",
    "prefix_scorings",
    "prefix_gradients",
    "flops",
    "seconds",
)
# Names under which tasks report what went wrong with an answer.
FAILURES = ("no_answer", "grader_timeout", "grader_error")
_RESAMPLES = 2000


def mean_costs(run: Run, cost: str = "model_calls") -> dict[str, float]:
    """Return one of `COSTS` (or any count of the ledger) by problem: the mean of its answers."""
    return means(by_problem(run.answers, cost))


def costs(run: Run, level: float = LEVEL) -> dict[str, Estimate]:
    """Return the mean per problem of each of `COSTS`, with `skewed_means`' interval."""
    return skewed_means({cost: list(mean_costs(run, cost).values()) for cost in COSTS}, level=level)


def correct_per_cost(run: Run, cost: str = "model_calls", level: float = LEVEL) -> Estimate:
    """Return expected right answers per unit of cost: accuracy over mean cost.

    Problems are resampled. Where no problem's score differs there is no spread of accuracy to
    resample: then the bounds are accuracy's over those of the mean cost.
    """
    spent = mean_costs(run, cost)
    right = means(run.scores)
    found = _ratio_of_means(right, spent, level)
    if len(set(right.values())) != 1 or min(spent.values()) <= 0:
        return found
    rate = accuracy(run.scores, level)
    price = skewed_means({cost: list(spent.values())}, level=level)[cost]
    least = max(min(spent.values()), price.low)  # t's lower end may lie below every cost
    return replace(found, low=rate.low / price.high, high=rate.high / least)


def cost_ratio(a: Run, b: Run, cost: str = "model_calls", level: float = LEVEL) -> Estimate:
    """Return mean cost of a over mean cost of b on the same problems, resampled together.

    Raises `DataError` when the two do not hold the same problems.
    """
    return _ratio_of_means(mean_costs(a, cost), mean_costs(b, cost), level)


def _ratio_of_means(a: dict[str, float], b: dict[str, float], level: float) -> Estimate:
    same_problems(a, b)
    table = np.array([[a[p], b[p]] for p in sorted(a)], dtype=float).reshape(-1, 2)
    return bootstrap(table, lambda totals: totals[:, 0] / totals[:, 1], level=level)


@dataclass(frozen=True)
class Acceleration:
    """The work that a run was spared, each as a share of what it would have done otherwise."""

    certified: Estimate  # draws from refined distributions that no gradient could change
    cached: Estimate  # gradient passes, against one per step of every refinement
    reused: Estimate  # tokens, against rolling both sides of every judged candidate out afresh
    spared: Estimate  # tokens, against rolling every visited position out from the prompt
    skipped: Estimate  # positions passed without refinement
    speculative: Estimate  # model calls that lookahead threw away; a cost, not a saving


def acceleration(run: Run, level: float = LEVEL) -> Acceleration:
    """Return acceleration shares over problems; NaN where a run has nothing of the kind.

    `certified`: such draws need no refinement, and are the zeroth-order twin's (`dto.certify`);
    older versions did not look. `cached`: without a cache every one of the T steps of a refinement
    takes a pass. `reused`: Algorithm 1 as printed rolls out the current response again at each
    position where it rolls out a rival; positions whose draw did not differ from their token would
    add to that, so the share is a lower bound. It cannot exceed one half by much, because each
    token that is reused stands beside one that was drawn. `spared` can, as the paper's 74.1 % does:
    it holds what was drawn against a draft and one whole response more for each visited position.
    A trace does not say how long the response was at every visit, so the shortest is taken: a lower
    bound too.
    """
    answers, steps = run.answers, int(run.config.get("steps", 0))
    drawn, reused = answers["generated_tokens"], answers["reused_tokens"]
    visited, positions = answers["visited"], answers["positions"]
    unhurried = answers["refinements"] * steps
    afresh = answers["tokens_afresh"] * bool(visited.any())
    thrown = (
        answers["speculative_tokens"]
        + answers["speculative_scorings"]
        + 4 * answers["speculative_passes"]
    )

    def part(parts: Any, wholes: Any) -> Estimate:
        few, all_ = sums(answers, parts), sums(answers, wholes)
        if all(0 <= few[problem] <= all_[problem] for problem in all_):
            return share(few, all_, level)
        return ratio(few, all_, resamples=_RESAMPLES, level=level)

    return Acceleration(
        certified=part(answers["certified"].fillna(0), visited * bool(steps)),
        cached=part(unhurried - answers["gradient_passes"], unhurried),
        reused=part(reused, reused + drawn * bool(reused.any())),
        spared=part(afresh - drawn * bool(afresh.any()), afresh),
        skipped=part(positions - visited, positions),
        speculative=part(thrown, answers["model_calls"]),
    )


def truncated(run: Run, level: float = LEVEL) -> Estimate:
    """Return the share of answers that the length limit cut off."""
    cut = sums(run.answers, run.answers["stop"] == "length")
    return share(cut, sums(run.answers), level)

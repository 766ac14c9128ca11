"""The cost of answers and of right ones (the paper's Fig. 3); work saved (D.2) or wasted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nabla_eval.analysis.accuracy import accuracy
from nabla_eval.analysis.frames import means, share_of
from nabla_eval.analysis.intervals import (
    Estimate,
    ratio,
    same_problems,
    share,
    skewed_mean,
    skewed_means,
)
from nabla_eval.analysis.runs import Run

if TYPE_CHECKING:
    from pandas import Series

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
_WORK = (
    "model_calls", "generated_tokens", "gradient_passes", "refinements", "reused_tokens",
    "tokens_afresh", "visited", "positions", "certified", "speculative_tokens",
    "speculative_scorings", "speculative_passes",
)  # fmt: skip
# Names under which tasks report what went wrong with an answer.
FAILURES = ("no_answer", "grader_timeout", "grader_error")


def mean_costs(run: Run, cost: str = "model_calls") -> Series:
    """Return one of `COSTS` (or any count of the ledger) by problem: the mean of its answers."""
    return run.answers.groupby("problem", sort=False)[cost].mean()


def costs(run: Run) -> dict[str, Estimate]:
    """Return the mean per problem of each of `COSTS`, with `skewed_means`' interval."""
    return skewed_means({cost: mean_costs(run, cost) for cost in COSTS})


def correct_per_cost(run: Run, cost: str = "model_calls") -> Estimate:
    """Return expected right answers per unit of cost: accuracy over mean cost.

    Where no problem's score differs, accuracy has no spread that could be seen: then the bounds are
    accuracy's over those of the mean cost.
    """
    spent = mean_costs(run, cost)
    right = means(run.scores)
    found = ratio([right[problem] for problem in spent.index], spent)
    if len(set(right.values())) != 1 or spent.min() <= 0:
        return found
    rate, price = accuracy(run.scores), skewed_mean(spent)
    least = max(float(spent.min()), price.low)  # t's lower end may lie below every cost
    return replace(found, low=rate.low / price.high, high=rate.high / least)


def cost_ratio(a: Run, b: Run, cost: str = "model_calls") -> Estimate:
    """Return mean cost of a over mean cost of b on the same problems.

    Raises `DataError` when the two do not hold the same problems.
    """
    ours, theirs = mean_costs(a, cost).to_dict(), mean_costs(b, cost).to_dict()
    same_problems(ours, theirs)
    return ratio([ours[problem] for problem in theirs], list(theirs.values()))


def cost_difference(a: Run, b: Run, cost: str = "model_calls") -> Estimate:
    """Return mean cost of a minus mean cost of b on the same problems; else as `cost_ratio`."""
    ours, theirs = mean_costs(a, cost), mean_costs(b, cost)
    same_problems(ours.to_dict(), theirs.to_dict())
    return skewed_mean(ours - theirs)


@dataclass(frozen=True)
class Acceleration:
    """The work that a run was spared, each as a share of what it would have done otherwise."""

    certified: Estimate  # draws from refined distributions that no gradient could change
    cached: Estimate  # gradient passes, against one per step of every refinement
    reused: Estimate  # tokens, against rolling both sides of every judged candidate out afresh
    spared: Estimate  # tokens, against rolling every visited position out from the prompt
    skipped: Estimate  # positions passed without refinement
    speculative: Estimate  # model calls that lookahead threw away; a cost, not a saving


def acceleration(run: Run) -> Acceleration:
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
    work, steps = run.answers.groupby("problem")[list(_WORK)].sum(), int(run.config.get("steps", 0))
    calls, drawn, reused = work["model_calls"], work["generated_tokens"], work["reused_tokens"]
    visited, positions = work["visited"], work["positions"]
    unhurried = work["refinements"] * steps
    afresh = work["tokens_afresh"] * bool(visited.any())
    speculative = work["speculative_tokens"] + work["speculative_scorings"]

    def part(parts: Series, wholes: Series) -> Estimate:
        tried = wholes != 0
        valid = bool(((parts >= 0) & (parts <= wholes)).all())
        return (share if valid else ratio)(parts[tried], wholes[tried])

    return Acceleration(
        certified=part(work["certified"], visited * bool(steps)),
        cached=part(unhurried - work["gradient_passes"], unhurried),
        reused=part(reused, reused + drawn * bool(reused.any())),
        spared=part(afresh - drawn * bool(afresh.any()), afresh),
        skipped=part(positions - visited, positions),
        speculative=part(speculative + 4 * work["speculative_passes"], calls),
    )


def truncated(run: Run) -> Estimate:
    """Return the share of answers that the length limit cut off."""
    return share_of(run.answers, run.answers["stop"] == "length")
